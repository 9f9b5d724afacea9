"""Reports of ours, read by another implementation: Python's email.

One mailserv writes to hosts that refuse, that do not exist, and that never
answer; what it then tells the sender must be a multipart/report (RFC 3462)
with a delivery status (RFC 3464) in which a program finds what it needs.
"""
import email
import email.policy
import email.utils
import glob
import re
import smtplib
import sys

import peers

ORIGINAL = '''From: Eve <eve@site.test>
To: you
Subject: {subject}
Message-ID: <{ident}@site.test>
X-Long: {long}
X-Boundary: --
 --0123456789abcdef--
X-Eight: caf\xe9

--0123456789abcdef
The body, which a report does not repeat: secret.
'''
# Recipient: the actions that are reported, in this order, and the status.
TELLS = {
    'x@none.site.test': [('failed', '5.1.2')],
    'x@null.site.test': [('failed', '5.1.10')],
    'nobody@good.site.test': [('failed', '5.1.1')],
    'x@dead.site.test': [('delayed', '4.4.1'), ('failed', '4.4.7')],
}
ZONE = '''$TTL 60
@ SOA ns admin 1 7200 900 1209600 30
@ NS ns
ns A 127.0.0.31
@ MX 5 ns
null MX 0 .
good A 127.0.0.32
dead A 127.0.0.33
'''


def read_report(data):
    """What a program learns from a report: its headers, its recipients, and
    what it holds of the original; ValueError: it is no good report."""
    def want(good, text):
        if not good:
            raise ValueError(text)

    whole = email.message_from_bytes(data, policy=email.policy.default)
    want(all(octet < 127 for octet in data), 'it is not 7-bit')
    want(whole.get_content_type() == 'multipart/report', 'no report')
    want(whole['content-type'].params['report-type'] == 'delivery-status',
         'no report on delivery')
    for part in whole.walk():
        want(not part.defects, f'{part.get_content_type()}: {part.defects}')
    text, status, original = whole.iter_parts()
    want(text.get_content_type() == 'text/plain', 'no text')
    want(status.get_content_type() == 'message/delivery-status', 'no status')
    want(original.get_content_type() in ('text/rfc822-headers',
                                         'message/rfc822'), 'no original')
    message, *recipients = status.get_payload()
    want(re.match(r'dns; *\S+$', message['reporting-mta']), 'Reporting-MTA')
    arrived = message['arrival-date']
    want(arrived is None or email.utils.parsedate_to_datetime(arrived),
         'Arrival-Date')
    want(recipients, 'no recipient')
    for told in recipients:
        want(re.match(r'rfc822; *\S+@\S+$', told['final-recipient']),
             'Final-Recipient')
        want(re.match(r'[245]\.\d{1,3}\.\d{1,3}', told['status']), 'Status')
        want(told['action'] in ('failed', 'delayed'), 'Action')
        want((told['will-retry-until'] is not None) ==
             (told['action'] == 'delayed'), 'Will-Retry-Until')
    return whole, recipients, original.as_string()


def facts(recipient):
    """Address, action and status of one recipient."""
    return (recipient['final-recipient'].split(';')[1].strip(),
            recipient['action'], recipient['status'].split()[0])


def check_report(checks, data):
    """What ours writes, beyond what every good report has."""
    whole, recipients, original = read_report(data)
    checks.check(b'\nArrival-Date: ' in data, 'no Arrival-Date')
    for name, pattern in {'return-path': r'<>$', 'from': r'.*MAILER-DAEMON@',
                          'to': r'.*eve@site\.test', 'message-id': r'<\S+>$',
                          'auto-submitted': r'auto-replied$',
                          'date': r'\w{3}, ', 'mime-version': r'1\.0$'}.items():
        checks.check(re.match(pattern, str(whole[name])),
                     f'{name}: {whole[name]}')
    checks.check('secret' not in original and 'X-Long: ' in original and
                 '<1@site.test>' in original, f'the original: {original}')
    for recipient in recipients:
        until = recipient['will-retry-until']
        checks.check(until is None or
                     email.utils.parsedate_to_datetime(until), 'the date')
        diagnostic = recipient['diagnostic-code']
        checks.check(diagnostic is None or
                     re.match(r'smtp; 550 5\.1\.1 ', diagnostic), 'the reason')
    return [facts(recipient) for recipient in recipients]


def main():
    checks = peers.Checks('reports')
    zone = peers.write('/run/interop/site.test.zone', ZONE)
    users = peers.write('/run/interop/users', 'eve:{PLAIN}eve\n')
    site = peers.Mailserv(
        '127.0.0.31', 'site', 'hostname ns.site.test\ndomain site.test\n'
        f'users {users}\nlisten_smtp 127.0.0.31:25\nsmtp_port 25\n'
        f'zone site.test {zone}\nretry 1s\nwarn_after 1s\nexpire 4s\n', 25)
    good = peers.Mailserv(
        '127.0.0.32', 'good', 'hostname good.site.test\nlisten_smtp '
        f'127.0.0.32:25\nusers {users}\n', 25)
    site.start()
    good.start()
    text = ORIGINAL.format(subject='hello', ident=1, long='x' * 980).replace(
        '\n', '\r\n').encode('latin-1')
    with smtplib.SMTP('127.0.0.31') as client:
        for to in TELLS:
            client.sendmail('eve@site.test', [to], text, ['BODY=8BITMIME'])
    folder = f'{site.dir}/data/mail/eve/new/*'
    wanted = sum(len(told) for told in TELLS.values())
    peers.wait_for(lambda: len(glob.glob(folder)) >= wanted, site.log()[-2000:])
    found = {to: [] for to in TELLS}
    for path in sorted(glob.glob(folder)):
        with open(path, 'rb') as f:
            for address, action, status in check_report(checks, f.read()):
                found[address].append((action, status))
    checks.check(found == TELLS, f'{found}')
    site.stop()
    good.stop()
    return checks.done()


if __name__ == '__main__':
    sys.exit(main())
