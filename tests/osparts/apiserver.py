#!/usr/bin/python3
"""apiserver.py ADDRESS PORT...: stands in for the API servers of clusters, one a port and without TLS, that have one gateway, which listens on
this network's 127.0.0.1. Answers what `kvpn connect` reads, and forwards ports to the gateway. What it is asked to change it refuses."""
import asyncio
import base64
import hashlib
import json
import sys
from urllib.parse import parse_qs, urlsplit

LABELS = {"app.kubernetes.io/name": "kvpn-gateway", "app.kubernetes.io/managed-by": "kvpn"}
GATEWAY = {
    "apiVersion": "v1", "kind": "Pod",
    "metadata": {"name": "kvpn-gateway-0", "namespace": "kvpn", "uid": "u", "labels": LABELS},
    "spec": {"nodeName": "node", "containers": [{"name": "gateway", "image": "kvpn/gateway:box"}]},
    "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}], "podIPs": [{"ip": "10.244.0.9"}]},
}
NODE = {"metadata": {"name": "node"}, "spec": {"podCIDRs": ["10.244.0.0/16"]}, "status": {}}
LISTS = {
    "/api/v1/namespaces": [{"metadata": {"name": name}} for name in ("default", "orders", "payments")],
    "/api/v1/namespaces/kvpn/pods": [GATEWAY],
    "/api/v1/namespaces/default/pods": [],
    "/api/v1/namespaces/payments/pods": [],
    "/api/v1/pods": [GATEWAY],
    "/api/v1/nodes": [NODE],
    "/apis/networking.k8s.io/v1/servicecidrs": [{"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/16"]}}],
}
FORWARD = "/api/v1/namespaces/kvpn/pods/kvpn-gateway-0/portforward"
# RFC 6455, section 1.3.
MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
BINARY, CLOSE, PING, PONG = 2, 8, 9, 10


async def serve(reader, writer):
    try:
        while head := (await reader.readuntil(b"\r\n\r\n")).decode():
            request, *lines = head.split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            await reader.readexactly(int(headers.get("content-length", 0)))
            method, target, _ = request.split()
            url = urlsplit(target)
            query = parse_qs(url.query)
            if url.path == FORWARD:
                return await forward(reader, writer, headers["sec-websocket-key"], int(query["ports"][0]))
            if method == "GET" and "watch" in query:
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
                return await reader.read()
            writer.write(answer(method, url.path))
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


def answer(method, path):
    if method == "GET" and path == "/version":
        status, body = "200 OK", {"major": "1", "minor": "35", "gitVersion": "v1.35.0", "gitCommit": "", "gitTreeState": "", "buildDate": "",
                                  "goVersion": "", "compiler": "", "platform": ""}
    elif method == "GET" and path in LISTS:
        status, body = "200 OK", {"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "1"}, "items": LISTS[path]}
    else:
        status, body = "404 Not Found", {"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404,
                                         "message": path + " is not there"}
    body = json.dumps(body).encode()
    return f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


async def forward(reader, writer, key, port):
    accept = base64.b64encode(hashlib.sha1(key.encode() + MAGIC).digest()).decode()
    writer.write(("HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
                  f"sec-websocket-accept: {accept}\r\nsec-websocket-protocol: v4.channel.k8s.io\r\n\r\n").encode())
    for channel in (b"\0", b"\1"):
        writer.write(frame(BINARY, channel + port.to_bytes(2, "little")))
    try:
        theirs, ours = await asyncio.open_connection("127.0.0.1", port)
    except OSError as error:
        return writer.write(frame(BINARY, b"\1connection refused: " + str(error).encode()))
    ways = [asyncio.create_task(way) for way in (to_gateway(reader, writer, ours), from_gateway(theirs, writer))]
    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    for way in ways:
        way.cancel()
    ours.close()


async def to_gateway(reader, writer, gateway):
    while True:
        first, length = await reader.readexactly(2)
        length &= 127
        if length > 125:
            length = int.from_bytes(await reader.readexactly(2 if length == 126 else 8), "big")
        mask = await reader.readexactly(4)
        data = await reader.readexactly(length)
        data = bytes(byte ^ mask[place & 3] for place, byte in enumerate(data))
        if first & 15 == CLOSE:
            return
        if first & 15 == PING:
            writer.write(frame(PONG, data))
        elif first & 15 == BINARY and data[:1] == b"\0":
            gateway.write(data[1:])


async def from_gateway(gateway, writer):
    while data := await gateway.read(65536):
        writer.write(frame(BINARY, b"\0" + data))
        await writer.drain()
    writer.write(frame(CLOSE, b""))


def frame(kind, data):
    length = len(data)
    if length < 126:
        size = bytes([length])
    elif length < 1 << 16:
        size = b"\x7e" + length.to_bytes(2, "big")
    else:
        size = b"\x7f" + length.to_bytes(8, "big")
    return bytes([128 | kind]) + size + data


async def main():
    address, *ports = sys.argv[1:]
    servers = [await asyncio.start_server(serve, address, int(port)) for port in ports]
    await asyncio.gather(*(server.serve_forever() for server in servers))


asyncio.run(main())
