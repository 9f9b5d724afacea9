"""The same zones in ours, NSD and BIND: do they give the same answers?

Every name of the zones, and names near them, are asked for the types KINDS, by
UDP with and without EDNS and by TCP (--quick: 3,000 such questions); names of
zones drawn at random by UDP with EDNS.  Where two answers may differ,
expected() knows the reason; anything else is a failure.
"""
import itertools
import random
import sys

import peers
import wire

ZONES = ['house.test', 'sub.house.test', 'other.test']
KINDS = ['A', 'AAAA', 'MX', 'NS', 'SOA', 'CNAME', 'TXT', 'SRV', 'PTR',
         'TYPE65280', 'CAA']
BIG = 'big.test'


def zone_files():
    """The zones of the folder, and one whose answers do not fit."""
    files = {zone: f'{peers.TOP}/tests/interop/zones/{zone}.zone'
             for zone in ZONES}
    text = ('$TTL 300\n@ SOA ns admin 1 7200 900 1209600 60\n@ NS ns\n'
            'ns A 192.0.2.53\n')
    for count in [1, 20, 28, 29, 30, 60, 75, 76, 77, 200]:
        text += ''.join(f'a{count} A 10.0.{i // 250}.{i % 250}\n'
                        for i in range(count))
        text += ''.join(f'mx{count} MX {i} host{i}.mx\n' for i in range(count))
        text += ''.join(f'cut{count} NS ns{i}.cut{count}\n'
                        f'ns{i}.cut{count} A 10.1.0.{i}\n'
                        for i in range(min(count, 13)))
    files[BIG] = peers.write(f'/run/interop/{BIG}.zone', text)
    return files


def draw_zone(zone, rand):
    """A zone of few labels, in which everything meets everything: wildcards,
    aliases, delegations, names between names."""
    def draw_name():
        return '.'.join(rand.choice(['a', 'b', '*'] if i == 0 else ['a', 'b'])
                        for i in range(rand.randint(1, 4)))

    records = {}
    for _ in range(rand.randint(3, 12)):
        name, kind = draw_name(), rand.choice(['A', 'A', 'MX', 'TXT', 'CNAME',
                                               'NS'])
        taken = records.setdefault(name, {})
        if 'CNAME' in taken or kind == 'CNAME' and taken or \
                kind == 'NS' and '*' in name:
            continue            # an alias stands alone (RFC 1034 3.6.2)
        target = draw_name().replace('*', 'b')
        taken[kind] = {'A': '192.0.2.7', 'TXT': 'text', 'MX': f'5 {target}',
                       'CNAME': target, 'NS': f'ns.{name}'}[kind]
        if kind == 'NS' and rand.random() < 0.7:
            records.setdefault(f'ns.{name}', {})['A'] = '192.0.2.8'
    text = '$TTL 300\n@ SOA ns admin 1 7200 900 1209600 60\n@ NS ns\n' \
        'ns A 192.0.2.53\n'
    text += ''.join(f'{name} {kind} {data}\n' for name, set_ in records.items()
                    for kind, data in set_.items())
    return peers.write(f'/run/interop/{zone}.zone', text)


def drawn_questions(zones):
    """All names of up to four labels, present or not."""
    for zone in zones:
        for count in range(1, 5):
            for labels in itertools.product(['a', 'b', 'x', '*'],
                                            repeat=count):
                for kind in ['A', 'MX', 'NS', 'CNAME']:
                    yield '.'.join(labels + (zone,)), kind


def owners(zone, file):
    """The names that a zone file has, relative ones made absolute."""
    with open(file) as f:
        for line in f:
            word = line.split()[0] if line.strip() else ''
            if line[0].isspace() or word[:1] in ('', ';', '$'):
                continue
            yield zone if word == '@' else f'{word}.{zone}'


def near(name, rand):
    """A name, and those around it: where answers change."""
    yield name
    yield 'nothing.' + name
    yield '*.' + name
    yield 'a.b.' + name
    yield name.split('.', 1)[1] if '.' in name else '.'
    yield ''.join(rand.choice([c.lower(), c.upper()]) for c in name)
    label, _, rest = name.partition('.')
    yield f'{label}x.{rest}'


def questions(files, quick):
    """All pairs of a near name and a type, or, where it must be quick, some."""
    rand = random.Random(6)
    names = {n for zone, file in files.items() for owner in owners(zone, file)
             for n in near(owner, rand) if len(n) < 254}
    names |= {'.', 'test', 'example.org', 'www.example.org'}
    pairs = list(itertools.product(sorted(names), KINDS))
    return rand.sample(pairs, 3000) if quick else pairs


