"""What is measured: ours and its peers, started and asked what they use.

They build on the servers of the interoperation tests, whose folder is on the
disk here.  Each has its own address of loopback, and the ports of the world.
"""
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

TOP = os.path.normpath(os.path.dirname(os.path.abspath(__file__)) + '/../..')
sys.path.insert(0, TOP + '/tests/interop')
import peers  # noqa: E402

ROOT = os.environ['ALONE'] == 'no'
HERE = TOP + '/tests/bench'
FAR, DEAD, SILENT = '127.0.0.20', '127.0.0.21', '127.0.0.22'    # next hosts
# Who receives: u, one for each measurement; who fetches: p, t, o, b, f.
USERS = [f'u{i}' for i in range(1, 81)] + [f'p{i}' for i in range(1, 21)] + \
    [f'{kind}{i}' for kind in 'tob' for i in (1, 2, 3)] + ['f1']


# In the names of folders: run decides where on the disk they lie by the name.
TAG = os.urandom(2).hex()


def make_mailboxes(folder):
    """Empty ones for all, of the user nobody."""
    for user in USERS:
        for name in ['tmp', 'new', 'cur']:
            os.makedirs(f'{folder}/{user}/{name}', mode=0o700)
    give_to_nobody(folder)


def give_to_nobody(folder):
    """The user as whom all of them deliver and read, where there is one."""
    if ROOT:
        subprocess.run(['chown', '-R', 'nobody:nogroup', folder], check=True)
    subprocess.run(['chmod', '-R', 'u=rwX,go=', folder], check=True)


class Measured:
    """A mixin: what the processes of a peers.Server use."""
    rootless = False    # can it run without root?

    def tree(self):
        """The server's process, and all that descend from it."""
        parent = {}
        for name in os.listdir('/proc'):
            if name.isdigit():
                fields = stat_of(name)
                if fields:
                    parent[int(name)] = int(fields[1])
        found = {self.proc.pid}
        while True:
            more = {pid for pid, of in parent.items() if of in found} - found
            if not more:
                return found
            found |= more

    def cpu(self):
        """Milliseconds so far, those of children that have ended included."""
        total = 0
        for pid in self.tree():
            fields = stat_of(pid)
            if fields:
                with open(f'/proc/{pid}/schedstat') as f:
                    total += int(f.read().split()[0]) / 1e6
                total += sum(map(int, fields[13:15])) * 1e3 / \
                    os.sysconf('SC_CLK_TCK')
        return total

    def memory(self, what='VmRSS'):
        """KiB of the first process: VmRSS, or VmHWM for the highest so far."""
        with open(f'/proc/{self.proc.pid}/status') as f:
            return int(re.search(what + r':\s+(\d+)', f.read())[1])


def stat_of(pid):
    """The fields behind the name in /proc/PID/stat: state, parent, ..."""
    try:
        with open(f'/proc/{pid}/stat') as f:
            return f.read().rpartition(')')[2].split()
    except OSError:
        return None


class Ours(Measured, peers.Server):
    """mailserv; `text` is more of its configuration."""
    rootless = True
    port = 25

    def __init__(self, part, address='127.0.0.11', text=''):
        self.text = text
        super().__init__(address, f'{part}{TAG}.ours')

    def configure(self):
        zones = ''.join(
            f'zone {zone} ' + peers.write(
                f'{self.dir}/{zone}.zone', '$TTL 3600\n@ SOA ns root 1 1h 1h 1d'
                f' 1h\n@ NS ns\n@ MX 10 mx\nns A 127.0.0.1\nmx A {host}\n') +
            '\n' for zone, host in [('far.test', FAR), ('dead.test', DEAD),
                                    ('silent.test', SILENT)])
        users = peers.write(f'{self.dir}/users', ''.join(
            f'{user}:{{PLAIN}}{user}\n' for user in USERS))
        make_mailboxes(f'{self.dir}/data/mail')
        give_to_nobody(f'{self.dir}/data')
        conf = peers.write(f'{self.dir}/conf', f'''
hostname here.test
data_dir {self.dir}/data
{'run_as nobody' if ROOT else ''}
listen_smtp {self.address}:25
listen_pop3 {self.address}:110
listen_dns {self.address}:53
resolver {self.address}:53
domain here.test
users {users}
smtp_port 25
max_clients 20000
{zones}{self.text}''')
        return [peers.MAILSERV, '-c', conf]

    def mailbox(self, user):
        return f'{self.dir}/data/mail/{user}/new'

    def deferred(self):
        return sum(name.endswith('.env')
                   for name in os.listdir(f'{self.dir}/data/queue'))

    def hurry(self):
        self.proc.send_signal(signal.SIGUSR1)


