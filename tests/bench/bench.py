"""mailserv beside its peers: what is measured, how, and what is wanted.

    bench.py [--quick] [PART...]       called by tests/bench/run

Every system is asked in every round, in turn; the table shows medians, and
beside each the half of the span between the lowest and the highest.
"""
import contextlib
import itertools
import os
import socket
import statistics
import subprocess
import sys
import textwrap
import threading
import time

import systems
from systems import peers

ROUNDS = 3
FAR_BELOW = 0.5         # of what is wanted: only that makes the run fail
LESS_IS_BETTER = {'ms', 's', 'KiB', 'MiB', 'ms CPU/msg', 'at once'}

# What, unit, beside whom (or a limit, as a number), how many times as good it
# is to be: more for rates, less for times and memory.  0: just to be seen.
R20, R20_CLIENT, R20_ONE, R1, R100, RBIG = (
    '20 sessions, 1 KiB', '20 sessions, 1 KiB: the client',
    '20 sessions, 1 message each', '1 session, 1 KiB', '100 sessions, 1 KiB',
    '20 sessions, 1 MiB')
TABLE = {
    'smtp': [
        (R20, 'msg/s', 'postfix', 6),
        (R20, 'msg/s', 'smtp-sink', 0.4),
        (R20, 'msg/s', 'disk', 0.4),
        (R20, 'msg/s', 'exim', 0),
        (R20, 'ms CPU/msg', 'postfix', 10),
        (R20_CLIENT, 'ms CPU/msg', 'the server', 1),
        (R20_ONE, 'msg/s', 'postfix', 6),
        (R20_ONE, 'msg/s', 'smtp-sink', 0.4),
        (R1, 'msg/s', 'postfix', 2),
        (R100, 'msg/s', '20 sessions', 1),
        (RBIG, 'msg/s', 'postfix', 1),
        (RBIG, 'msg/s', 'disk', 0.7),
    ],
    'mailboxes': [('to 10 users each', 'mailboxes/s', 'postfix', 10)],
    'relay': [('received, passed on', 'msg/s', 'postfix', 5)],
    'drain': [
        ('200 leave for a host that is back', 'msg/s', 'postfix', 3),
        ('connections tried to a dead one', 'at once', 1, 1),
    ],
    'pop3': [
        ('20 clients, login, STAT, QUIT', 'sessions/s', 'dovecot', 3),
        ('1,000 messages, first login', 'ms', 'dovecot', 10),
        ('1,000 messages, later login', 'ms', 'dovecot', 1),
        ('1,000 messages, LIST', 'ms', 'dovecot', 1),
        ('1,000 messages, UIDL', 'ms', 'dovecot', 1),
        ('1,000 messages, RETR', 'ms', 'dovecot', 1),
        ('1,000 without sizes, first login', 'ms', 'dovecot', 0),
        ('1,000 without sizes, later login', 'ms', 'dovecot', 0),
    ],
    'big': [
        ('50,000 messages, first login', 'ms', 'dovecot', 10),
        ('50,000 messages, later login', 'ms', 'dovecot', 5),
        ('50,000 messages, LIST', 'ms', 'dovecot', 1),
        ('50,000 messages, UIDL', 'ms', 'dovecot', 1),
        ('50,000 messages, RETR', 'ms', 'dovecot', 1),
        ('50,000 messages, the server', 'MiB', 8, 1),
        ('20 messages of 10 MiB, RETR', 'ms', 'dovecot', 1),
        ('20 messages of 10 MiB, what it takes', 'MiB', 1, 1),
    ],
    'idle': [
        ('10,000 connections, each', 'KiB', 8, 1),
        ('among them, until EHLO is answered', 'ms', 5, 1),
        ('among them, reception', 'msg/s', 'postfix, none', 1),
    ],
    'queue': [
        ('100,000 waiting, the server', 'MiB', 64, 1),
        ('100,000 waiting, start to greeting', 's', 3, 1),
        ('100,000 waiting, CPU while none is due', 'ms', 30, 1),
        ('the last 5,000 of them taken', 'msg/s', 'the first', 1),
    ],
    'dns': [
        ('UDP, 100 outstanding', 'queries/s', 'nsd', 1),
        ('UDP, 100 outstanding', 'queries/s', 'bind', 0),
        ('TCP, 100 outstanding', 'queries/s', 'nsd', 1),
        ('100,000 records, start to greeting', 's', 1, 1),
        ('100,000 records, the server', 'MiB', 64, 1),
    ],
}
SLOW_PARTS = {'big', 'queue'}   # not in three minutes
# Missed by far, and known: NOTES.md says why.  These do not make it fail.
KNOWN = {'50,000 messages, later login'}


