"""How time grows with what there is: four plots, drawn beside this file.

    growth.py [PLOT...]         called by tests/bench/run growth

Each point is the median of three rounds, its bar the lowest and the highest.
Both axes are logarithmic: what grows in proportion is a line that rises by a
decade for each decade to the right; what does not grow is level.
"""
import math
import statistics
import sys

import bench as measure
import systems

WIDTH, HEIGHT = 560, 340
LEFT, RIGHT, TOP, BOTTOM = 64, 90, 36, 52       # margins
COLOURS = {'ours': '#0b5', 'postfix': '#c52', 'disk': '#888'}


class Growth:
    """One plot: what is on its axes, and {whose: {x: [y, ...]}}."""

    def __init__(self, name, title, across, up):
        self.name, self.title, self.across, self.up = name, title, across, up
        self.series = {}

    def note(self, whose, x, y):
        self.series.setdefault(whose, {}).setdefault(x, []).append(y)
        return self

    def draw(self):
        """Write NAME.svg, and print the medians."""
        xs = sorted({x for points in self.series.values() for x in points})
        ys = [y for points in self.series.values()
              for values in points.values() for y in values]
        low = math.floor(math.log10(min(ys)))
        high = max(math.ceil(math.log10(max(ys))), low + 1)
        span = math.log10(xs[-1] / xs[0])

        def across(x):
            return LEFT + (WIDTH - LEFT - RIGHT) * math.log10(x / xs[0]) / span

        def up(y):
            return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * \
                (math.log10(y) - low) / (high - low)

        out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} '
               f'{HEIGHT}" font-family="sans-serif" font-size="12">',
               f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
               text(LEFT, 20, self.title, 'start', ' font-weight="bold"'),
               text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, self.across)]
        for power in range(low, high + 1):
            y = up(10.0 ** power)
            out += [f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" '
                    'stroke="#ddd"/>',
                    text(LEFT - 6, y + 4, label(10.0 ** power) +
                         f' {self.up}', 'end')]
        out += [text(across(x), HEIGHT - BOTTOM + 18, label(x)) for x in xs]
        ends = []
        for whose, points in self.series.items():
            colour = COLOURS[whose]
            middle = {x: statistics.median(points[x]) for x in sorted(points)}
            line = ' '.join(f'{across(x):.1f},{up(y):.1f}'
                            for x, y in middle.items())
            out.append(f'<polyline points="{line}" fill="none" '
                       f'stroke="{colour}" stroke-width="2"/>')
            for x, y in middle.items():
                out += [f'<path d="M{across(x):.1f} {up(min(points[x])):.1f}'
                        f'V{up(max(points[x])):.1f}" stroke="{colour}"/>',
                        f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="3" '
                        f'fill="{colour}"/>']
            last = max(middle)
            place = up(middle[last]) + 4
            while any(abs(place - other) < 14 for other in ends):
                place += 14 - min(abs(place - other) for other in ends)
            ends.append(place)
            out.append(text(across(last) + 8, place, whose, 'start',
                            f' fill="{colour}"'))
            print(f'{self.name:12} {whose:8} ' + '  '.join(
                f'{label(x)}: {y:.3g} {self.up}' for x, y in middle.items()),
                flush=True)
        with open(f'{systems.HERE}/{self.name}.svg', 'w') as f:
            f.write('\n'.join(out + ['</svg>', '']))


def text(x, y, words, anchor='middle', more=''):
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}"{more}>' \
        f'{words}</text>'


def label(number):
    for unit, size in [('M', 1e6), ('k', 1e3)]:
        if number >= size:
            return f'{number / size:g}{unit}'
    return f'{number:g}'


def sessions(bench):
    plot = Growth('sessions', 'A message of 1 KiB, received, durable',
                  'sessions at once', 'ms')
    servers = measure.present('sessions', ours=systems.Ours,
                              postfix=systems.Postfix)
    with measure.running(*servers.values()):
        for many in [1, 10, 100, 1000]:
            names = ['ours'] + ['postfix'] * (many < 1000) * systems.ROOT
            count = {name: measure.enough(
                bench, many, 1 << 10, lambda n: measure.receive(
                    bench, servers[name], many, n, 1 << 10)) for name in names}
            for _, name in measure.rounds(names + ['disk']):
                rate = measure.receive_disk(
                    bench, many, count['ours'], 1 << 10) if name == 'disk' \
                    else measure.receive(bench, servers[name], many,
                                         count[name], 1 << 10)[0]
                plot.note(name, many, 1e3 / rate)
    plot.draw()


def sizes(bench):
    plot = Growth('sizes', 'A message received from 20 sessions, durable',
                  'octets', 'ms')
    ours = systems.Ours('sizes')
    with measure.running(ours):
        for size in [10 ** 3, 10 ** 4, 10 ** 5, 10 ** 6, 10 ** 7]:
            count = measure.enough(bench, 20, size, lambda n: measure.receive(
                bench, ours, 20, n, size))
            for _, name in measure.rounds(['ours', 'disk']):
                rate = measure.receive_disk(bench, 20, count, size) \
                    if name == 'disk' else \
                    measure.receive(bench, ours, 20, count, size)[0]
                plot.note(name, size, 1e3 / rate)
    plot.draw()


def connections(bench):
    plot = Growth('connections', 'A turn: NOOP until its reply',
                  'other connections, silent', 'ms')
    for many in [10, 100, 1000, 10000]:
        ours = systems.Ours('connections')
        with measure.running(ours):
            held = measure.Held(ours, many)
            for _ in range(measure.ROUNDS):
                plot.note('ours', many, measure.press(
                    'noop', ours.address, '-m', 500)['p50'])
            held.release()
    plot.draw()


def queued(bench):
    plot = Growth('queued', 'Start until the greeting', 'messages waiting', 's')
    ours, have = systems.Ours('queued', text='retry 1h\n'), 0
    with measure.running(ours):
        for many in [1000, 10000, 30000, 100000]:
            measure.press('smtp', ours.address, '-s', 100, '-m', many - have,
                          '-t', 'x@dead.test')
            have = many
            for _ in range(measure.ROUNDS):
                ours.stop()
                measure.settle()
                plot.note('ours', many, measure.greeting(ours))
    plot.draw()


PLOTS = {'sessions': sessions, 'sizes': sizes, 'connections': connections,
         'queued': queued}


def main(words):
    bench = measure.Bench(quick=False)
    for name in words or PLOTS:
        PLOTS[name](bench)


if __name__ == '__main__':
    main(sys.argv[1:])
