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