class Failed(Exception):
    """Nothing came of a measurement."""


class Bench:
    """What was measured so far, and how to measure."""

    def __init__(self, quick):
        self.quick = quick
        self.seconds = 0.7 if quick else 2.5        # for one measurement
        self.values = {}                            # (what, unit, whose): list
        self.next_user = 0
        self.next_disk = 0

    def note(self, what, unit, whose, value):
        self.values.setdefault((what, unit, whose), []).append(value)

    def user(self):
        """Another mailbox for each measurement: no folder grows large."""
        self.next_user = self.next_user % 80 + 1
        return f'u{self.next_user}'


def press(*words, patience=150):
    """Run press, see press.c: a dictionary of what it tells."""
    done = subprocess.run(
        [os.environ['PRESS'], *map(str, words)], text=True,
        stdin=subprocess.DEVNULL, capture_output=True, timeout=patience)
    if done.returncode:
        raise Failed(done.stderr.strip())
    return told(done.stdout)


def told(line):
    return {name: float(value) for name, value in
            (word.split('=') for word in line.split())}


def rounds(names):
    """(round, name): every name once a round, each time another one first."""
    for i in range(ROUNDS):
        for k in range(len(names)):
            settle()
            yield i, names[(i + k) % len(names)]


def settle():
    """What was written or removed so far is the disk's business: let it end,
    or the next one pays for it."""
    os.sync()
    time.sleep(0.1)
    os.sync()


def until(count, wanted, patience=60):
    """Wait for count() to reach `wanted`; looking must not cost much."""
    end = time.monotonic() + patience
    while True:
        begun = time.monotonic()
        have = count()
        if have >= wanted:
            return
        if begun > end:
            raise Failed(f'{have} of {wanted} came')
        time.sleep(max(0.002, 3 * (time.monotonic() - begun)))


def present(part, **kinds):
    """Servers for this part, by name; without root some stay away."""
    return {name.replace('_', '-'): kind(part) for name, kind in kinds.items()
            if kind.rootless or systems.ROOT}


@contextlib.contextmanager
def running(*servers):
    """Started, and stopped at the end of a with block."""
    with contextlib.ExitStack() as stack:
        for server in servers:
            stack.callback(server.stop)
            server.start()
        settle()
        yield servers


# ---- reception --------------------------------------------------------------

def receive(bench, server, sessions, messages, size, one_each=False):
    """Messages a second until the last is in the mailbox; what press told."""
    user = bench.user()
    begun = time.monotonic()
    client = press('smtp', server.address, '-s', sessions, '-m', messages,
                   '-l', size, '-t', f'{user}@here.test',
                   *(['-1'] if one_each else []))
    if not isinstance(server, systems.Sink):
        until(lambda: len(os.listdir(server.mailbox(user))), messages)
    return messages / (time.monotonic() - begun), client


def receive_disk(bench, batch, messages, size):
    bench.next_disk += 1
    folder = f'/run/interop/disk{bench.next_disk}{systems.TAG}'
    return messages / press('disk', folder, '-s', batch, '-m', messages,
                            '-l', size)['ms'] * 1e3


def enough(bench, sessions, size, measure):
    """How many messages fill the time, after a few that warm up; no more than
    a disk should be asked for."""
    few = max(sessions, 20) * (2 if size <= 10240 else 1)
    rate, *_ = measure(few)
    return int(max(few, min(rate * bench.seconds, (300 << 20) / size, 20000)))


