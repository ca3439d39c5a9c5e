"""Where the cycles of both tunnel ends go: `perf` on the processes of a lane during an upload and a download. The programs need
symbols: `make bench-profile` builds them so."""

import peers
from lanes import Failed, run
from measure import Iperf

# Lines of the table of each process.
TOP = 25


def run_way(name, seconds):
    way = peers.ALL[name](0)
    try:
        for down in (False, True):
            for process, end_name in zip(way.tunnel_processes, ("client", "gateway")):
                # A load each: making the table of one takes longer than the load.
                load = Iperf(way.lane, seconds + 1, *(["-R"] if down else []))
                data = record(way, process, seconds)
                load.result()
                yield f"{way.title}, {'down' if down else 'up'}, {end_name}", table(data)
    finally:
        way.close()


def record(way, process, seconds):
    data = f"/tmp/{way.lane.laptop}.perf"
    # The processor's own counters are missing in many virtual machines; the clock is everywhere. Not in the lane's
    # namespace: `ip netns exec` hides parts of /sys that perf reads.
    run("perf", "record", "-q", "-e", "cpu-clock", "-F", 999, "-p", process.pid, "-o", data, "--", "sleep", seconds,
        limit=seconds + 30)
    return data


def table(data):
    text = run("perf", "report", "-q", "-i", data, "--stdio", "--sort", "dso,symbol", "--percent-limit", "0.5", limit=60)
    run("rm", "-f", data)
    lines = [line.rstrip(" -") for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not lines:
        raise Failed("perf saw nothing")
    return lines[:TOP]


def profile(options):
    text = []
    for name in options.peers.split(","):
        for title, lines in run_way(name, options.seconds):
            text += [title, *lines, ""]
    options.output.with_suffix(".txt").write_text("\n".join(text), encoding="utf-8")
    print("\n".join(text))
