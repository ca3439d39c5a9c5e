"""What is measured on a lane, each within a bounded time. A measurement gives figures by the names that report.py knows."""

import json
import os
import subprocess
import time

from lanes import POD, Failed, end
from peers import PROGRAMS

TICK = os.sysconf("SC_CLK_TCK")
IPERF_PORT = 5201
# A datagram's payload, in bytes: what QUIC sends.
DATAGRAM = 1200
# More than this share of the datagrams lost, beyond what the link loses, is too much; in percent.
TOLERABLE_LOSS = 1.0


def processor_seconds(process):
    """Processor time of all threads of a process so far."""
    with open(f"/proc/{process.pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def machine_seconds():
    """Processor time of the whole machine so far, softirqs too."""
    with open("/proc/stat") as file:
        user, nice, system, _idle, _iowait, irq, softirq = (int(n) for n in file.readline().split()[1:8])
    return (user + nice + system + irq + softirq) / TICK


def memory(process):
    """Proportional set size of a process in MiB."""
    with open(f"/proc/{process.pid}/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pss:")) / 1024


def is_listening(process, port):
    with open(f"/proc/{process.pid}/net/tcp") as file:
        next(file)
        return any(line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A" for line in file)


class Iperf:
    """One run of iperf3 from laptop to pod; the server lives as long as this."""

    def __init__(self, lane, seconds, *options):
        self.lane, self.seconds = lane, seconds
        self.server = lane.start(lane.pod, "iperf3", "-s", "-1", "-B", POD, "-p", IPERF_PORT)
        deadline = time.monotonic() + 5
        while not is_listening(self.server, IPERF_PORT):
            if time.monotonic() > deadline:
                raise Failed("iperf3 -s does not listen")
            time.sleep(0.01)
        self.client = lane.start(
            lane.laptop, "iperf3", "-c", POD, "-p", IPERF_PORT, "-J", "-t", seconds, "--connect-timeout", 5000, *options,
            stdout=subprocess.PIPE)

    def result(self):
        try:
            text, _ = self.client.communicate(timeout=self.seconds + 15)
        except subprocess.TimeoutExpired as error:
            raise Failed(f"iperf3 was not done after {self.seconds + 15} s") from error
        finally:
            end(self.client)
            end(self.server)
            self.lane.processes.remove(self.client)
            self.lane.processes.remove(self.server)
        document = json.loads(text or "{}")
        if "error" in document:
            raise Failed(f"iperf3: {document['error']}")
        return document


def tcp(peer, streams, down, seconds):
    """Throughput, retransmits and processor time a GB of TCP streams."""
    options = ["-P", streams, *(["-R"] if down else [])]
    before = [processor_seconds(process) for process in peer.tunnel_processes]
    machine = machine_seconds()
    document = Iperf(peer.lane, seconds, *options).result()
    machine = machine_seconds() - machine
    spent = sum(processor_seconds(process) - was for process, was in zip(peer.tunnel_processes, before))
    gigabytes = document["end"]["sum_received"]["bytes"] / 1e9
    if not gigabytes:
        raise Failed("iperf3 moved nothing")
    way = f"{'down' if down else 'up'}{streams}"
    figures = {
        way: document["end"]["sum_received"]["bits_per_second"] / 1e6,
        f"{way}-retransmits": document["end"]["sum_sent"].get("retransmits", 0),
        f"{way}-machine": machine / gigabytes,
    }
    if peer.tunnel_processes:
        figures[f"{way}-cpu"] = spent / gigabytes
    return figures


def udp(peer, down, link_loss):
    """The highest rate of 1,200-byte datagrams that loses less than 1 %: as fast as they go, then slower and slower."""
    best = 0.0
    received, lost = udp_run(peer, down, 0)
    for share in (0.9, 0.75, 0.6, 0.4, 0.2):
        if lost <= TOLERABLE_LOSS + link_loss:
            best = received
            break
        offered = max(received, 1.0) * share
        got, lost = udp_run(peer, down, offered)
        if lost <= TOLERABLE_LOSS + link_loss:
            best = got
            break
    return {f"udp-{'down' if down else 'up'}": best}


def udp_run(peer, down, megabits):
    """Received Mbit/s and lost percent at an offered rate; 0: as fast as they go."""
    rate = f"{megabits:.0f}M" if megabits else "0"
    document = Iperf(peer.lane, 1, "-u", "-l", DATAGRAM, "-b", rate, *(["-R"] if down else [])).result()
    total = document["end"]["sum"]
    lost = total["lost_percent"]
    return total["bits_per_second"] / 1e6 * (1 - lost / 100), lost


def bench_program(peer, *words, limit=20):
    lane = peer.lane
    return json.loads(lane.inside(lane.laptop, PROGRAMS / "kvpn-bench", *words, limit=limit))


def idle_latency(peer):
    figures = bench_program(peer, "requests", POD, "--count", 2000, "--seconds", 2)
    return {"idle-p50": figures["p50_ms"], "idle-p99": figures["p99_ms"]}


def loaded_latency(peer, seconds):
    """Requests beside one upload."""
    load = Iperf(peer.lane, seconds, "-P", 1)
    time.sleep(min(1, seconds / 3))
    try:
        figures = bench_program(peer, "requests", POD, "--count", 100000, "--seconds", max(1, seconds - 1.5))
    finally:
        load.result()
    return {"loaded-p50": figures["p50_ms"], "loaded-p99": figures["p99_ms"]}


def connections(peer):
    return {"connections": bench_program(peer, "connections", POD, "--seconds", 1.5)["per_second"]}
