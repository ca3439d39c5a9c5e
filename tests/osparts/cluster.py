#!/usr/bin/python3
"""cluster.py GATEWAY ADDRESS: a played cluster in this network namespace, for the real `kvpn connect` where no Kubernetes can be.

Real: the program kvpn-gateway, its tunnel, and the way to it through a port-forward. Played: an API server that shows the gateway's pod
and two namespaces, forbids the rest and forwards to the gateway's ports; the cluster's DNS (kubernetes, web and far in default, db in orders);
a web server at 10.96.0.7:80. ADDRESS is where the laptop finds API server (port 6443), the gateway's UDP port, and a DNS server of the
internet that knows example.com. Prints `ready`. A line on
standard input makes a session's lease pass: the gateway's clock (clock.c) is set ahead, and `ready` comes when it has forgotten all
sessions. All ends with standard input.

Must not judge what a client asks: nobody is refused."""
import asyncio, base64, hashlib, json, pathlib, re, struct, subprocess, sys, tempfile, urllib.request

GATEWAY, ADDRESS = sys.argv[1:]
API, DNS, WEB = 6443, "10.96.0.10", "10.96.0.7"
# Seconds, more than a session's lease.
LEASE = 16 * 60
CLUSTER = {f"{name}.svc.cluster.local": address for name, address in
           {"kubernetes.default": "10.96.0.1", "web.default": WEB, "db.orders": "10.96.0.8", "far.default": "10.96.4.7"}.items()}
INTERNET = {"example.com": "198.51.100.7"}


def listing(kind, version, items):
    return {"kind": f"{kind}List", "apiVersion": version, "metadata": {"resourceVersion": "1"}, "items": items}


def pod():
    return {"metadata": {"name": "kvpn-gateway-0", "namespace": "default", "uid": "played", "resourceVersion": "1"},
            "spec": {"containers": [{"name": "gateway", "image": "played"}]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}}


def answer(path):
    """What the API server says to a GET: its code and document; None for a watch, which stays silent."""
    path, _, query = path.partition("?")
    if "watch=true" in query:
        return None
    if path == "/api/v1/namespaces/default/pods":
        return 200, listing("Pod", "v1", [pod()])
    if path == "/api/v1/namespaces":
        names = [{"metadata": {"name": name, "resourceVersion": "1"}} for name in ("default", "orders")]
        return 200, listing("Namespace", "v1", names)
    if path == "/apis/networking.k8s.io/v1/servicecidrs":
        return 200, listing("ServiceCIDR", "networking.k8s.io/v1", [
            {"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/16"]}}])
    return 403, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden", "code": 403, "message": "played"}


async def api(reader, writer):
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in head[1:-2])}
            await reader.readexactly(int(headers.get("content-length", 0)))
            path = head[0].split(" ")[1]
            if "sec-websocket-key" in headers:
                return await forward(reader, writer, headers, int(path.partition("ports=")[2].split("&")[0]))
            said = answer(path)
            if said is None:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
                return await reader.read()
            body = json.dumps(said[1]).encode()
            writer.write(f"HTTP/1.1 {said[0]} Played\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


def frame(kind, payload):
    size = len(payload)
    length = bytes([size]) if size < 126 else struct.pack(">BH", 126, size) if size < 65536 else struct.pack(">BQ", 127, size)
    return bytes([0x80 | kind]) + length + payload


async def message(reader):
    """Kind and payload of a client's frame (RFC 6455, 5.2)."""
    first, size = await reader.readexactly(2)
    size &= 127
    if size > 125:
        size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8), "big")
    mask = await reader.readexactly(4)
    payload = await reader.readexactly(size)
    mask = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
    return first & 15, (int.from_bytes(payload, "big") ^ mask).to_bytes(size, "big")


