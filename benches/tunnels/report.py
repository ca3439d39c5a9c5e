"""Samples, and what readers get of them: medians, ranges and ratios as text, JSON and SVG.

Samples stand in a file of their own as they come (OUTPUT.tsv: cell, peer, figure, value), so that a bench that was
ended has said what it knew. `python3 report.py OUTPUT BASELINE` makes the rest of such a file; other benches write one.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from xml.sax.saxutils import escape

# What is measured: figure -> (words, unit, whether more is better).
FIGURES = {
    "up1": ("TCP up, 1 stream", "Mbit/s", True),
    "down1": ("TCP down, 1 stream", "Mbit/s", True),
    "up4": ("TCP up, 4 streams", "Mbit/s", True),
    "down4": ("TCP down, 4 streams", "Mbit/s", True),
    "up1-cpu": ("up, 1 stream: CPU of both tunnel ends", "s/GB", False),
    "down1-cpu": ("down, 1 stream: CPU of both tunnel ends", "s/GB", False),
    "up4-cpu": ("up, 4 streams: CPU of both tunnel ends", "s/GB", False),
    "down4-cpu": ("down, 4 streams: CPU of both tunnel ends", "s/GB", False),
    "up1-machine": ("up, 1 stream: CPU of the machine", "s/GB", False),
    "down1-machine": ("down, 1 stream: CPU of the machine", "s/GB", False),
    "up4-machine": ("up, 4 streams: CPU of the machine", "s/GB", False),
    "down4-machine": ("down, 4 streams: CPU of the machine", "s/GB", False),
    "up1-retransmits": ("up, 1 stream: retransmits", "segments", False),
    "down1-retransmits": ("down, 1 stream: retransmits", "segments", False),
    "up4-retransmits": ("up, 4 streams: retransmits", "segments", False),
    "down4-retransmits": ("down, 4 streams: retransmits", "segments", False),
    "udp-up": ("UDP up, 1,200 bytes, < 1 % lost", "Mbit/s", True),
    "udp-down": ("UDP down, 1,200 bytes, < 1 % lost", "Mbit/s", True),
    "idle-p50": ("keep-alive request, idle, p50", "ms", False),
    "idle-p99": ("keep-alive request, idle, p99", "ms", False),
    "loaded-p50": ("keep-alive request beside an upload, p50", "ms", False),
    "loaded-p99": ("keep-alive request beside an upload, p99", "ms", False),
    "connections": ("new connections, one after the other", "1/s", True),
    "name-p50": ("uncached name, p50", "ms", False),
    "name-p99": ("uncached name, p99", "ms", False),
    "connect-install": ("connect, installing the gateway", "s", False),
    "connect": ("connect, gateway running", "s", False),
    "client-idle": ("client memory idle (agent + helper)", "MiB", False),
    "client-loaded": ("client memory after load", "MiB", False),
    "gateway-idle": ("gateway memory idle", "MiB", False),
    "gateway-loaded": ("gateway memory after load", "MiB", False),
    "sessions-rate": ("sessions opened", "1/s", True),
    "handshakes-rate": ("handshakes", "1/s", True),
    "gateway-memory": ("gateway memory", "MiB", False),
    "gateway-each": ("gateway memory, each", "KiB", False),
    "quiet-p50": ("quiet peer's request, p50", "ms", False),
    "quiet-p99": ("quiet peer's request, p99", "ms", False),
    "noise": ("noise offered", "Mbit/s", True),
}
CHART = ("up1", "down1", "up4", "down4", "udp-up", "udp-down")
COLOURS = ("#8d99ae", "#2b6cb0", "#b7791f", "#6b46c1", "#319795", "#2f855a", "#c53030", "#4a5568", "#d69e2e")


class Samples:
    """Values by cell, peer and figure, in the order in which they were first met."""

    def __init__(self, output):
        self.values, self.notes = {}, []
        output.parent.mkdir(parents=True, exist_ok=True)
        self.path = output.with_suffix(".tsv")
        self.file = open(self.path, "w", encoding="utf-8")

    def add(self, cell, peer, figure, value):
        self.values.setdefault((cell, peer, figure), []).append(float(value))
        print(cell, peer, figure, f"{value:.6g}", sep="\t", file=self.file, flush=True)

    def note(self, text):
        if text not in self.notes:
            self.notes.append(text)
            print(text, file=sys.stderr)
            print("#", text, file=self.file, flush=True)

    @classmethod
    def read(cls, path):
        samples = cls.__new__(cls)
        samples.values, samples.notes, samples.path = {}, [], path
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("# "):
                samples.notes.append(line[2:])
                continue
            cell, peer, figure, value = line.split("\t")
            samples.values.setdefault((cell, peer, figure), []).append(float(value))
        return samples

    def cells(self):
        return list(dict.fromkeys(cell for cell, _, _ in self.values))

    def peers(self, cell):
        return list(dict.fromkeys(peer for in_cell, peer, _ in self.values if in_cell == cell))

    def figures(self, cell):
        met = {figure for in_cell, _, figure in self.values if in_cell == cell}
        return [figure for figure in FIGURES if figure in met]

    def summary(self, cell, peer, figure):
        """Median, least, most; None where nothing was measured."""
        values = self.values.get((cell, peer, figure))
        return (statistics.median(values), min(values), max(values)) if values else None


def write(samples, baseline, output):
    """OUTPUT.txt, .json and .svg; the text goes to standard output too."""
    text = machine() + "\n\n" + "\n\n".join(table(samples, cell, baseline) for cell in samples.cells())
    if samples.notes:
        text += "\n\n" + "\n".join(f"- {note}" for note in samples.notes)
    output.with_suffix(".txt").write_text(text + "\n", encoding="utf-8")
    output.with_suffix(".json").write_text(document(samples, baseline), encoding="utf-8")
    output.with_suffix(".svg").write_text(chart(samples), encoding="utf-8")
    print(text)


def machine():
    """What the figures were measured on. No host name: it says nothing."""
    model = "unknown processor"
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), model)
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True,
                            cwd=Path(__file__).parent, check=False).stdout.strip()
    return f"{time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC, commit {commit}, {os.cpu_count()} x {model}, Linux {platform.release()}"


def short(value):
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(samples, cell, baseline):
    """One row a figure, one column a peer: median [least-most] xratio to the baseline."""
    peers = samples.peers(cell)
    rows = [[cell, *peers]]
    for figure in samples.figures(cell):
        words, unit, _ = FIGURES[figure]
        base = samples.summary(cell, baseline, figure)
        row = [f"{words}, {unit}"]
        for peer in peers:
            found = samples.summary(cell, peer, figure)
            row.append(entry(found, base, peer != baseline))
        rows.append(row)
    widths = [max(len(row[column]) for row in rows) for column in range(len(peers) + 1)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in rows]
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join(lines)


def entry(found, base, with_ratio):
    if found is None:
        return "-"
    median, least, most = found
    text = short(median)
    if least != most:
        text += f" [{short(least)}-{short(most)}]"
    if with_ratio and base and base[0]:
        text += f" x{median / base[0]:.2f}"
    return text


def document(samples, baseline):
    """The same for programs. Ratios are medians over the baseline's."""
    entries = []
    for (cell, peer, figure), values in samples.values.items():
        words, unit, more = FIGURES[figure]
        median, least, most = samples.summary(cell, peer, figure)
        base = samples.summary(cell, baseline, figure)
        entries.append({
            "cell": cell, "peer": peer, "figure": figure, "what": words, "unit": unit, "moreIsBetter": more,
            "median": median, "min": least, "max": most, "values": values,
            "ratio": median / base[0] if base and base[0] else None,
        })
    body = {"version": 1, "machine": machine(), "baseline": baseline, "notes": samples.notes, "samples": entries}
    return json.dumps(body, indent=1) + "\n"


