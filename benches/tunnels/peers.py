"""The ways through that are compared. Each sets up its tunnel in a lane with its own defaults, and says which processes are
it, and its inner MTU. What a machine or kernel does not have is skipped, with the reason."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

from lanes import GATEWAY, GATEWAY_INSIDE, LAPTOP, POD, POD_RANGE, ROOT, Failed, Lane, end, run

TOOLS = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "kvpn-tools"
PROGRAMS = Path(os.environ.get("KVPN_BENCH_PROGRAMS", ROOT / "target/release"))
TUNNEL = ("10.98.0.1", "10.98.0.2")
UDP_PORT = 51820
READY = 10


class Skipped(Exception):
    """This peer cannot run here, for this reason."""


class Peer:
    """A way through, set up in a lane of its own."""

    note = ""

    def __init__(self, index):
        self.index = index
        self.tunnel_processes = []
        self.lane = Lane(self.name)
        try:
            self.set_up()
            self.server = serve(self.lane)
            self.lane.inside(self.lane.laptop, program(PROGRAMS / "kvpn-bench"), "requests", POD, "--count", 1)
        except Exception:
            self.lane.close()
            raise

    def inner_mtu(self):
        """The MTU that a program on the laptop meets on its way to the pod."""
        route = self.lane.inside(self.lane.laptop, "ip", "route", "get", POD).split()
        link = self.lane.inside(self.lane.laptop, "cat", f"/sys/class/net/{route[route.index('dev') + 1]}/mtu", check=False)
        return int(link) if link.strip() else None

    def moved(self):
        """The link is another one now."""

    def close(self):
        self.lane.close()


class NoTunnel(Peer):
    """The cables alone: what all others lose against."""

    name = "none"
    title = "no tunnel"

    def set_up(self):
        run("ip", "-n", self.lane.laptop, "route", "add", POD_RANGE, "via", GATEWAY)


class WireGuard(Peer):
    """What speaks WireGuard's configuration protocol, at both ends."""

    mtu = 1420

    def set_up(self):
        lane, names = self.lane, (f"kb{self.index}a", f"kb{self.index}b")
        keys = [private_key(), private_key()]
        ends = ((lane.laptop, LAPTOP), (lane.gateway, GATEWAY))
        for (namespace, _), interface in zip(ends, names):
            self.open(namespace, interface)
        for near in (0, 1):
            far = 1 - near
            namespace, interface = ends[near][0], names[near]
            allowed = "0.0.0.0/0" if near == 0 else f"{TUNNEL[0]}/32"
            words = ["wg", "set", interface, "private-key", "/dev/stdin", "listen-port", UDP_PORT, "peer",
                     public_key(keys[far]), "allowed-ips", allowed, "endpoint", f"{ends[far][1]}:{UDP_PORT}"]
            configure(namespace, words, keys[near])
            run("ip", "-n", namespace, "addr", "add", f"{TUNNEL[near]}/24", "dev", interface)
            run("ip", "-n", namespace, "link", "set", interface, "mtu", self.mtu, "up")
        run("ip", "-n", lane.laptop, "route", "add", POD_RANGE, "dev", names[0])

    def open(self, namespace, interface):
        process = self.lane.start(namespace, *self.command(), interface, env={**os.environ, **self.environment})
        self.tunnel_processes.append(process)
        socket = Path(f"/run/wireguard/{interface}.sock")
        wait_for(socket.exists, f"{socket}", process)

    environment = {}


class WireGuardGo(WireGuard):
    name = "wggo"
    title = "wireguard-go"
    environment = {"LOG_LEVEL": "error"}

    def command(self):
        return [program(TOOLS / "go/bin/wireguard"), "-f"]


class Boringtun(WireGuard):
    name = "boringtun"
    title = "boringtun-cli"
    note = "one thread: with four it is slower here"

    def command(self):
        return [program(TOOLS / "bin/boringtun-cli"), "-f", "--disable-drop-privileges", "--threads", "1"]


class Gotatun(WireGuard):
    name = "gotatun"
    title = "gotatun-cli"

    def command(self):
        return [program(TOOLS / "bin/gotatun"), "-f", "--disable-drop-privileges", "-v", "error"]


class KernelWireGuard(WireGuard):
    name = "wgkernel"
    title = "kernel WireGuard"

    def open(self, namespace, interface):
        try:
            run("ip", "-n", namespace, "link", "add", interface, "type", "wireguard")
        except Failed as error:
            raise Skipped("this kernel has no WireGuard") from error


