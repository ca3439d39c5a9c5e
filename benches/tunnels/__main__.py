"""Whole tunnels beside their peers, in network namespaces of one machine: `make bench`, `make bench-full`,
`make bench-integrity`, `make bench-soak`. Standard library only; needs root, iperf3 and the programs of tools.sh.

    python3 benches/tunnels compare [--cells 0/0,20/0.1] [--rounds 3] [--seconds 4] [--peers wggo,kkernel] [--only tcp,latency]
    python3 benches/tunnels integrity [--size 10GiB]
    python3 benches/tunnels scale
    python3 benches/tunnels soak [--minutes 30]
    python3 benches/tunnels profile
"""

import argparse
import os
import signal
import sys
import time
from pathlib import Path

import compare
import integrity
import peers
import profile_tunnels
import scale
import soak
from lanes import Failed

RESULTS = Path(__file__).resolve().parents[1] / "results"

COMMANDS = {"compare": compare.run, "integrity": integrity.run, "scale": scale.run, "soak": soak.run,
            "profile": profile_tunnels.profile}


def parse():
    parser = argparse.ArgumentParser(prog="tunnels", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("compare", help="every peer in turn, round by round")
    command.add_argument("--cells", default="0/0,20/0.1", help="RTT in ms / loss in percent, each way half of the RTT")
    command.add_argument("--full", action="store_true", help="0, 20, 80 ms x 0, 0.1, 1 percent")
    command.add_argument("--rounds", type=int, default=3)
    command.add_argument("--seconds", type=int, default=4, help="of each throughput run")
    command.add_argument("--peers", default=",".join(peers.ALL))
    command.add_argument("--only", default=",".join(compare.MEASUREMENTS))
    command.add_argument("--budget", type=int, default=0, help="begin no round after so many seconds")
    command.add_argument("--output", type=Path, default=RESULTS / "tunnels")
    command = commands.add_parser("integrity", help="equal hashes over a link that loses, duplicates and reorders")
    command.add_argument("--size", default="1GiB")
    command.add_argument("--peers", default="kkernel,kuser,kkernel-api,kuser-api")
    command.add_argument("--link", default=integrity.LINK, help="delaylink's words")
    command.add_argument("--output", type=Path, default=RESULTS / "integrity")
    command = commands.add_parser("scale", help="a gateway with many peers and flows")
    command.add_argument("--output", type=Path, default=RESULTS / "scale")
    command = commands.add_parser("soak", help="full rate for long: memory stays flat")
    command.add_argument("--minutes", type=float, default=30)
    command.add_argument("--every", type=float, default=30, help="seconds between looks at the memory")
    command.add_argument("--peers", default="kkernel,kuser,kkernel-api,kuser-api")
    command.add_argument("--output", type=Path, default=RESULTS / "soak")
    command = commands.add_parser("profile", help="where the cycles of both tunnel ends go (perf)")
    command.add_argument("--peers", default="kkernel,kuser")
    command.add_argument("--seconds", type=int, default=5)
    command.add_argument("--output", type=Path, default=RESULTS / "profile")
    return parser.parse_args()


def main():
    options = parse()
    if os.geteuid():
        sys.exit("namespaces need root: sudo -E make bench")
    # An ended bench takes its namespaces with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    start = time.monotonic()
    try:
        COMMANDS[options.command](options)
    except (Failed, peers.Skipped) as error:
        sys.exit(f"tunnels: {error}")
    print(f"took {time.monotonic() - start:.0f} s", file=sys.stderr)


main()
