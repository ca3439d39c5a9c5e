"""Many bytes through a link that loses, duplicates, delays and reorders frames: what arrives must have the hash of what was sent.
The hashes are compared by both ends (`kvpn-bench stream`); a difference ends this with an error."""

import sys

import peers
from lanes import POD, Failed

LINK = "delay=1ms jitter=200us loss=0.1% burst=2 dup=1% reorder=1% reorder-by=2ms"
UNITS = {"MiB": 1 << 20, "GiB": 1 << 30}
# No combination may be slower than this, in bytes a second: it would hang.
SLOWEST = 4e6


def size_of(text):
    for unit, factor in UNITS.items():
        if text.endswith(unit):
            return int(float(text[: -len(unit)]) * factor)
    return int(text)


def run(options):
    size = size_of(options.size)
    lines = [f"{options.size} each, link: {options.link}"]
    for index, name in enumerate(options.peers.split(",")):
        way = peers.ALL[name](index)
        try:
            way.lane.impair(options.link.split())
            for seed, direction in enumerate(("up", "down"), 1):
                lines.append(f"{way.title}, {direction}: {stream(way, direction, size, seed)}")
                print(lines[-1], file=sys.stderr)
            lines += [f"  {line}" for line in way.lane.link_state().splitlines()]
            changed = [part for part in way.lane.link_state().split() if part.startswith(("lost=", "dup=", "reordered="))]
            if any(part.endswith("=0") for part in changed):
                raise Failed(f"the link did not do its work: {changed}")
        finally:
            way.close()
    options.output.with_suffix(".txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def stream(way, direction, size, seed):
    text = way.lane.inside(way.lane.laptop, peers.PROGRAMS / "kvpn-bench", "stream", POD, direction, size, "--seed", seed,
                           limit=60 + size / SLOWEST)
    return text.strip()