def told(answer, with_additional):
    """What of an answer must be equal, as text."""
    text = f'{answer.rcode} {answer.flags} edns {answer.version}'
    if 'TC' in answer.flags:    # ask by TCP: what came is not looked at
        return text
    text += f'\n    answer {answer.answer}\n    authority {answer.authority}'
    if with_additional:
        text += f'\n    additional {answer.additional}'
    return text


def is_referral(answer):
    return any(' NS ' in line for line in answer.authority)


def zone_of(name):
    """The nearest of the zones that all have."""
    return max((z for z in ZONES + [BIG] if ('.' + name).endswith('.' + z)),
               key=len, default='')


def aliases(answer):
    """The names that lead to another one, and where."""
    return {line.split()[0]: line.split()[4].rstrip('.')
            for line in answer.answer if ' CNAME ' in line}


def expected(ours, theirs, options):
    """The reason why two answers may differ, or None."""
    chain, longer = aliases(ours), aliases(theirs)
    if 'TC' in theirs.flags and 'TC' not in ours.flags and \
            ours.question != ours.question.lower():
        return ('TC, because the owner is spelt as in the zone, not as in the '
                'question, and that takes room')
    if options.get('edns') == 512 and not is_referral(ours) and \
            told(ours, False) == told(theirs, False) and theirs.additional == []:
        return 'no additional records at all in 512 octets'
    if chain and theirs.rcode in (ours.rcode, 'SERVFAIL') and \
            set(ours.answer) <= set(theirs.answer) and \
            all(target + '.' in longer for target in longer.values()):
        return ('an alias that leads to itself: RFC 1034 knows no rcode for '
                'it, nor where to cut it')
    if any(zone_of(name[:-1]) != zone_of(target) != ''
           for name, target in chain.items()) and not theirs.authority and \
            set(theirs.answer) < set(ours.answer) | {''}:
        return ('an alias into another of its zones is not followed: RFC 1034 '
                '4.3.2 step 3a says to')
    if is_referral(ours) and told(ours, False) == told(theirs, False) and \
            set(theirs.additional) < set(ours.additional):
        return ('addresses of name servers beside the delegation are left '
                'out: RFC 9471 3.2 asks for those below it')
    fewer = set(ours.additional) - set(theirs.additional)
    if not is_referral(ours) and told(ours, False) == told(theirs, False) and \
            set(theirs.additional) < set(ours.additional) and \
            all(line.split()[0].split('.')[-3][0] == 'd' for line in fewer):
        return ('addresses that a delegation hides are left out beside MX: '
                'RFC 1034 4.3.2 step 6 leaves that open')
    more = set(theirs.additional) - set(ours.additional)
    if told(ours, False) == told(theirs, False) and more and \
            set(ours.additional) <= set(theirs.additional) and \
            not any(line.split()[0][:-1] in written for line in more):
        return ('addresses of name servers or mail hosts are made from a '
                'wildcard: no RFC asks for that')
    return None


differences = {}
written = set()                 # the names that the zone files have


def compare(checks, servers, question, options):
    ours, *others = [wire.ask((server.address, 53), *question, **options)
                     for server in servers]
    name, kind = question
    checks.check(ours.question == wire.query(name, kind)[12:],
                 f'{name} {kind}: the question is not as it was asked')
    for server, theirs in zip(servers[1:], others):
        # NSD adds nothing but glue, as it is configured.
        whole = server.name != 'nsd' or is_referral(theirs)
        mine, its = told(ours, whole), told(theirs, whole)
        reason = expected(ours, theirs, options) if mine != its else None
        if reason:
            reason = f'{server.name}: {reason}'
            differences[reason] = differences.get(reason, 0) + 1
        checks.check(mine == its or reason,
                     f'{name} {kind} {options}\n  ours {mine}\n'
                     f'  {server.name} {its}')


# Where ours may stand alone: the header() that it must have then, and why.
REFUSED = ('80050001000000000000', 'nobody asks for that')
NO_NOTIFY = ('a0040000000000000000', 'NOTIMP: ours has no NOTIFY')
NO_OPCODE = ('e0040000000000000000',
             'NOTIMP; NSD keeps the Z bit, BIND says FORMERR')


