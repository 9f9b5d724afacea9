"""Our resolver behind unbound, dnsmasq and BIND: does mail take its way?

`mailserv -r` explains the route to a domain.  WAYS has what it must say, with
our own name server asked directly, and with each of the others in between:
they change the order of records, spell names anew, cut answers for UDP, and
say SERVFAIL for what went wrong behind them.
"""
import re
import sys

import peers
import wire

NO_HOST, LATER = 68, 75
# Domain of mx.test (or another one): exit status, who is tried.
WAYS = {
    'mxt1': (NO_HOST, ''), 'mxt2': (LATER, ''), 'mxt3': (LATER, ''),
    'mxt3r': (0, '6 10.0.0.1'), 'mxt4': (NO_HOST, ''), 'mxt5': (NO_HOST, ''),
    'mxt6': (0, '5 10.0.0.1'), 'mxt7': (0, '5 10.0.0.2, 6 10.0.0.3'),
    'mxt8': (0, '5 10.0.0.2, 6 10.0.0.3'),
    'mxt9': (0, '5 10.0.0.1, 7 10.0.0.2'),
    'mxt9a': (0, '5 10.0.0.1, 7 10.0.0.2'),
    'mxt9b': (0, '5 10.0.0.1, 7 10.0.0.2'),
    'mxt10': (LATER, ''), 'mxt10r': (0, '6 10.0.0.1'),
    'mxt11': (NO_HOST, ''), 'mxt14': (0, '4 10.0.0.5, 4 10.0.0.6'),
    'mxt15': (0, '10 10.0.0.1, 20 10.0.0.2'),
    'mxt98': (0, '1 10.0.0.5, 1 10.0.0.6'),
    'mxt99': (0, '1 10.0.0.1, 1 10.0.0.2, 1 10.0.0.3, 1 10.0.0.4, '
              '1 10.0.0.5, 1 10.0.0.6, 3 10.0.1.1, 3 2001:db8::1, '
              '3 2001:db8::6'),
    'null': (NO_HOST, ''), 'mxself': (0, '5 10.0.0.7'),
    'mxsix': (0, '5 2001:db8::6'), 'mxboth': (0, '5 10.0.1.1, 5 2001:db8::1'),
    'mxtext': (LATER, ''), 'text': (NO_HOST, ''), 'ten1': (0, '0 10.0.0.1'),
    'six': (0, '0 2001:db8::6'), 'both': (0, '0 10.0.1.1, 0 2001:db8::1'),
    'TEN1': (0, '0 10.0.0.1'), 'self': (NO_HOST, ''), 'alias': (NO_HOST, ''),
    'not-exist': (NO_HOST, ''), 'ali': (0, '10 10.0.0.1, 20 10.0.0.2'),
    'ali3': (0, '10 10.0.0.1, 20 10.0.0.2'), 'alinull': (NO_HOST, ''),
    'alinone': (NO_HOST, ''), 'alitext': (NO_HOST, ''),
    'alifar': (0, '1 10.0.2.1'), 'loop1': (LATER, ''),
    'c1': (0, '10 10.0.0.1, 20 10.0.0.2'),
    'any.wild': (0, '5 10.0.0.4'), 'no.wild': (NO_HOST, ''),
    'ent': (NO_HOST, ''), 'host.broken': (LATER, ''),
    'mx.far.test.': (0, '1 10.0.2.1'),
    'many.far.test.': (0, ', '.join(sorted(f'1 10.0.3.{i}'
                                           for i in range(1, 61)))),
    'nobody.far.test.': (NO_HOST, ''),
    'elsewhere.example.': (LATER, ''),  # REFUSED by the only name server
    'localhost-with-no-dot.': (LATER, ''),  # a label, and no search list
    '[192.0.2.99].': (0, '0 192.0.2.99'),
}


def far_zone():
    text = ('$TTL 60\n@ SOA ns admin 1 7200 900 1209600 30\n@ NS ns\n'
            'ns A 192.0.2.10\nmx MX 1 one\none A 10.0.2.1\n')
    for i in range(1, 61):  # more than 512 octets: TC, then TCP
        text += f'many MX 1 a-mail-host-{i}\na-mail-host-{i} A 10.0.3.{i}\n'
    return peers.write('/run/interop/far.test.zone', text)


def route(asker, domain):
    """Exit status, and who is tried: equal preferences sorted."""
    status, said = asker.say('-r', f'who@{domain}')
    tried = re.findall(r'^(\d+) \S+ (?:\[(\S+)\]|(\S+)):25$', said, re.M)
    return status, ', '.join(f'{hop[0]} {hop[1]}' for hop in sorted(
        tried, key=lambda hop: (int(hop[0]), hop[1]))), said


def main():
    checks = peers.Checks('resolvers')
    zone = f'{peers.TOP}/tests/interop/zones/mx.test.zone'
    names = peers.Mailserv(
        '192.0.2.10', 'names', 'listen_smtp none\nhostname ns\ndomain none\n'
        f'listen_dns 192.0.2.10:53\nzone mx.test {zone}\n'
        f'zone far.test {far_zone()}\n').start()
    between = [peers.Unbound('192.0.2.21', 'unbound', '192.0.2.10').start(),
               peers.Dnsmasq('192.0.2.22', 'dnsmasq', '192.0.2.10').start(),
               peers.Bind('192.0.2.23', 'bind', upstream='192.0.2.10').start()]
    for upstream in [names, *between]:
        asker = peers.Mailserv(
            '192.0.2.13', 'asker', f'resolver {upstream.address}\n'
            'hostname self.mx.test\ndomain none\nsmtp_port 25\n'
            'listen_smtp 192.0.2.13:25\n')
        for round_ in ('asked', 'asked again, out of its cache'):
            for domain, (status, tried) in WAYS.items():
                full = domain[:-1] if domain[-1] == '.' else domain + '.mx.test'
                got, hops, said = route(asker, full)
                checks.check((got, hops) == (status, tried),
                             f'{full} by way of {upstream.name}, {round_}: '
                             f'want {status} {tried}\n{got} {said}')
    sizes = wire.ask(('192.0.2.10', 53), 'many.far.test', 'MX')
    checks.check('TC' in sizes.flags, 'many.far.test fits into UDP')
    for server in [*between, names]:
        server.stop()
    return checks.done()


if __name__ == '__main__':
    sys.exit(main())
