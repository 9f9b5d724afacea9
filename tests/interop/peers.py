"""Servers, ours and others, as the parts of the interoperation tests use them.

A Server has an address of its own, a folder below /run, and ends when it is
told to, or with the namespace that tests/interop/run made.
"""
import os
import shutil
import socket
import subprocess
import sys
import time

TOP = os.path.normpath(os.path.dirname(os.path.abspath(__file__)) + '/../..')
MAILSERV = os.environ['SERVER']
PATIENCE = 30


class Checks:
    """Counts, and says what failed; done() is the exit status."""

    def __init__(self, part):
        self.part, self.passed, self.failed = part, 0, 0

    def check(self, good, text):
        if good:
            self.passed += 1
        else:
            self.failed += 1
            if self.failed <= 20:
                print(f'FAILED  {self.part}: {text}', flush=True)
        return good

    def done(self, text=''):
        print(f'{"FAILED " if self.failed else "ok     "} {self.part}: '
              f'{self.passed} passed, {self.failed} failed {text}', flush=True)
        return int(self.failed > 0)


def write(path, text, mode=0o644):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'w') as f:
        f.write(text)
    os.chmod(path, mode)
    return path


def wait_for(what, text, patience=PATIENCE):
    """Until what() is true; its value."""
    end = time.monotonic() + patience
    while not (value := what()):
        if time.monotonic() > end:
            raise TimeoutError(text)
        time.sleep(0.02)
    return value


def listens(address, port):
    with socket.socket() as sock:
        sock.settimeout(1)
        return sock.connect_ex((address, port)) == 0


class Server:
    """One process; its subclass says how it is configured and called."""
    port = 53

    def __init__(self, address, name):
        self.address, self.name = address, name
        self.dir = f'/run/interop/{name}'
        shutil.rmtree(self.dir, ignore_errors=True)
        os.makedirs(self.dir)
        self.proc = None
        self.command = self.configure()

    def configure(self):
        raise NotImplementedError

    def start(self):
        log = open(f'{self.dir}/log', 'ab')
        self.proc = subprocess.Popen(
            self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            cwd=self.dir, start_new_session=True)
        log.close()
        try:
            wait_for(lambda: listens(self.address, self.port) or
                     self.proc.poll() is not None, f'{self.name} starts')
            if self.proc.poll() is not None:
                raise RuntimeError('it has ended')
        except Exception as error:
            sys.exit(f'{self.name} does not start: {error}\n'
                     f'{self.log()[-2000:]}')
        return self

    def log(self):
        with open(f'{self.dir}/log', errors='replace') as f:
            return f.read()

    def stop(self, how=15):
        if self.proc is not None:
            self.proc.send_signal(how)
            self.proc.wait(PATIENCE)
            self.proc = None


class Mailserv(Server):
    """Ours; `text` is its configuration."""

    def __init__(self, address, name, text, port=53):
        self.text, self.port = text, port
        super().__init__(address, name)

    def configure(self):
        conf = write(f'{self.dir}/conf', f'data_dir {self.dir}/data\n'
                     'run_as nobody\nlisten_pop3 none\n' + self.text)
        return [MAILSERV, '-v', '-c', conf]

    def say(self, *arguments):
        """Run one of the modes that print and go: its status and words."""
        done = subprocess.run(
            [MAILSERV, '-c', f'{self.dir}/conf', *arguments], text=True,
            capture_output=True, timeout=PATIENCE)
        return done.returncode, done.stdout + done.stderr


class Bind(Server):
    """Authoritative for zones {origin: file}, or recursive, asking upstream."""

    def __init__(self, address, name, zones=None, upstream=None):
        self.zones, self.upstream = zones or {}, upstream
        super().__init__(address, name)

    def configure(self):
        zones = ''.join(f'zone "{origin}" {{ type primary; file "{file}"; '
                        'check-names ignore; };\n'
                        for origin, file in self.zones.items())
        forward = f'forward only; forwarders {{ {self.upstream}; }};' \
            if self.upstream else ''
        conf = write(f'{self.dir}/named.conf', f'''
options {{
  directory "{self.dir}"; pid-file none; session-keyfile "{self.dir}/key";
  lock-file none; listen-on {{ {self.address}; }}; listen-on-v6 {{ none; }};
  query-source address {self.address};
  recursion {'yes' if self.upstream else 'no'}; {forward}
  minimal-responses no-auth; notify no; dnssec-validation no;
  empty-zones-enable no; check-integrity no; max-cache-size 32m;
  zero-no-soa-ttl no; max-records-per-type 0;
}};
controls {{ }};
{zones}''')
        return ['named', '-f', '-n', '1', '-c', conf]