def reception(bench):
    cells = [(R20, 20, 1 << 10, False), (R20_ONE, 20, 1 << 10, True),
             (R1, 1, 1 << 10, False), (R100, 100, 1 << 10, False),
             (RBIG, 20, 1 << 20, False)]
    servers = present('smtp', ours=systems.Ours, postfix=systems.Postfix,
                      smtp_sink=systems.Sink,
                      **({} if bench.quick else {'exim': systems.Exim}))
    with running(*servers.values()):
        for what, sessions, size, one_each in cells:
            beside = [row[2] for row in TABLE['smtp'] if row[0] == what]
            names = ['ours'] + [name for name in servers if name in beside]
            count = {name: enough(bench, sessions, size, lambda n: receive(
                bench, servers[name], sessions, n, size, one_each))
                for name in names}
            for _, name in rounds(names + ['disk'] * ('disk' in beside)):
                if name == 'disk':
                    bench.note(what, 'msg/s', 'disk', receive_disk(
                        bench, sessions, count['ours'], size))
                    continue
                begun = servers[name].cpu()
                rate, client = receive(bench, servers[name], sessions,
                                       count[name], size, one_each)
                bench.note(what, 'msg/s', name, rate)
                bench.note(what, 'ms CPU/msg', name,
                           (servers[name].cpu() - begun) / count[name])
                if name == 'ours' and what == R20:
                    bench.note(R20_CLIENT, 'ms CPU/msg', 'ours',
                               client['cpu'] / count[name])
        bench.values[R20_CLIENT, 'ms CPU/msg', 'the server'] = \
            bench.values[R20, 'ms CPU/msg', 'ours']
        bench.values[R100, 'msg/s', '20 sessions'] = \
            bench.values[R20, 'msg/s', 'ours']


def mailboxes(bench):
    what, servers = 'to 10 users each', present(
        'boxes', ours=systems.Ours, postfix=systems.Postfix)
    users, so_far = [f'u{i}' for i in range(1, 11)], {}

    def measure(name, count):
        server = servers[name]
        so_far[name] = so_far.get(name, 0) + count
        begun = time.monotonic()
        press('smtp', server.address, '-s', 20, '-m', count, '-r', 10,
              '-t', 'u%d@here.test')
        for user in users:
            until(lambda: len(os.listdir(server.mailbox(user))), so_far[name])
        return count / (time.monotonic() - begun), None

    with running(*servers.values()):
        count = {name: enough(bench, 20, 1 << 10, lambda n: measure(name, n))
                 for name in servers}
        for _, name in rounds(list(servers)):
            bench.note(what, 'mailboxes/s', name,
                       10 * measure(name, count[name])[0])


# ---- relay ------------------------------------------------------------------

def relay(bench):
    what, servers = 'received, passed on', present(
        'relay', ours=systems.Ours, postfix=systems.Postfix)
    sink = systems.Sink('far', systems.FAR)

    def measure(name, count):
        before, begun = sink.count, time.monotonic()
        press('smtp', servers[name].address, '-s', 20, '-m', count,
              '-t', 'x@far.test')
        until(lambda: sink.count, before + count)
        return count / (time.monotonic() - begun), None

    with running(sink, *servers.values()):
        count = {name: enough(bench, 20, 1 << 10, lambda n: measure(name, n))
                 for name in servers}
        for _, name in rounds(list(servers)):
            bench.note(what, 'msg/s', name, measure(name, count[name])[0])


class Silence:
    """A host that takes no connection and refuses none: its backlog is full."""

    def __enter__(self):
        self.sock = socket.create_server((systems.SILENT, 25), backlog=0)
        self.fill = [socket.socket() for _ in range(4)]
        for sock in self.fill:
            sock.setblocking(False)
            sock.bind(('127.0.0.99', 0))
            sock.connect_ex((systems.SILENT, 25))
        return self

    def knocking(self):
        """Connections to it that are being tried just now, not by us."""
        remote = '%02X%02X%02X%02X:0019' % tuple(
            map(int, reversed(systems.SILENT.split('.'))))
        with open('/proc/net/tcp') as f:
            lines = [line.split() for line in f]
        return sum(line[2] == remote and line[3] == '02' and
                   not line[1].startswith('6300007F') for line in lines)

    def __exit__(self, *_):
        for sock in self.fill + [self.sock]:
            sock.close()