class Postfix(Measured, peers.Postfix):
    def __init__(self, part):
        super().__init__(peers.Site(
            part + TAG, '127.0.0.12', 'here.test', ['here.test'], USERS,
            trusted='127.0.0.0/8'))

    def configure(self):
        command = super().configure()
        make_mailboxes(f'{self.dir}/mail')
        with open(f'{self.dir}/etc/main.cf', 'a') as to, \
                open(f'{HERE}/postfix.cf') as tuning:
            to.write(tuning.read())
        return command

    def hurry(self):
        subprocess.run(['postqueue', '-c', f'{self.dir}/etc', '-f'], check=True)


class Exim(Measured, peers.Exim):
    def __init__(self, part):
        super().__init__(peers.Site(
            part + TAG, '127.0.0.16', 'here.test', ['here.test'], USERS,
            trusted='127.0.0.0/8'))

    def configure(self):
        command = super().configure()
        conf = '/etc/exim4/exim4.conf'
        with open(f'{HERE}/exim.cf') as tuning, open(conf) as as_is:
            text = tuning.read() + as_is.read()
        peers.write(conf, text)
        make_mailboxes(f'{self.dir}/mail')
        subprocess.run(['chown', '-R', 'Debian-exim:', f'{self.dir}/mail'],
                       check=True)
        return command


class Dovecot(Measured, peers.Server):
    port = 110

    def __init__(self, part):
        super().__init__('127.0.0.14', f'{part}{TAG}.dovecot')

    def configure(self):
        peers.write(f'{self.dir}/users', ''.join(
            f'{user}:{user}\n' for user in USERS))
        make_mailboxes(f'{self.dir}/mail')
        with open(f'{HERE}/dovecot.conf') as f:
            text = f.read().replace('@DIR@', self.dir)
        return ['dovecot', '-F', '-c',
                peers.write(f'{self.dir}/dovecot.conf', text)]

    def mailbox(self, user):
        return f'{self.dir}/mail/{user}/new'


class Nsd(Measured, peers.Nsd):
    rootless = True


class Bind(Measured, peers.Bind):
    rootless = True


class Sink(Measured, peers.Server):
    """Postfix's smtp-sink, which says 250 and forgets; `count` messages."""
    rootless = True
    port = 25

    def __init__(self, part, address='127.0.0.13'):
        self.count = 0
        super().__init__(address, f'{part}{TAG}.sink-{address}')

    def configure(self):
        return ['smtp-sink', '-c', *(['-u', 'nobody'] if ROOT else []),
                '-m', '4096', f'{self.address}:25', '4096']

    def start(self):
        """Its counters are written to the log, over and over: CR, no LF."""
        super().start()
        self.ended = threading.Event()
        threading.Thread(target=self.follow, daemon=True).start()
        return self

    def follow(self):
        with open(f'{self.dir}/log', 'rb') as log:
            tail = b''
            while not self.ended.is_set():
                tail = tail[-200:] + log.read()
                found = re.findall(rb'mesg=(\d+)\s', tail)
                if found:
                    self.count = int(found[-1])
                time.sleep(0.005)

    def stop(self, how=15):
        self.ended.set()
        super().stop(how)