class Kvpn(Peer):
    """The real gateway and the client's real data path."""

    sessions, flows = 1024, 4096

    def set_up(self):
        lane = self.lane
        gateway = lane.start(
            lane.gateway, program(PROGRAMS / "kvpn-gateway"), "--datapath", self.datapath,
            "--pod-ips", f"{GATEWAY},{GATEWAY_INSIDE}", "--max-sessions", self.sessions, "--max-flows", self.flows,
            "--log", "warn", stderr=log(lane, "gateway"))
        wait_for(lambda: answers(lane), "the gateway's control API", gateway)
        self.tunnel_processes = [self.connect(self.carrier()), gateway]

    def connect(self, carrier):
        lane = self.lane
        client = lane.start(
            lane.laptop, program(PROGRAMS / "kvpn-bench"), "tunnel", "--netns", f"/run/netns/{lane.gateway}",
            *carrier, "--route", POD_RANGE, stdout=subprocess.PIPE, stderr=log(lane, "client"))
        if client.stdout.readline() != b"ready\n":
            raise Failed(f"{self.title}: the client did not get ready; see {log_path(lane, 'client')}")
        return client

    def carrier(self):
        return ["--gateway", f"{GATEWAY}:{UDP_PORT}"]


class KvpnKernel(Kvpn):
    name = "kkernel"
    title = "kvpn kernel"
    datapath = "kernel"


class KvpnUserspace(Kvpn):
    name = "kuser"
    title = "kvpn userspace"
    datapath = "userspace"


class OverApi:
    """The `api` carrier: `kvpn-bench port-forward` stands for the API server and the kubelet, and is not counted."""

    def carrier(self):
        lane, listen = self.lane, f"{GATEWAY}:6443"
        server = lane.start(lane.gateway, PROGRAMS / "kvpn-bench", "port-forward", listen, stdout=subprocess.PIPE)
        if server.stdout.readline() != b"ready\n":
            raise Failed("the port-forward's stand-in did not get ready")
        kubeconfig = Path(f"/tmp/{lane.laptop}.kubeconfig")
        kubeconfig.write_text(json.dumps(kubeconfig_for(f"http://{listen}")), encoding="utf-8")
        self.stream = ["--api", kubeconfig]
        return self.stream

    def moved(self):
        """A new stream: TCP takes the shortest round trip that it met for the path's own, for 10 s or more."""
        client, gateway = self.tunnel_processes
        end(client)
        self.lane.processes.remove(client)
        self.tunnel_processes = [self.connect(self.stream), gateway]


class KvpnKernelApi(OverApi, KvpnKernel):
    name = "kkernel-api"
    title = "kvpn kernel, api"


class KvpnUserspaceApi(OverApi, KvpnUserspace):
    name = "kuser-api"
    title = "kvpn userspace, api"


ALL = {kind.name: kind for kind in (NoTunnel, WireGuardGo, Boringtun, Gotatun, KernelWireGuard, KvpnKernel, KvpnUserspace,
                                    KvpnKernelApi, KvpnUserspaceApi)}


def kubeconfig_for(server):
    return {
        "apiVersion": "v1", "kind": "Config", "current-context": "lane",
        "clusters": [{"name": "lane", "cluster": {"server": server}}],
        "users": [{"name": "lane", "user": {}}],
        "contexts": [{"name": "lane", "context": {"cluster": "lane", "user": "lane"}}],
    }


def serve(lane):
    """The pod's servers."""
    server = lane.start(lane.pod, program(PROGRAMS / "kvpn-bench"), "serve", POD, stdout=subprocess.PIPE)
    if server.stdout.readline() != b"ready\n":
        raise Failed("the pod's servers did not get ready")
    return server


def program(path):
    if not shutil.which(str(path)):
        raise Skipped(f"{path} is missing")
    return path


def private_key():
    return run("wg", "genkey").strip()


def public_key(private):
    return subprocess.run(["wg", "pubkey"], input=private, capture_output=True, text=True, check=True).stdout.strip()


def configure(namespace, words, key):
    words = ["ip", "netns", "exec", namespace, *(str(word) for word in words)]
    done = subprocess.run(words, input=key, capture_output=True, text=True, timeout=10)
    if done.returncode:
        raise Failed(f"{' '.join(words)}: {done.stderr.strip()}")


def answers(lane):
    """Whether something listens on the control port (6180, 0x1824) of the gateway's namespace."""
    text = lane.inside(lane.gateway, "cat", "/proc/net/tcp")
    return any(line.split()[1].endswith(":1824") and line.split()[3] == "0A" for line in text.splitlines()[1:])


def wait_for(condition, what, process, limit=READY):
    end = time.monotonic() + limit
    while not condition():
        if process.poll() is not None:
            raise Failed(f"{' '.join(process.args)} ended with {process.returncode}")
        if time.monotonic() > end:
            raise Failed(f"gave up waiting for {what}")
        time.sleep(0.02)


def log_path(lane, what):
    return Path(f"/tmp/{lane.laptop}.{what}.log")


def log(lane, what):
    return open(log_path(lane, what), "wb")
