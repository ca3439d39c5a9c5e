"""Every peer in turn, round by round, so that what else the machine does falls on all of them alike."""

import sys
import time

import measure
import peers
import report
from lanes import Failed

MEASUREMENTS = ("tcp", "udp", "latency", "connections")
FULL = [(rtt, loss) for rtt in (0, 20, 80) for loss in (0, 0.1, 1)]


def run(options):
    cells = FULL if options.full else [tuple(float(n) for n in cell.split("/")) for cell in options.cells.split(",")]
    samples = report.Samples(options.output)
    ways = open_peers(options.peers.split(","), samples)
    deadline = time.monotonic() + options.budget if options.budget else float("inf")
    try:
        for number, (rtt, loss) in ((number, cell) for number in range(options.rounds) for cell in cells):
            if time.monotonic() > deadline:
                samples.note(f"the time was up before round {number + 1} of {rtt:g} ms, {loss:g} % loss")
                break
            compare_cell(ways, rtt, loss, number, options, samples)
    finally:
        for way in ways:
            way.close()
    report.write(samples, "wireguard-go", options.output)


def open_peers(names, samples):
    ways = []
    try:
        for index, name in enumerate(names):
            try:
                ways.append(peers.ALL[name](index))
                samples.note(f"{ways[-1].title}: inner MTU {ways[-1].inner_mtu()}. {ways[-1].note}".strip())
            except peers.Skipped as reason:
                samples.note(f"{peers.ALL[name].title}: skipped, {reason}")
    except BaseException:
        for way in ways:
            way.close()
        raise
    return ways


def link_words(rtt, loss):
    words = []
    if rtt:
        words.append(f"delay={rtt / 2:g}ms")
    if loss:
        words.append(f"loss={loss:g}%")
    return words


def compare_cell(ways, rtt, loss, number, options, samples):
    """One round of a cell."""
    cell = f"{rtt:g} ms, {loss:g} % loss"
    for way in ways:
        way.lane.impair(link_words(rtt, loss))
        way.moved()
    for way in ways:
        print(f"[{time.strftime('%T')}] {cell}, round {number + 1}, {way.title}", file=sys.stderr)
        for what in options.only.split(","):
            take(way, what, loss, options.seconds, cell, samples)


def take(way, what, loss, seconds, cell, samples):
    """One measurement; a failure is a note, the others go on."""
    steps = {
        "tcp": [lambda s=s, d=d: measure.tcp(way, s, d, seconds) for s in (1, 4) for d in (False, True)],
        "udp": [lambda d=d: measure.udp(way, d, loss) for d in (False, True)],
        "latency": [lambda: measure.idle_latency(way), lambda: measure.loaded_latency(way, seconds)],
        "connections": [lambda: measure.connections(way)],
    }
    for step in steps[what]:
        try:
            for name, value in step().items():
                samples.add(cell, way.title, name, value)
        except (Failed, KeyError, ValueError) as error:
            samples.note(f"{cell}, {way.title}, {what}: {error}")