def drain(bench):
    what, waiting = '200 leave for a host that is back', 200
    servers = present('drain', ours=systems.Ours, postfix=systems.Postfix)
    with running(*servers.values()):
        for _, name in rounds(list(servers)):
            server = servers[name]
            press('smtp', server.address, '-s', 20, '-m', waiting,
                  '-t', 'x@dead.test')
            until(server.deferred, waiting)
            time.sleep(1)
            with running(systems.Sink(name, systems.DEAD)) as (sink,):
                begun = time.monotonic()
                server.hurry()
                until(lambda: sink.count, waiting)
                bench.note(what, 'msg/s', name,
                           waiting / (time.monotonic() - begun))
                time.sleep(0.5)     # for its last QUIT
    ours = systems.Ours('silent')
    with Silence() as host, running(ours):
        for _ in range(ROUNDS):
            press('smtp', ours.address, '-s', 20, '-m', 100,
                  '-t', 'x@silent.test')
            most, end = 0, time.monotonic() + 1
            while time.monotonic() < end:
                most = max(most, host.knocking())
                time.sleep(0.005)
            bench.note('connections tried to a dead one', 'at once', 'ours',
                       most)
            ours.stop()
            ours.start()


# ---- POP3 -------------------------------------------------------------------

def maildrop(server, user, count, size, sized):
    """Fill a mailbox with links to messages, whose names tell sizes or not."""
    folder = f'/run/interop/maildrop.{count}.{size}.{sized}'
    if not os.path.isdir(folder):
        os.mkdir(folder)
        head = 'Return-Path: <press@client.test>\nFrom: <press@client.test>\n' \
            'To: <u1@here.test>\nSubject: press\n\n'
        line = 'x' * 76 + '\n'
        text = (head + line * ((size - len(head)) // len(line))).encode()
        sizes = f',S={len(text)},W={len(text) + text.count(10)}'
        for i in range(count):
            with open(f'{folder}/{1700000000 + i}.{i:014x}.here.test'
                      f'{sizes if sized else ""}', 'wb') as f:
                f.write(text)
        systems.give_to_nobody(folder)
    os.rmdir(server.mailbox(user))
    subprocess.run(['cp', '-al', folder, server.mailbox(user)], check=True)


def fetch_all(bench, servers, words, users, count, others=False):
    """First and later login, and everything, for maildrops of 1 KiB each.

    Ours has the names that it gives itself; Dovecot those that Postfix gives,
    without sizes: had its own LDA delivered, the first login would have been
    part of that.  With `others` ours has Postfix's, too.
    """
    for i, name in itertools.product(range(ROUNDS), servers):
        maildrop(servers[name], users[i], count, 1 << 10,
                 name == 'ours' and not others)
    for i, name in rounds(list(servers)):
        for which in ['first', 'later']:
            got = press('fetch', servers[name].address, '-u', users[i],
                        '-m', count)
            if got['octets'] < count * 900:
                raise Failed(f'{name}: {got["octets"]} octets came')
            bench.note(f'{words}, {which} login', 'ms', name, got['login'])
        for command in ['LIST', 'UIDL', 'RETR']:
            bench.note(f'{words}, {command}', 'ms', name, got[command.lower()])


def pop3(bench):
    what, servers = '20 clients, login, STAT, QUIT', present(
        'pop3', ours=systems.Ours, dovecot=systems.Dovecot)
    with running(*servers.values()):
        for server in servers.values():
            for i in range(1, 21):
                maildrop(server, f'p{i}', 10, 1 << 10, True)

        def measure(name, count):
            return count / press(
                'pop3', servers[name].address, '-s', 20, '-m', count,
                '-u', 'p%d')['ms'] * 1e3, None

        count = {name: enough(bench, 20, 1 << 10, lambda n: measure(name, n))
                 for name in servers}
        for _, name in rounds(list(servers)):
            bench.note(what, 'sessions/s', name, measure(name, count[name])[0])
        fetch_all(bench, servers, '1,000 messages', ['t1', 't2', 't3'], 1000)
        fetch_all(bench, servers, '1,000 without sizes', ['o1', 'o2', 'o3'],
                  1000, others=True)


def big(bench):
    servers = present('big', ours=systems.Ours, dovecot=systems.Dovecot)
    with running(*servers.values()):
        ours = servers['ours']
        fetch_all(bench, servers, '50,000 messages', ['b1', 'b2', 'b3'], 50000)
        bench.note('50,000 messages, the server', 'MiB', 'ours',
                   ours.memory('VmHWM') / 1024)
        what = '20 messages of 10 MiB'
        for server in servers.values():
            maildrop(server, 'f1', 20, 10 << 20, True)
        with open(f'/proc/{ours.proc.pid}/clear_refs', 'w') as f:
            f.write('5')        # the highest so far begins anew
        before = ours.memory()
        for _, name in rounds(list(servers)):
            bench.note(f'{what}, RETR', 'ms', name, press(
                'fetch', servers[name].address, '-u', 'f1', '-m', 20)['retr'])
        bench.note(f'{what}, what it takes', 'MiB', 'ours',
                   (ours.memory('VmHWM') - before) / 1024)


# ---- many ------------------------------------------------------------------

class Held:
    """So many connections that have said EHLO, and then nothing."""

    def __init__(self, server, count):
        self.proc = subprocess.Popen(
            [os.environ['PRESS'], 'hold', server.address, '-s', str(count)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if not self.proc.stdout.readline().startswith('done='):
            raise Failed(f'no {count} connections')

    def release(self):
        self.proc.stdin.close()
        self.proc.wait()


def idle(bench):
    many, ours = 10000, systems.Ours('idle')
    with running(ours):
        press('smtp', ours.address, '-m', 20, '-t', 'u1@here.test')
        before = ours.memory()
        held = Held(ours, many)
        try:
            bench.note('10,000 connections, each', 'KiB', 'ours',
                       (ours.memory() - before) / many)
            count = enough(bench, 20, 1 << 10, lambda n: receive(
                bench, ours, 20, n, 1 << 10))
            for _ in range(ROUNDS):
                bench.note('among them, until EHLO is answered', 'ms', 'ours',
                           press('ehlo', ours.address, '-m', 200)['p50'])
                bench.note('among them, reception', 'msg/s', 'ours',
                           receive(bench, ours, 20, count, 1 << 10)[0])
        finally:
            held.release()
    if (R20, 'msg/s', 'postfix') not in bench.values and systems.ROOT:
        with running(systems.Postfix('idle')) as (postfix,):
            for count in [40, 500, 500, 500]:
                rate, _ = receive(bench, postfix, 20, count, 1 << 10)
                if count > 40:
                    bench.note(R20, 'msg/s', 'postfix', rate)
    bench.values['among them, reception', 'msg/s', 'postfix, none'] = \
        bench.values.get((R20, 'msg/s', 'postfix'))     # None without root


def greeting(server, patience=60):
    """Start it: the seconds until it says 220."""
    begun, starting = time.monotonic(), threading.Thread(target=server.start)
    starting.start()
    while time.monotonic() < begun + patience:
        with contextlib.suppress(ConnectionRefusedError), \
                socket.create_connection((server.address, 25), 10) as sock:
            if sock.recv(512)[:3] == b'220':
                took = time.monotonic() - begun
                starting.join()
                return took
        time.sleep(0.001)
    raise Failed('no greeting')


def queue(bench):
    what, step, steps = '100,000 waiting', 5000, 20
    ours = systems.Ours('queue', text='retry 1h\n')
    with running(ours):
        for i in range(steps):
            rate = step / press('smtp', ours.address, '-s', 50, '-m', step,
                                '-t', 'x@dead.test')['ms'] * 1e3
            if i < ROUNDS or i >= steps - ROUNDS:
                bench.note('the last 5,000 of them taken', 'msg/s',
                           'the first' if i < ROUNDS else 'ours', rate)
        bench.note(f'{what}, the server', 'MiB', 'ours',
                   ours.memory('VmHWM') / 1024)
        for _ in range(ROUNDS):
            ours.stop()
            settle()
            bench.note(f'{what}, start to greeting', 's', 'ours',
                       greeting(ours))
            time.sleep(1)
            begun = ours.cpu()
            time.sleep(3)
            bench.note(f'{what}, CPU while none is due', 'ms', 'ours',
                       ours.cpu() - begun)
            bench.note(f'{what}, the server', 'MiB', 'ours',
                       ours.memory('VmHWM') / 1024)


# ---- DNS --------------------------------------------------------------------

def zone_file(hosts):
    return peers.write(
        f'/run/interop/zone{hosts}', '$ORIGIN zone.test.\n$TTL 3600\n'
        '@ SOA ns root 1 3600 600 86400 300\n@ NS ns\nns A 127.0.0.1\n' +
        ''.join(f'h{i} A 10.{i >> 16}.{i >> 8 & 255}.{i & 255}\n'
                f'h{i} TXT "host number {i}"\nd{i} MX 10 h{i}\n'
                for i in range(hosts)))


def dnsperf(server, seconds, queries, kind):
    out = subprocess.run(
        ['dnsperf', '-s', server.address, '-d', queries, '-l', str(seconds),
         '-c', '10', '-T', '1', '-q', '100', '-m', kind], text=True,
        capture_output=True, timeout=60).stdout
    found = {line.split(':')[0].strip(): line.split(':')[1].split()[0]
             for line in out.splitlines() if ':' in line and
             len(line.split(':')[1].split()) > 0}
    if int(found['Queries lost']):
        raise Failed(f'{found["Queries lost"]} queries lost')
    return float(found['Queries per second'])


def dns(bench):
    hosts = 10000
    zone = zone_file(hosts)
    queries = peers.write('/run/interop/queries', ''.join(
        f'h{i * 7919 % hosts}.zone.test A\nd{i * 104729 % hosts}.zone.test MX\n'
        f'h{i * 611953 % hosts}.zone.test TXT\nno{i}.zone.test A\n'
        for i in range(hosts)))
    servers = {'ours': systems.Ours('dns', text=f'zone zone.test {zone}\n'),
               'nsd': systems.Nsd('127.0.0.15', 'nsd', {'zone.test': zone})}
    if not bench.quick:
        servers['bind'] = systems.Bind('127.0.0.12', 'bind',
                                       {'zone.test': zone})
    with running(*servers.values()):
        for kind in ['udp', 'tcp']:
            for _, name in rounds(list(servers)):
                bench.note(f'{kind.upper()}, 100 outstanding', 'queries/s',
                           name, dnsperf(servers[name], 1 if bench.quick else 3,
                                         queries, kind))
    what = '100,000 records'
    ours = systems.Ours('zone', text=f'zone zone.test {zone_file(33333)}\n')
    for _ in range(ROUNDS):
        bench.note(f'{what}, start to greeting', 's', 'ours', greeting(ours))
        bench.note(f'{what}, the server', 'MiB', 'ours',
                   ours.memory('VmHWM') / 1024)
        ours.stop()


PARTS = {'smtp': reception, 'mailboxes': mailboxes, 'relay': relay,
         'drain': drain, 'pop3': pop3, 'big': big, 'idle': idle,
         'queue': queue, 'dns': dns}


# ---- the table --------------------------------------------------------------

def figure(values):
    """The median with its spread, as text."""
    middle = statistics.median(values)
    digits = 0 if middle >= 100 else 1 if middle >= 10 else 2
    text = f'{middle:,.{digits}f}'
    if len(values) > 1 and middle:
        text += f' ±{(max(values) - min(values)) / 2 / middle:.0%}'
    return text


def as_good(unit, ours, theirs):
    """How many times: above 1 is for us."""
    if unit in LESS_IS_BETTER:
        ours, theirs = theirs, ours
    return ours / theirs if theirs else float('inf')


def show(bench, row):
    """Print one row; its part of what is wanted, or None where nothing is."""
    what, unit, beside, wanted = row
    ours = bench.values.get((what, unit, 'ours'))
    limit = isinstance(beside, (int, float))
    theirs = [beside] if limit else bench.values.get((what, unit, beside))
    if not wanted and not theirs:
        return None     # one of those that are seen in the long form only
    if not ours or not theirs:
        print(f'{what:39} {unit:12} {figure(ours) if ours else "?":>13}  '
              f'{beside} was not measured', flush=True)
        return None
    times = as_good(unit, statistics.median(ours), statistics.median(theirs))
    if len(ours) == len(theirs):
        each = [as_good(unit, *pair) for pair in zip(ours, theirs)]
        spread = f'{min(each):.2f}-{max(each):.2f}' if len(each) > 1 else ''
    else:
        spread = ''
    name = f'at most {beside}' if limit else f'{beside} {figure(theirs)}'
    verdict = '' if times >= wanted else 'below' \
        if times >= wanted * FAR_BELOW else 'known' if what in KNOWN \
        else 'FAR BELOW'
    print(f'{what:39} {unit:12} {figure(ours):>13}  {name:26} {times:6.2f}  '
          f'{spread:12} {wanted or "":5}  {verdict}'.rstrip(), flush=True)
    return times / wanted if wanted else None


def tuning():
    """The settings of the peers; their reasons are in the files."""
    for name in ['postfix.cf', 'exim.cf', 'dovecot.conf']:
        with open(f'{systems.HERE}/{name}') as f:
            lines = [' '.join(line.split()) for line in f
                     if line.strip() and not line.startswith('#')]
        print(textwrap.fill(f'{name}: {"; ".join(lines)}', 79,
                            subsequent_indent='    '))


def is_far(found):
    share, row = found
    return share < FAR_BELOW and row[0] not in KNOWN


def measure(bench, part):
    """Measure and print: (part of what is wanted, row), or None: it failed."""
    try:
        PARTS[part](bench)
    except (Failed, OSError, subprocess.SubprocessError, SystemExit) as error:
        print(f'FAILED: {error}')
        return None
    shares = [(show(bench, row), row) for row in TABLE[part]]
    return [(share, row) for share, row in shares if share is not None]


def main(words):
    quick = '--quick' in words
    parts = [word for word in words if word != '--quick'] or \
        [part for part in PARTS if not (quick and part in SLOW_PARTS)]
    begun, bench, failed = time.monotonic(), Bench(quick), []
    if not quick:
        tuning()
    if not systems.ROOT:
        print('Without root: neither Postfix nor Dovecot.')
    print(f'{"":39} {"unit":12} {"ours":>13}  {"beside":26} {"times":>6}  '
          f'{"rounds":12} {"wanted":>5}')
    shares = []
    for part in parts:
        print(f'--- {part} ({time.monotonic() - begun:.0f} s)', flush=True)
        before = {key: list(value) for key, value in bench.values.items()}
        found = measure(bench, part)
        if found is not None and any(map(is_far, found)):
            print('--- and once more, lest somebody has disturbed it')
            bench.values = before
            found = measure(bench, part)
        if found is None:
            failed.append(part)
        shares += found or []
    below = sum(share < 1 for share, _ in shares)
    far = sum(map(is_far, shares))
    print(f'--- {len(shares)} compared, {below} below what is wanted, {far} '
          f'far below; medians of {ROUNDS} rounds; {os.cpu_count()} processors'
          f', load {os.getloadavg()[0]:.1f}, {time.monotonic() - begun:.0f} s')
    return int(far > 0 or bool(failed))


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