class Nsd(Server):
    def __init__(self, address, name, zones):
        self.zones = zones
        super().__init__(address, name)

    def configure(self):
        zones = ''.join(f'zone:\n  name: "{origin}"\n  zonefile: "{file}"\n'
                        for origin, file in self.zones.items())
        conf = write(f'{self.dir}/nsd.conf', f'''
server:
  server-count: 1
  ip-address: {self.address}
  username: ""
  database: ""
  zonesdir: "{self.dir}"
  zonelistfile: "{self.dir}/zone.list"
  xfrdfile: "{self.dir}/xfrd"
  pidfile: "{self.dir}/pid"
  rrl-ratelimit: 0
  minimal-responses: yes
  round-robin: yes
remote-control:
  control-enable: no
{zones}''')
        return ['nsd', '-d', '-c', conf]


class Unbound(Server):
    def __init__(self, address, name, upstream):
        self.upstream = upstream
        super().__init__(address, name)

    def configure(self):
        conf = write(f'{self.dir}/unbound.conf', f'''
server:
  interface: {self.address}
  outgoing-interface: {self.address}
  access-control: 0.0.0.0/0 allow
  do-daemonize: no
  username: ""
  chroot: ""
  directory: "{self.dir}"
  pidfile: ""
  use-syslog: no
  module-config: "iterator"
  do-not-query-localhost: no
  local-zone: "test." nodefault
remote-control:
  control-enable: no
forward-zone:
  name: "."
  forward-addr: {self.upstream}
''')
        return ['unbound', '-d', '-p', '-c', conf]


class Dnsmasq(Server):
    def __init__(self, address, name, upstream):
        self.upstream = upstream
        super().__init__(address, name)

    def configure(self):
        return ['dnsmasq', '--keep-in-foreground', '--conf-file=/dev/null',
                '--user=root', '--no-resolv', '--no-hosts', '--bind-interfaces',
                f'--listen-address={self.address}', f'--server={self.upstream}',
                '--pid-file=']


class Site:
    """A place of the story: who may send through it, and what it takes.

    `local` are the domains whose `users` have Maildirs here, `relayed` those
    whose mail is passed on; clients in `trusted` may send to anywhere.
    """

    def __init__(self, place, address, hostname, local=(), users=(),
                 relayed=(), trusted='192.0.2.254'):
        self.place, self.address, self.hostname = place, address, hostname
        self.local, self.users, self.relayed = local, users, relayed
        self.trusted = trusted


class OurMail(Mailserv):
    def __init__(self, site):
        folder = f'/run/interop/{site.place}.mailserv'
        users = write(f'{folder}.users', ''.join(
            f'{user}:{{PLAIN}}{user}\n' for user in site.users))
        super().__init__(site.address, f'{site.place}.mailserv', (
            f'hostname {site.hostname}\nlisten_smtp {site.address}:25\n'
            f'domain {" ".join(site.local) or "none"}\nsmtp_port 25\n' +
            (f'users {users}\n' if site.users else '') +
            ''.join(f'relay_domain {name}\n' for name in site.relayed) +
            f'relay_from {site.trusted}\nretry 1h\n'), 25)

    def mailbox(self, user):
        return f'{self.dir}/data/mail/{user}/new'

    def waiting(self):
        return int(self.say('-q')[1].splitlines()[-1].split()[0])

    deferred = waiting


