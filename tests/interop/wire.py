"""DNS messages: a third codec, which knows nothing of the other two.

ask() sends one question and returns an Answer, whose text can be compared:
records in sections, sorted, names in lower case.
"""
import ipaddress
import random
import socket
import struct
import sys

TYPES = {'A': 1, 'NS': 2, 'CNAME': 5, 'SOA': 6, 'PTR': 12, 'MX': 15,
         'TXT': 16, 'AAAA': 28, 'SRV': 33, 'DS': 43, 'SPF': 99, 'IXFR': 251,
         'AXFR': 252, 'ANY': 255, 'CAA': 257, 'TYPE65280': 65280}
NAMES = {number: name for name, number in TYPES.items()}
# What is there in the data of a type, in order: names, and numbers of octets.
SHAPES = {'NS': ['name'], 'CNAME': ['name'], 'PTR': ['name'],
          'SOA': ['name', 'name', 4, 4, 4, 4, 4], 'MX': [2, 'name'],
          'SRV': [2, 2, 2, 'name']}
RCODES = ['NOERROR', 'FORMERR', 'SERVFAIL', 'NXDOMAIN', 'NOTIMP', 'REFUSED']
QR, AA, TC, RD, RA = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080
OPT = 41


class Answer:
    """One reply: rcode, flags (a set of letters), sections of text."""

    def __init__(self, data):
        self.data = data
        flags, *counts = struct.unpack('!5H', data[2:12])
        self.flags = ' '.join(name for name, bit in
                              [('AA', AA), ('TC', TC), ('RD', RD), ('RA', RA)]
                              if flags & bit)
        self.rcode = flags & 15
        self.at = 12
        self.version = None             # of EDNS, where there is an OPT
        self.question = data[12:12]
        for _ in range(counts[0]):
            self.name()
            self.at += 4
            self.question = data[12:self.at]
        self.answer, self.authority, self.additional = (
            sorted(filter(None, (self.record() for _ in range(count))))
            for count in counts[1:])
        if self.at != len(data):
            raise ValueError('octets behind the last record')
        self.rcode = RCODES[self.rcode] if self.rcode < 6 else \
            f'RCODE{self.rcode}'

    def take(self, count):
        piece = self.data[self.at:self.at + count]
        if len(piece) != count:
            raise ValueError('the message ends within a record')
        self.at += count
        return piece

    def name(self):
        """A name as text, in lower case; compression followed, backwards."""
        labels, back, limit = [], None, self.at
        while True:
            octet = self.take(1)[0]
            if octet >= 0xC0:
                target = (octet & 0x3F) << 8 | self.take(1)[0]
                back = self.at if back is None else back
                if target >= limit:
                    raise ValueError('a pointer that does not point back')
                self.at = limit = target
            elif octet == 0:
                break
            else:
                labels.append(self.take(octet).lower())
        if back is not None:
            self.at = back
        return ''.join(repr(label)[2:-1] + '.' for label in labels) or '.'

    def record(self):
        owner = self.name()
        kind, cls, ttl, length = struct.unpack('!HHIH', self.take(10))
        end = self.at + length
        if kind == OPT:
            self.rcode |= ttl >> 24 << 4
            self.version = ttl >> 16 & 0xFF
            self.take(length)
            return None
        name = NAMES.get(kind, f'TYPE{kind}')
        value = ' '.join(self.value(shape, end) for shape in
                         SHAPES.get(name, [length]))
        if self.at != end:
            raise ValueError(f'{owner} {name}: the data has another length')
        return f'{owner} {ttl} {cls} {name} {value}'

    def value(self, shape, end):
        if shape == 'name':
            return self.name()
        data = self.take(shape)
        if shape in (4, 16) and end - self.at == 0 and len(data) == 16:
            return str(ipaddress.ip_address(data))
        return data.hex()


def encode(name):
    """A name as octets; \\DDD is not needed here."""
    labels = [] if name == '.' else name.rstrip('.').split('.')
    return b''.join(bytes([len(label)]) + label.encode() for label in labels
                    ) + b'\0'


def query(name, kind, edns=0, version=0, flags=0, cls=1):
    """The octets of a query; edns: the size it offers, 0 for no OPT."""
    opt = b''
    if edns:
        opt = struct.pack('!BHHIH', 0, OPT, edns, version << 16, 0)
    head = struct.pack('!6H', random.getrandbits(16), flags, 1, 0, 0,
                       int(edns > 0))
    return head + encode(name) + struct.pack('!HH', TYPES[kind], cls) + opt


def exchange(server, data, tcp=False, patience=5):
    """Send octets to (address, port); the octets that come back."""
    kind = socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.settimeout(patience)
        sock.connect(server)
        if not tcp:
            sock.send(data)
            return sock.recv(65535)
        sock.sendall(struct.pack('!H', len(data)) + data)
        with sock.makefile('rb') as stream:
            length, = struct.unpack('!H', stream.read(2))
            return stream.read(length)


def ask(server, name, kind, tcp=False, **options):
    data = query(name, kind, **options)
    reply = exchange(server, data, tcp)
    try:
        if reply[:2] != data[:2] or not reply[2] & 0x80:
            raise ValueError('a reply to something else')
        return Answer(reply)
    except ValueError as error:
        sys.exit(f'{server[0]} to {name} {kind}: {error}: {reply.hex()}')