async def forward(reader, writer, headers, port):
    """pods/portforward: channel 0 has the bytes, and the port at first."""
    key = hashlib.sha1((headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
    protocol = headers.get("sec-websocket-protocol", "").split(",")[0].strip()
    writer.write(f"HTTP/1.1 101 Played\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Protocol: {protocol}\r\n"
                 f"Sec-WebSocket-Accept: {base64.b64encode(key).decode()}\r\n\r\n".encode())
    for channel in (0, 1):
        writer.write(frame(2, struct.pack("<BH", channel, port)))
    try:
        there, to = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionError:
        writer.write(frame(2, b"\1connection refused"))
        return

    async def back():
        try:
            while data := await there.read(60000):
                writer.write(frame(2, b"\0" + data))
                await writer.drain()
        except ConnectionError:
            pass
        writer.close()

    back = asyncio.create_task(back())
    try:
        while True:
            kind, payload = await message(reader)
            if kind == 9:
                writer.write(frame(10, payload))
            elif kind == 8:
                break
            elif payload[:1] == b"\0":
                to.write(payload[1:])
                await to.drain()
    finally:
        back.cancel()
        to.close()


class Names(asyncio.DatagramProtocol):
    """A DNS server for names with an A record each."""

    def __init__(self, names):
        self.names = names

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, query, sender):
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1:at + 1 + query[at]].decode().lower())
            at += 1 + query[at]
        address = self.names.get(".".join(labels))
        is_a = query[at + 1:at + 3] == b"\0\1"
        record = b"\xc0\x0c\0\1\0\1\0\0\0\5\0\4" + bytes(map(int, address.split("."))) if address and is_a else b""
        head = query[:2] + struct.pack(">BBHHHH", 0x85, 0x80 if address else 0x83, 1, 1 if record else 0, 0, 0)
        self.transport.sendto(head + query[12:at + 5] + record, sender)


async def web(reader, writer):
    try:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\n\r\nweb\n")
        await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    writer.close()


def metric(name):
    with urllib.request.urlopen("http://127.0.0.1:6182/metrics") as page:
        return int(re.search(rf"^{name} (\d+)$", page.read().decode(), re.MULTILINE)[1])


async def until(condition):
    while True:
        try:
            if await asyncio.to_thread(condition):
                return print("ready", flush=True)
        except OSError:
            pass
        await asyncio.sleep(0.02)


async def gateway(folder):
    """Starts it; gives what ends it, and the file that sets its clock."""
    clock, resolver, preloaded = folder / "clock", folder / "resolv.conf", folder / "clock.so"
    clock.write_bytes(bytes(8))
    resolver.write_text(f"nameserver {DNS}\nsearch default.svc.cluster.local svc.cluster.local cluster.local\n")
    source = pathlib.Path(__file__).with_name("clock.c")
    subprocess.run(["cc", "-D_GNU_SOURCE", "-O1", "-shared", "-fPIC", "-o", preloaded, source], check=True)
    program = await asyncio.create_subprocess_exec(
        GATEWAY, "--datapath", "userspace", "--resolv-conf", resolver, "--pod-ips", "10.97.0.1", "--pod-namespace", "default",
        "--pod-name", "kvpn-gateway-0", "--udp-endpoint", f"{ADDRESS}:51820", "--allow", "10.96.0.0/16", "--log", "warn",
        stdin=subprocess.DEVNULL, env={"LD_PRELOAD": preloaded, "CLOCK_AHEAD": clock})
    return program, clock


async def main(folder):
    loop = asyncio.get_running_loop()
    for address in (DNS, WEB, ADDRESS):
        subprocess.run(["ip", "addr", "add", f"{address}/32", "dev", "lo"], check=True)
    await asyncio.start_server(api, "0.0.0.0", API)
    await asyncio.start_server(web, WEB, 80)
    for address, names in ((DNS, CLUSTER), ("127.0.0.1", INTERNET), (ADDRESS, INTERNET)):
        await loop.create_datagram_endpoint(lambda names=names: Names(names), local_addr=(address, 53))
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    program, clock = await gateway(folder)
    await until(lambda: metric("kvpn_sessions") == 0)
    ahead = 0
    while await lines.readline():
        ahead += LEASE
        with clock.open("r+b") as file:
            file.write(struct.pack("q", ahead))
        await until(lambda: metric("kvpn_sessions") == 0)
    program.kill()
    await program.wait()


with tempfile.TemporaryDirectory() as folder:
    asyncio.run(main(pathlib.Path(folder)))
