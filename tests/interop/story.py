"""The story with others in its places: MAIL1 is down, MAIL2 queues, MAIL1 is
back, the queue drains.

SENDER, MAIL2 and MAIL1 are ours but for one, which is Postfix or Exim; the
name server, which all of them ask, is ours.  Every message must arrive octet
for octet, once, in every mailbox it was meant for; what MAIL1 refuses must
come back to its sender as a report.
"""
import glob
import itertools
import smtplib
import sys

import peers
import reports

HEADER = '''From: Eve <eve@sender.test>
To: alice@lab.test
Subject: {name}
Date: Tue, 24 Nov 2026 12:00:00 +0000
Message-ID: <{name}@sender.test>
'''
BODIES = {
    'plain': 'Hello.\n',
    'dots': '.\n..\n...\n.a\n \n.\n\n.\n',
    'empty': '',
    'blanks': '\n\n \n\t\n\n',
    'long': 'x' * 998 + '\n' + '.' + 'y' * 997 + '\n',
    'eight': 'caf\xe9 \xff\x80\n',
    'from': 'From here to there\n>From there\nFrom\n',
    'unended': 'no line end',
    'edges': ''.join('.' + 'z' * n + '\n' for n in range(900)),
}
USERS = ['alice', 'bob']


def messages(quick):
    """Name, octets as they are to lie in a mailbox."""
    bodies = dict(BODIES)
    bodies['large'] = ('.' + 'large ' * 12 + '\n') * (5000 if quick else 60000)
    for i in range(10 if quick else 300):
        bodies[f'n{i}'] = f'number {i}\n'
    for name, body in bodies.items():
        whole = HEADER.format(name=name) + '\n' + body
        whole += '' if whole.endswith('\n') else '\n'
        yield name, whole.encode('latin-1')


def send(sender, mail):
    with smtplib.SMTP(sender.address, source_address=(sender.address, 0)
                      ) as client:
        for _, text in mail:
            client.sendmail('eve@sender.test', [f'{u}@lab.test' for u in USERS],
                            text.replace(b'\n', b'\r\n'), ['BODY=8BITMIME'])
        client.sendmail('eve@sender.test', ['nobody@lab.test'],
                        mail[0][1].replace(b'\n', b'\r\n'))


def files(server, user):
    found = []
    for path in glob.glob(server.mailbox(user) + '/*'):
        with open(path, 'rb') as f:
            found.append(f.read())
    return found


def check_mailbox(checks, story, server, user, mail):
    """Every message once: a trace, then what was sent."""
    found = files(server, user)
    checks.check(len(found) == len(mail),
                 f'{story}: {user} has {len(found)} of {len(mail)}')
    for name, text in mail:
        same = [got for got in found if got.endswith(text)]
        checks.check(len(same) == 1, f'{story}: {user}: {name} came '
                     f'{len(same)} times as it was sent')
        trace = same[0][:-len(text)] if same else b''
        checks.check((b'\n' + trace).count(b'\nReceived: ') == 3 and
                     b'\n\n' not in trace and b'\r' not in trace,
                     f'{story}: {user}: {name}: the trace is {trace}')


def check_report(checks, story, server):
    """The one report: on nobody@lab.test."""
    found = files(server, 'eve')
    if not checks.check(len(found) == 1, f'{story}: {len(found)} reports'):
        return
    try:
        _, recipients, original = reports.read_report(found[0])
    except ValueError as error:
        checks.check(False, f'{story}: {error}\n{found[0].decode()}')
        return
    told = [reports.facts(recipient) for recipient in recipients]
    checks.check([fact[:2] for fact in told] == [('nobody@lab.test', 'failed')]
                 and told[0][2].startswith('5.'), f'{story}: {told}')
    checks.check('<plain@sender.test>' in original,
                 f'{story}: the report is on another message')


def stage(kind, place):
    """MAIL1, MAIL2 and SENDER: one of the three is of another kind."""
    sites = [
        peers.Site('MAIL1', '192.0.2.11', 'mail1.lab.test', ['lab.test'],
                   USERS),
        peers.Site('MAIL2', '192.0.2.12', 'mail2.lab.test',
                   relayed=['lab.test']),
        peers.Site('SENDER', '192.0.2.13', 'mail.sender.test', ['sender.test'],
                   ['eve'], trusted='192.0.2.13')]
    return [(kind if site.place == place else peers.OurMail)(site)
            for site in sites]


def play(checks, story, servers, mail):
    mail1, mail2, sender = servers
    mail2.start()
    sender.start()
    send(sender, mail)
    peers.wait_for(lambda: mail2.deferred() == len(mail) + 1 and
                   sender.waiting() == 0, 'MAIL2 has all of it')
    if isinstance(mail2, peers.OurMail):
        mail2.stop(9)           # what it has answered 250 for, it keeps
        mail2.start()
        peers.wait_for(lambda: 'deferred' in mail2.log().split(' ready ')[-1],
                       'MAIL2 has tried again')
    mail1.start()
    with smtplib.SMTP(mail2.address) as client:
        client.ehlo('mail1.lab.test')
        code, text = client.docmd('ETRN', 'lab.test')
        checks.check(250 <= code <= 253, f'{story}: ETRN: {code} {text}')
    peers.wait_for(lambda: len(files(mail1, 'bob')) >= len(mail) and
                   len(files(sender, 'eve')) > 0 and
                   mail2.waiting() + sender.waiting() == 0, 'all is drained')
    for user in USERS:
        check_mailbox(checks, story, mail1, user, mail)
    check_report(checks, story, sender)


def main():
    checks = peers.Checks('story')
    mail = list(messages('--quick' in sys.argv))
    zones = f'{peers.TOP}/tests/interop/zones'
    names = peers.Mailserv(
        '192.0.2.10', 'names', 'listen_smtp none\nhostname ns\ndomain none\n'
        'listen_dns 192.0.2.10:53\n' + ''.join(
            f'zone {zone} {zones}/{zone}.zone\n'
            for zone in ['lab.test', 'sender.test'])).start()
    for kind, place in itertools.product(
            [peers.Postfix, peers.Exim], ['MAIL1', 'MAIL2', 'SENDER']):
        story, servers = f'{kind.__name__} as {place}', stage(kind, place)
        try:
            play(checks, story, servers, mail)
        except TimeoutError as error:
            checks.check(False, f'{story}: never: {error}' + ''.join(
                f'\n{server.name}: {server.log()[-1500:]}'
                for server in servers if server.proc))
        for server in servers:
            server.stop()
    names.stop()
    return checks.done(f'({len(mail)} messages, six times)')


if __name__ == '__main__':
    sys.exit(main())
