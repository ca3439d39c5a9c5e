#!/usr/bin/env python3
"""What callers in the test cluster notice of `kvpn expose`: time to take effect and to restore, lost requests; requests and
throughput through an exposure, beside the origin directly and beside `kubectl port-forward` the other way. Needs root, the
test cluster, KVPN_BIN and KVPN_IMAGE_TAR (`make bench-exposures` sees to them). Standard library only.

    exposures.py [--rounds 20] [--seconds 3] [--many 1000]
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import tempfile
import time

CLUSTER = pathlib.Path(__file__).resolve().parent.parent / "tests/cluster"
NAMESPACE = "kvpn-bench-exposures"
LAPTOP = "kvpn-laptop-bench-expose"
ASKER = "asker"
LIMIT = 120


def run(*words, check=True, limit=LIMIT, given=None):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=limit, input=given)
    if check and done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def kubectl(*words, **options):
    return run(CLUSTER / "k", "-n", NAMESPACE, *words, **options)


def laptop(*words, **options):
    return run(CLUSTER / "laptop.sh", "exec", LAPTOP, *words, **options)


def in_pod(*words, **options):
    return kubectl("exec", ASKER, "--", *words, **options)


def pod(name, node, command):
    return {"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "labels": {"app": name.split("-")[0]}},
            "spec": {"nodeName": f"kvpn-node{node}", "terminationGracePeriodSeconds": 0,
                     "containers": [{"name": "traffic", "image": "kvpn.test/echo:1", "imagePullPolicy": "Never", "command": command}]}}


def stage():
    """An origin of two pods behind Service `web`, somebody who asks, a laptop whose program says `laptop`."""
    subprocess.run([CLUSTER / "import-image.sh", os.environ["KVPN_IMAGE_TAR"]], check=True, stdout=subprocess.DEVNULL)
    run(CLUSTER / "k", "delete", "namespace", NAMESPACE, "--ignore-not-found")
    run(CLUSTER / "k", "create", "namespace", NAMESPACE)
    serve = ["traffic", "serve", "-name", "origin"]
    web = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
           "spec": {"selector": {"app": "origin"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}}
    items = [pod("origin-1", 1, serve), pod("origin-2", 2, serve), pod(ASKER, 1, ["sleep", "1000000"]), web]
    kubectl("apply", "-f", "-", given=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    kubectl("wait", "pod", "--all", "--for=condition=Ready", "--timeout=60s")
    run(CLUSTER / "laptop.sh", "stop", LAPTOP)
    run(CLUSTER / "laptop.sh", "start", LAPTOP, "plain", "own", os.environ["KVPN_BIN"])
    laptop("bash", "-c", "traffic serve -name laptop -http 127.0.0.1:8080 -grpc '' -lines '' >/dev/null 2>&1 &")
    kvpn("gateway", "install")


def kvpn(*words, **options):
    return laptop("kvpn", "-n", NAMESPACE, *words, **options)


def expose(*options):
    kvpn("expose", "--detach", "8080:80", "as", "web", *options)


def unexpose():
    kvpn("unexpose", "web")


def kill():
    laptop("bash", "-c", "kill -KILL $(pgrep -f '^[^ ]*kvpn agent')")


def url():
    return f"http://{kubectl('get', 'service', 'web', '-o', 'jsonpath={.spec.clusterIP}')}:80"


def now():
    return time.time() * 1000


def first(count, server, since):
    """Milliseconds from `since` to the first answer by another server."""
    times = [change["at"] for change in count["changes"] if change["to"] == server and change["at"] >= since]
    return times[0] - since if times else None


def await_server(server, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        count = json.loads(in_pod("traffic", "burst", "-to", url(), "-n", "8", "-c", "2"))
        if count["servers"].get(server, {}).get("answers") == 8:
            return
    raise SystemExit(f"callers do not reach {server}")


def switch_once(end, to_wait):
    """One exposure, polled with a new connection every 5 ms. Gives ms to take effect, ms to restore, questions, lost ones."""
    file = f"/poll-{time.time_ns()}.json"
    # kube-proxy takes changes once a second: one right after the last would measure that.
    time.sleep(2)
    in_pod("sh", "-c", f"traffic poll -hz 200 -for 2m -to {url()} >{file} 2>&1 & echo $! >{file}.pid")
    began = now()
    expose("--takeover")
    await_server("laptop")
    ended = now()
    end()
    await_server("origin", to_wait)
    count = json.loads(in_pod("sh", "-c", f"kill -INT $(cat {file}.pid); until [ -s {file} ]; do sleep 0.05; done; cat {file}"))
    return first(count, "laptop", began), first(count, "origin", ended), count["requests"], len(count["errors"])


def switches(rounds):
    rows = []
    for name, end, times in [("unexpose", unexpose, rounds), ("kill -9 of the client", kill, max(3, rounds // 4))]:
        samples = [switch_once(end, 30) for _ in range(times)]
        effect, back, asked, lost = zip(*samples)
        rows.append((name, times, effect, back, sum(asked), sum(lost)))
        if end is kill:
            kvpn("restore", "--all", check=False)
    print(f"\n{'ended by':24}{'n':>4}  {'in effect, ms':>22}  {'restored, ms':>22}  {'asked':>8} {'lost':>6}")
    for name, times, effect, back, asked, lost in rows:
        print(f"{name:24}{times:4}  {spread(effect):>22}  {spread(back):>22}  {asked:8} {lost:6}")


def spread(samples):
    known = [sample for sample in samples if sample is not None]
    if len(known) < len(samples):
        return f"{len(samples) - len(known)} never"
    return f"{statistics.median(known):.0f} (worst {max(known):.0f})"


def measured(where, address, seconds):
    """up and down in Mbit/s with one stream and four, p50 and p99 of keep-alive requests in ms."""
    figures = []
    for streams in (1, 4):
        for way in ("up", "down"):
            figures.append(float(where("measure", way, address, seconds, streams)))
    return figures + [float(text) for text in where("measure", "requests", f"http://{address}/", 1000).split()]


def lanes(rounds, seconds):
    """Interleaved rounds: the origin directly, through an exposure to the origin and to the laptop, port-forward the other way."""
    address = url().removeprefix("http://")
    found = {}

    def take(name, where, address):
        found.setdefault(name, []).append(measured(where, address, seconds))

    for _ in range(rounds):
        take("origin directly", in_pod, address)
        expose("--match", "x-dev: ana")
        take("exposed, not matched: origin", in_pod, address)
        unexpose()
        expose("--mirror")
        take("exposed, a copy to the laptop", in_pod, address)
        unexpose()
        expose("--takeover")
        await_server("laptop")
        take("exposed: laptop", in_pod, address)
        unexpose()
        await_server("origin")
        take("port-forward, laptop to pod", *forwarded())
        laptop("bash", "-c", "kill $(pgrep -f '^kubectl .*port-forward')")
    titles = ["up 1", "down 1", "up 4", "down 4", "p50", "p99"]
    print(f"\n{'':32}" + "".join(f"{title:>10}" for title in titles) + "   Mbit/s; ms")
    for name, samples in found.items():
        medians = [statistics.median(column) for column in zip(*samples)]
        print(f"{name:32}" + "".join(f"{value:10.2f}" if value < 100 else f"{value:10.0f}" for value in medians))


def forwarded():
    line = f"kubectl -n {NAMESPACE} port-forward pod/origin-1 18080:8080 >/dev/null 2>&1 & " \
        "until curl -fsS -o /dev/null http://127.0.0.1:18080/ 2>/dev/null; do sleep 0.1; done"
    laptop("bash", "-c", line)
    return laptop, "127.0.0.1:18080"


class Crowd:
    """One session that exposes many Services, so that the gateway's part is what is measured: `kvpn-bench tunnel`, in the laptop's
    network. Its Services say from the start that they are exposed; the gateway only has to be told."""

    def __init__(self, many):
        self.many = many
        self.pid = gateway_pid()
        self.memory = [memory(self.pid)]
        kubeconfig = kubectl("config", "view", "--raw", "--minify", "-o", "json")
        config = json.loads(kubeconfig)
        config["contexts"][0]["context"]["namespace"] = NAMESPACE
        self.kubeconfig = tempfile.NamedTemporaryFile("w", suffix=".json")
        json.dump(config, self.kubeconfig)
        self.kubeconfig.flush()
        program = pathlib.Path(os.environ["KVPN_BIN"]).with_name("kvpn-bench")
        self.process = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{LAPTOP}", program, "tunnel", "--netns", f"/proc/{self.pid}/ns/net",
             "--api", self.kubeconfig.name, "--interface", "kvpn-crowd", "--expose", "8080"], stdout=subprocess.PIPE, text=True)
        self.session, self.gateway, *_ = self.process.stdout.readline().split()
        if self.process.stdout.readline() != "ready\n":
            raise SystemExit("kvpn-bench has no tunnel")

    def wish(self, number):
        return {"owner": "crowd", "origin": "origin", "ports": [{"port": 80, "laptopPort": 8080, "gatewayPort": 21000 + number}]}

    def service(self, number):
        original = {"selector": {"app": "origin"}, "ports": [{"gatewayPort": 21000 + number, "targetPort": 8080}]}
        owner = {"session": self.session, "since": "2026-01-01T00:00:00Z", "expose": self.wish(number)}
        annotation = {"version": 1, "gateway": "kvpn-gateway-0", "original": original, "owners": [owner]}
        selector = {"app.kubernetes.io/name": "kvpn-gateway", "statefulset.kubernetes.io/pod-name": "kvpn-gateway-0"}
        return {"apiVersion": "v1", "kind": "Service",
                "metadata": {"name": f"many-{number}", "annotations": {"kvpn.dev/exposure": json.dumps(annotation)}},
                "spec": {"selector": selector, "ports": [{"port": 80, "targetPort": 21000 + number}]}}

    def expose(self):
        """Seconds for the gateway to take all of them."""
        origin = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "origin"},
                  "spec": {"selector": {"app": "origin"}, "ports": [{"port": 80, "targetPort": 8080}]}}
        kubectl("create", "-f", "-", given=json.dumps(origin))
        # The gateway gives a Service back whose session does not say within 12 s what it wants.
        took = sum(self.expose_some(range(begin, min(begin + 100, self.many))) for begin in range(0, self.many, 100))
        self.memory.append(memory(self.pid))
        return took

    def expose_some(self, numbers):
        services = [self.service(number) for number in numbers]
        kubectl("create", "-f", "-", given=json.dumps({"apiVersion": "v1", "kind": "List", "items": services}), limit=600)
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            lines = []
            for number in numbers:
                body = pathlib.Path(folder, str(number))
                body.write_text(json.dumps(self.wish(number)))
                url = f"http://{self.gateway}:6180/v1/session/exposures/{NAMESPACE}/many-{number}"
                lines.append(f'url = "{url}"\nrequest = PUT\nheader = "content-type: application/json"\ndata = "@{body}"\n'
                             'output = /dev/null\nwrite-out = "%{http_code}\\n"\n')
            answers = run("nsenter", f"--net=/run/netns/{LAPTOP}", "curl", "-s", "-K", "-", given="next\n".join(lines), limit=600)
        took = time.monotonic() - began
        refused = [code for code in answers.split() if code != "200"]
        if refused or len(answers.split()) != len(numbers):
            raise SystemExit(f"{len(refused)} of {len(numbers)} were refused: {refused[:5]}")
        return took

    def ask(self):
        """A question to each Service: how many the laptop answered."""
        services = json.loads(kubectl("get", "services", "-o", "json"))["items"]
        addresses = [one["spec"]["clusterIP"] for one in services if one["metadata"]["name"].startswith("many-")]
        line = "for a in $(cat); do traffic burst -to http://$a:80 -n 1; done"
        counts = run(CLUSTER / "k", "-n", NAMESPACE, "exec", "-i", ASKER, "--", "sh", "-c", line, given="\n".join(addresses), limit=600)
        counts = [json.loads(count) for count in counts.splitlines()]
        self.memory.append(memory(self.pid))
        return sum("laptop" in count["servers"] for count in counts)

    def end(self):
        self.process.terminate()
        self.process.wait()


def gateway_pid():
    uid = kubectl("get", "pod", "kvpn-gateway-0", "-o", "jsonpath={.metadata.uid}")
    for pid in run("pgrep", "-x", "kvpn-gateway").split():
        if uid in pathlib.Path("/proc", pid, "cgroup").read_text():
            return int(pid)
    raise SystemExit("no gateway runs")


def memory(pid):
    """Proportional set size in MiB."""
    rollup = pathlib.Path("/proc", str(pid), "smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) / 1024


def scale(many):
    crowd = Crowd(many)
    try:
        took = crowd.expose()
        answered = crowd.ask()
    finally:
        crowd.end()
    before, exposed, after = crowd.memory
    print(f"\n{many} exposures in one gateway: taken in {took:.1f} s, {answered} answered by the laptop; "
          f"gateway {before:.1f} MiB before, {exposed:.1f} with them, {after:.1f} after a question to each")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--many", type=int, default=1000)
    options = parser.parse_args()
    stage()
    try:
        switches(options.rounds)
        lanes(max(1, options.rounds // 7), options.seconds)
        scale(options.many)
    finally:
        run(CLUSTER / "laptop.sh", "stop", LAPTOP)
        run(CLUSTER / "k", "delete", "namespace", NAMESPACE, "--wait=false")


if __name__ == "__main__":
    main()