class Postfix(Server):
    port = 25

    def __init__(self, site):
        self.site = site
        super().__init__(site.address, f'{site.place}.postfix')

    def configure(self):
        site, base = self.site, self.dir
        for name in ['data'] + ['spool/' + queue for queue in (
                'active bounce corrupt defer deferred flush hold incoming '
                'private saved trace').split()]:
            os.makedirs(f'{base}/{name}', mode=0o700)
            shutil.chown(f'{base}/{name}', 'postfix')
        for name in ['maildrop', 'public']:
            os.makedirs(f'{base}/spool/{name}')
            shutil.chown(f'{base}/spool/{name}', 'postfix', 'postdrop')
            os.chmod(f'{base}/spool/{name}', 0o730)
        os.makedirs(f'{base}/spool/pid')
        os.makedirs(f'{base}/mail')
        shutil.chown(f'{base}/mail', 'nobody')
        boxes = ', '.join(f'{user}@{domain}={user}/'
                          for domain in site.local for user in site.users)
        write(f'{base}/etc/main.cf', f'''
compatibility_level = 3.6
queue_directory = {base}/spool
data_directory = {base}/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
maillog_file = {base}/maillog
maillog_file_prefixes = /run
myhostname = {site.hostname}
mydestination =
alias_maps =
local_recipient_maps =
inet_interfaces = {site.address}
inet_protocols = ipv4
mynetworks = {site.trusted}
relay_domains = {' '.join(site.relayed)}
virtual_mailbox_domains = {' '.join(site.local)}
virtual_mailbox_base = {base}/mail
virtual_mailbox_maps = {f'inline:{{{boxes}}}' if boxes else ''}
virtual_minimum_uid = 1
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
smtpd_peername_lookup = no
smtpd_tls_security_level = none
smtp_tls_security_level = none
''')
        write(f'{base}/etc/master.cf', '''
smtp inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
''')
        return ['/usr/lib/postfix/sbin/master', '-c', f'{base}/etc', '-d']

    def mailbox(self, user):
        return f'{self.dir}/mail/{user}/new'

    def waiting(self, queues=('incoming', 'active', 'deferred')):
        return sum(len(files) for queue in queues
                   for *_, files in os.walk(f'{self.dir}/spool/{queue}'))

    def deferred(self):
        """Tried, and not under way any more: ETRN is for these."""
        return self.waiting(['deferred'])

    def log(self):
        with open(f'{self.dir}/maillog', errors='replace') as f:
            return super().log() + f.read()


class Exim(Server):
    port = 25

    def __init__(self, site):
        self.site = site
        super().__init__(site.address, f'{site.place}.exim')

    def configure(self):
        site, base = self.site, self.dir
        for name in ['spool', 'logs', 'mail']:
            os.makedirs(f'{base}/{name}')
            shutil.chown(f'{base}/{name}', 'Debian-exim', 'Debian-exim')
        # The only place from which it reads as root.
        write('/etc/exim4/exim4.conf', f'''
primary_hostname = {site.hostname}
domainlist here = {' : '.join(site.local)}
spool_directory = {base}/spool
log_file_path = {base}/logs/%slog
local_interfaces = {site.address}
daemon_smtp_ports = 25
disable_ipv6
host_lookup =
tls_advertise_hosts =
keep_environment =
rfc1413_query_timeout = 0s
acl_smtp_rcpt = rcpt
acl_smtp_data = accept
acl_smtp_etrn = accept
smtp_accept_queue_per_connection = 0
smtp_etrn_command = /usr/sbin/exim4 -Rff {(*site.relayed, '-')[0]}
begin acl
rcpt:
  require verify = recipient
  accept domains = {' : '.join([*site.local, *site.relayed])}
  accept hosts = {site.trusted}
  deny message = relay not permitted
begin routers
here:
  driver = accept
  domains = +here
  local_parts = {' : '.join(site.users)}
  transport = maildir
there:
  driver = dnslookup
  domains = !+here
  transport = smtp
  no_more
begin transports
maildir:
  driver = appendfile
  directory = {base}/mail/$local_part_data
  maildir_format
  user = Debian-exim
smtp:
  driver = smtp
  interface = {site.address}
  hosts_try_fastopen =
begin retry
* * F,4d,1s
''')
        return ['exim4', '-bdf']

    def mailbox(self, user):
        return f'{self.dir}/mail/{user}/new'

    def deferred(self):
        return len({line.split()[2] for line in self.log().splitlines()
                    if ' == ' in line})

    def waiting(self):
        return sum(name.endswith('-H') for *_, files in
                   os.walk(f'{self.dir}/spool/input') for name in files)

    def log(self):
        with open(f'{self.dir}/logs/mainlog', errors='replace') as f:
            return super().log() + f.read()
