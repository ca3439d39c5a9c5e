"""Tunnels at full rate for long: their memory must be flat in the end, and what the gateway dropped is told by reason.

Every peer is loaded at once, both directions, so that half an hour shows all of them. A bench, not a test: the throughput is told,
not judged; memory that grows is an error."""

import sys
import time

import measure
import peers
from lanes import Failed

HEALTH = "http://127.0.0.1:6182/metrics"
# Of the time, before memory is looked at: buffers and pools grow to what the load wants.
WARM_UP = 0.2
# What memory may grow after that, between the first and the last third's peaks.
TOLERABLE_GROWTH = 1.05
TOLERABLE_MIB = 2.0


def run(options):
    ways = []
    try:
        for index, name in enumerate(options.peers.split(",")):
            ways.append(peers.ALL[name](index))
        lines, grown = soak(ways, options.minutes * 60, options.every)
    finally:
        for way in ways:
            way.close()
    options.output.with_suffix(".txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if grown:
        raise Failed(f"memory grew: {', '.join(grown)}")


def soak(ways, seconds, every):
    loads = [measure.Iperf(way.lane, seconds, "-P", 2, "--bidir") for way in ways]
    memory = {(way.title, end): [] for way in ways for end in ("client", "gateway")}
    lines, start = [], time.monotonic()

    def say(line):
        lines.append(line)
        print(line, file=sys.stderr)

    say("minute  " + "  ".join(f"{title}, {end}" for title, end in memory) + ", MiB")
    while (passed := time.monotonic() - start) < seconds - every:
        time.sleep(every - passed % every)
        for way in ways:
            for end, process in zip(("client", "gateway"), way.tunnel_processes):
                memory[way.title, end].append(measure.memory(process))
        say(f"{(time.monotonic() - start) / 60:6.1f}  " + "  ".join(f"{values[-1]:.1f}" for values in memory.values()))
    for way, load in zip(ways, loads):
        say(f"{way.title}: {throughput(load.result())}; dropped: {drops(way) or 'nothing'}")
    return lines, [" ".join(name) for name, values in memory.items() if grew(values)]


def throughput(document):
    ends = document["end"]
    gigabytes = sum(ends[key]["bytes"] for key in ("sum_received", "sum_received_bidir_reverse")) / 1e9
    up, down = (ends[key]["bits_per_second"] / 1e6 for key in ("sum_received", "sum_received_bidir_reverse"))
    return f"{gigabytes:,.0f} GB, {up:,.0f} Mbit/s up and {down:,.0f} down at once"


def drops(way):
    """What the gateway dropped, by reason."""
    text = way.lane.inside(way.lane.gateway, "curl", "-fsS", HEALTH)
    counters = (line.split() for line in text.splitlines() if "dropped_total{" in line)
    return ", ".join(f"{name.partition('reason=')[2].strip('}').strip(chr(34))} {count}" for name, count in counters if count != "0")


def grew(values):
    """Whether the peak of the last third is above that of the first, warm-up aside."""
    warm = values[int(len(values) * WARM_UP):]
    third = len(warm) // 3
    if not third:
        return False
    early, late = max(warm[:third]), max(warm[-third:])
    return late > early * TOLERABLE_GROWTH + TOLERABLE_MIB