def chart(samples):
    """Bars: throughput, a block a cell; or, where none was measured, every figure."""
    bar, gap, left, right = 14, 4, 230, 560
    lines, y = [], 24
    peers = list(dict.fromkeys(peer for cell in samples.cells() for peer in samples.peers(cell)))
    for cell in samples.cells():
        wanted = [figure for figure in samples.figures(cell) if figure in CHART] or samples.figures(cell)
        lines.append(f'<text x="8" y="{y}" class="cell">{escape(cell)}</text>')
        y += 12
        for figure in wanted:
            words, unit, _ = FIGURES[figure]
            found = [(peer, samples.summary(cell, peer, figure)) for peer in peers]
            found = [(peer, summary) for peer, summary in found if summary]
            # The cables alone are an order faster than all others, and would make these unreadable.
            most = max((s[2] for peer, s in found if peer != "no tunnel"), default=0) or max(s[2] for _, s in found) or 1
            lines.append(f'<text x="8" y="{y + 12}">{escape(words)}, {escape(unit)}</text>')
            for peer, (median, least, top) in found:
                width = min(1.0, median / most) * right
                low, high = (left + min(1.0, v / most) * right for v in (least, top))
                colour = COLOURS[peers.index(peer) % len(COLOURS)]
                middle = y + bar / 2
                lines.append(f'<rect x="{left}" y="{y}" width="{width:.1f}" height="{bar}" fill="{colour}"/>')
                lines.append(f'<path d="M{low:.1f} {middle}H{high:.1f}" stroke="#1a202c"/>')
                more = " ►" if median > most else ""
                lines.append(f'<text x="{left + max(width, high - left) + 6:.1f}" y="{y + 11}">{escape(peer)} {short(median)}{more}</text>')
                y += bar + gap
            y += 8
        y += 20
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + right + 210} {y}" font-family="sans-serif" font-size="11">'
            '<style>.cell{font-size:14px;font-weight:bold}</style><rect width="100%" height="100%" fill="#fff"/>')
    return "\n".join([head, *lines, "</svg>"]) + "\n"


if __name__ == "__main__":
    target = Path(sys.argv[1])
    write(Samples.read(target.with_suffix(".tsv")), sys.argv[2], target)
