"""Network namespaces for one way through: a laptop, a gateway, a pod, and the cables between them.

    laptop (A) a0 10.99.0.1 ---- 10.99.0.2 b0 gateway (B) b1 10.97.0.1 ---- 10.97.0.2 c0 pod (C)

Every peer has a lane of its own with the same addresses and hops, so nothing that one peer sets is met by another. There
is no way out of a lane. What is impaired is the cable between laptop and gateway.
"""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LINK = ROOT / "benches/delaylink/link.sh"
LAPTOP, GATEWAY = "10.99.0.1", "10.99.0.2"
GATEWAY_INSIDE, POD = "10.97.0.1", "10.97.0.2"
POD_RANGE = "10.97.0.0/24"


class Failed(Exception):
    """A command failed, in words for the reader."""


def run(*words, check=True, limit=30):
    """Runs a command to its end; its standard output."""
    words = [str(word) for word in words]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=limit, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{' '.join(words)}: not done after {limit} s") from error
    if check and done.returncode:
        raise Failed(f"{' '.join(words)}: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout


class Lane:
    """Three namespaces and what runs in them; `close` ends all of it."""

    def __init__(self, name):
        self.name = name
        self.processes = []
        self.impaired = False
        prefix = f"kvpnb{os.getpid()}-{name}"
        self.laptop, self.gateway, self.pod = (f"{prefix}-{end}" for end in "abc")
        try:
            self._build()
        except Failed:
            self.close()
            raise

    def _build(self):
        for namespace in (self.laptop, self.gateway, self.pod):
            run("ip", "netns", "add", namespace)
            run("ip", "-n", namespace, "link", "set", "lo", "up")
        self._cable(self.laptop, "a0", LAPTOP, self.gateway, "b0", GATEWAY)
        self._cable(self.gateway, "b1", GATEWAY_INSIDE, self.pod, "c0", POD)
        run("ip", "-n", self.pod, "route", "add", "default", "via", GATEWAY_INSIDE)
        self.inside(self.gateway, "sysctl", "-qw", "net.ipv4.ip_forward=1")

    def _cable(self, near, near_if, near_ip, far, far_if, far_ip):
        run("ip", "-n", near, "link", "add", near_if, "type", "veth", "peer", "name", far_if, "netns", far)
        for namespace, interface, address in ((near, near_if, near_ip), (far, far_if, far_ip)):
            run("ip", "-n", namespace, "addr", "add", f"{address}/24", "dev", interface)
            run("ip", "-n", namespace, "link", "set", interface, "up")

    def inside(self, namespace, *words, **options):
        """Runs a command in a namespace to its end; its standard output."""
        return run("ip", "netns", "exec", namespace, *words, **options)

    def start(self, namespace, *words, **options):
        """Starts a command in a namespace; it ends with the lane."""
        words = [str(word) for word in ("ip", "netns", "exec", namespace, *words)]
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **options}
        process = subprocess.Popen(words, **options)
        self.processes.append(process)
        return process

    def impair(self, options):
        """Puts delaylink into the cable between laptop and gateway, or takes it out when there are no options."""
        if self.impaired:
            run(LINK, "down", self.laptop, "a0")
            self.impaired = False
        if options:
            self.impaired = True
            run(LINK, "up", self.laptop, "a0", self.gateway, *options)

    def link_state(self):
        """What delaylink counted, both directions."""
        return run(LINK, "stat", self.laptop, "a0") if self.impaired else ""

    def close(self):
        for process in reversed(self.processes):
            end(process)
        run(LINK, "down", self.laptop, "a0", check=False)
        for namespace in (self.laptop, self.gateway, self.pod):
            run("ip", "netns", "del", namespace, check=False)


def end(process):
    """Ends a process that this program started."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(3)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