def odd_queries():
    """What is no plain question: (name, octets, how ours may stand alone)."""
    name = 'web.house.test'
    plain, opt = wire.query(name, 'A'), wire.query(name, 'A', edns=1232)
    body = plain[12:]
    yield 'EDNS version 1', wire.query(name, 'A', edns=1232, version=1), None
    yield 'EDNS of 1 octet', wire.query(name, 'A', edns=1), None
    yield 'two OPT', opt[:10] + b'\0\2' + opt[12:] + opt[-11:], None
    yield 'class CH', wire.query(name, 'A', cls=3), None
    yield 'class ANY', wire.query(name, 'A', cls=255), REFUSED
    for opcode in [1, 2, 3, 4, 5, 6, 15]:
        yield f'opcode {opcode}', wire.query(name, 'A', flags=opcode << 11), \
            NO_NOTIFY if opcode == 4 else None
    yield 'no question', plain[:4] + b'\0\0' + plain[6:12], None
    yield 'two questions', plain[:4] + b'\0\2' + plain[6:] + body, None
    yield 'transfer', wire.query('house.test', 'AXFR'), REFUSED
    yield 'transfer', wire.query('house.test', 'IXFR'), None
    yield 'ANY', wire.query('house.test', 'ANY'), None
    yield 'type 0', plain[:-4] + b'\0\0\0\1', None
    yield 'type MAILA', plain[:-4] + b'\0\xfe\0\1', REFUSED
    yield 'type OPT', plain[:-4] + b'\0\x29\0\1', None
    yield 'flags TC, AD, CD, Z', wire.query(name, 'A', flags=0x0270), None
    yield 'octets behind it', plain + b'xx', None
    yield 'half a question', plain[:20], None
    yield 'a header', plain[:12], None
    yield 'less than a header', plain[:11], None
    yield 'a reply', wire.query(name, 'A', flags=wire.QR), None
    yield 'a label of 64', plain[:12] + b'\x40' + b'a' * 64 + body[-5:], None
    yield 'a pointer to itself', plain[:12] + b'\xc0\x0c' + body[-4:], None
    yield 'RFC 9267 2, forward', plain[:12] + b'\xc0\x20' + body[-4:], None
    yield 'text', b'default send str', NO_OPCODE


def header(server, data):
    """Flags, rcode and counts of the reply, in hexadecimal."""
    try:
        return wire.exchange((server.address, 53), data, patience=0.5)[2:12
                                                                     ].hex()
    except TimeoutError:
        return 'silence'


def compare_odd(checks, servers):
    """Ours does as at least one of the others does, or as it must alone."""
    for name, data, alone in odd_queries():
        ours, *others = [header(server, data) for server in servers]
        checks.check(ours == alone[0] if alone else ours in others,
                     f'{name}: ours {ours}, others {others}, alone {alone}')


def compare_turns(checks, server):
    """Equal records: each comes first in its turn."""
    first = [wire.exchange((server.address, 53),
                           wire.query('web.house.test', 'A'))[-1 - 2 * 16]
             for _ in range(12)]
    checks.check([first.count(octet) for octet in (81, 82, 83)] == [4, 4, 4],
                 f'web.house.test in turn: {first}')


def main():
    quick = '--quick' in sys.argv
    checks = peers.Checks('names')
    files = zone_files()
    seed = 6 if quick else random.randrange(1 << 32)
    drawn = {f'd{i}.test': draw_zone(f'd{i}.test', random.Random(seed + i))
             for i in range(2 if quick else 20)}
    zones = {**files, **drawn}
    for zone, file in zones.items():
        written.update(name.lower() for name in owners(zone, file))
    servers = [
        peers.Mailserv('192.0.2.10', 'ours', 'listen_smtp none\n'
                       'hostname ns.house.test\ndomain none\n'
                       'listen_dns 192.0.2.10:53\n' +
                       ''.join(f'zone {z} {f}\n' for z, f in zones.items())),
        peers.Nsd('192.0.2.21', 'nsd', zones),
        peers.Bind('192.0.2.22', 'bind', zones)]
    for server in servers:
        server.start()
    pairs = questions(files, quick)
    for question in pairs:
        for way in [{}, {'edns': 1232}, {'tcp': True},
                    {'edns': 512, 'flags': wire.RD}]:
            compare(checks, servers, question, way)
    for question in drawn_questions(drawn):
        compare(checks, servers, question, {'edns': 1232})
    compare_odd(checks, servers)
    compare_turns(checks, servers[0])
    for server in servers:
        server.stop()
    listed = ''.join(f'\n        {n} times: {reason}'
                     for reason, n in sorted(differences.items()))
    return checks.done(f'({len(pairs)} questions, and drawn zones from '
                       f'{seed})' + listed)


if __name__ == '__main__':
    sys.exit(main())
