"""A gateway at scale: its memory with many sessions, peers and flows, how fast it shakes hands, and what a noisy peer does to a
quiet one."""

import json
import resource
import subprocess

import measure
import peers
import report
from lanes import GATEWAY, POD, Failed

PEERS = (1000, 10_000)
FLOWS = (1000, 20_000)
NOISE_SECONDS = 4
# Descriptors for all but the connections.
SPARE = 500


class Crowded(peers.KvpnUserspace):
    name = "scale"
    sessions, flows = 16_382, 32_768


class Program:
    """A step-by-step kvpn-bench command: a JSON line a step, a newline from us for the next."""

    def __init__(self, way, *words):
        self.log = peers.log_path(way.lane, words[0])
        self.process = way.lane.start(way.lane.laptop, peers.PROGRAMS / "kvpn-bench", *words, stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE, stderr=open(self.log, "wb"))

    def step(self):
        line = self.process.stdout.readline()
        if not line:
            raise Failed(f"kvpn-bench {self.process.args[5]} ended early: {self.log.read_text()[-500:]}")
        return json.loads(line)

    def go_on(self):
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()


def run(options):
    samples = report.Samples(options.output)
    most = raise_file_limit() - SPARE
    for count in PEERS:
        crowd(samples, count)
    for count in FLOWS:
        flows(samples, min(count, most))
    noise(samples)
    report.write(samples, "idle", options.output)


def raise_file_limit():
    """A connection is a descriptor in every process here; how many there may be."""
    wanted = max(FLOWS) + SPARE
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
    except ValueError:
        pass
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def crowd(samples, count):
    way = Crowded(0)
    try:
        gateway = way.tunnel_processes[1]
        idle = measure.memory(gateway)
        samples.add("peers", "idle", "gateway-memory", idle)
        program = Program(way, *control(way), "--peers", count)
        opened = program.step()
        samples.add("peers", f"{count:,}", "sessions-rate", opened["sessions"] / opened["seconds"])
        program.go_on()
        samples.add("peers", f"{count:,}", "handshakes-rate", program.step()["per_second"])
        used = measure.memory(gateway)
        samples.add("peers", f"{count:,}", "gateway-memory", used)
        samples.add("peers", f"{count:,}", "gateway-each", (used - idle) * 1024 / count)
        program.go_on()
    finally:
        way.close()


def flows(samples, count):
    way = Crowded(0)
    try:
        client, gateway = way.tunnel_processes
        idle = measure.memory(gateway)
        samples.add("TCP connections, idle", "idle", "gateway-memory", idle)
        samples.add("TCP connections, idle", "idle", "client-loaded", measure.memory(client))
        program = Program(way, "hold", POD, count)
        program.step()
        used = measure.memory(gateway)
        samples.add("TCP connections, idle", f"{count:,}", "gateway-memory", used)
        samples.add("TCP connections, idle", f"{count:,}", "gateway-each", (used - idle) * 1024 / count)
        samples.add("TCP connections, idle", f"{count:,}", "client-loaded", measure.memory(client))
        program.go_on()
    finally:
        way.close()


def noise(samples):
    """Requests of one session while another sends datagrams to a closed port as fast as it can."""
    way = Crowded(0)
    try:
        quiet(samples, way, "idle")
        program = Program(way, *control(way), "--peers", 1, "--noise", f"{POD}:9", "--seconds", NOISE_SECONDS + 2)
        program.step()
        program.go_on()
        program.step()
        program.go_on()
        quiet(samples, way, "beside a noisy peer")
        samples.add("a noisy peer", "beside a noisy peer", "noise", program.step()["mbit_per_second"])
    finally:
        way.close()


def quiet(samples, way, peer):
    figures = measure.bench_program(way, "requests", POD, "--count", 100_000, "--seconds", NOISE_SECONDS)
    samples.add("a noisy peer", peer, "quiet-p50", figures["p50_ms"])
    samples.add("a noisy peer", peer, "quiet-p99", figures["p99_ms"])


def control(way):
    return ["crowd", "--netns", f"/run/netns/{way.lane.gateway}", "--gateway", f"{GATEWAY}:{peers.UDP_PORT}"]
