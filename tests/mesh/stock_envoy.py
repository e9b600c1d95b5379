#!/usr/bin/env python3
"""stock_envoy.py ENVOY [Envoy's arguments]: an Envoy without Istio's extensions in the place of Istio's proxy.

It is there to try these tests on a proxy that is known to work. A stock Envoy refuses Istio's own extensions, the one in the bootstrap file even
before it starts; so that one is taken out of the file, and ADS goes through a relay that takes the others out of what istiod pushes and gives a
filter-state object its stock name. What the proxy serves is then istiod's own configuration without Istio's telemetry."""
import ctypes
import json
import os
import pathlib
import signal
import socket
import struct
import subprocess
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "recorded"))
import mesh

ISTIO = (b"type.googleapis.com/stats.PluginConfig", b"type.googleapis.com/istio.envoy.config.filter.http.alpn", b"io.istio.http.peer_metadata",
         b"envoy.tcp.metadataexchange", b"envoy.extensions.network_filters.peer_metadata", b"envoy.extensions.network_peer_metadata",
         b"type.googleapis.com/istio.workload")
TYPED_STRUCT = b"udpa.type.v1.TypedStruct"
XDS, RELAY = "./etc/istio/proxy/XDS", "./etc/istio/proxy/relay"


# Protocol buffers without their schema: a message is what can be read as one.

def varint(data, i):
    value = shift = 0
    while True:
        byte = data[i]
        value |= (byte & 0x7F) << shift
        i, shift = i + 1, shift + 7
        if byte < 0x80:
            return value, i


def fields(data):
    """[(start, end, number, value of a length-delimited field or None)], or None where it is no message."""
    out, i = [], 0
    try:
        while i < len(data):
            start = i
            key, i = varint(data, i)
            kind, number, value = key & 7, key >> 3, None
            if kind == 0:
                _, i = varint(data, i)
            elif kind == 1:
                i += 8
            elif kind == 5:
                i += 4
            elif kind == 2:
                n, i = varint(data, i)
                value, i = data[i:i + n], i + n
            else:
                return None
            if number == 0 or i > len(data):
                return None
            out.append((start, i, number, value))
    except IndexError:
        return None
    return out


def encoded(value):
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def is_istio(any_message):
    """Whether this is an Any of Istio's."""
    parts = fields(any_message)
    if not parts or parts[0][2] != 1 or not parts[0][3] or not parts[0][3].startswith(b"type.googleapis.com/"):
        return False
    url = parts[0][3]
    if url.endswith(TYPED_STRUCT):
        inner = fields(parts[1][3]) if len(parts) > 1 and parts[1][3] else None
        url = inner[0][3] if inner and inner[0][3] else b""
    return any(i in url for i in ISTIO)


def without_istio(data):
    """The message without the elements (filters) that hold an Any of Istio's."""
    parts = fields(data)
    if not parts:
        return data
    out, changed = b"", False
    for start, end, number, value in parts:
        if value and len(value) > 20:
            inner = fields(value)
            if inner and any(v and is_istio(v) for *_, v in inner):
                changed = True
                continue
            new = without_istio(value)
            if new is not value:
                out, changed = out + encoded(number << 3 | 2) + encoded(len(new)) + new, True
                continue
        out += data[start:end]
    return out if changed else data


# The relay.

def relay(sock):
    upstream = socket.socket(socket.AF_UNIX)
    upstream.connect(XDS)
    agent = mesh.Connection(mesh.Socket(upstream)).start()

    def accept(stream):
        other = agent.open(stream.head())
        threading.Thread(target=up, args=(stream, other), daemon=True).start()
        try:
            stream.send_head(other.head())
            down(stream, other)
            stream.send_head(other.trailers or [("grpc-status", "0")], True)
        except mesh.Gone:
            stream.reset()
    mesh.Connection(mesh.Socket(sock), accept).read(b"")
    upstream.close()


def up(stream, other):
    try:
        while data := stream.recv():
            other.sendall(data)
        other.close_write()
    except mesh.Gone:
        other.reset()


def down(stream, other):
    buffer = b""
    while data := other.recv():
        buffer += data
        while len(buffer) >= 5 and len(buffer) >= 5 + (n := struct.unpack(">I", buffer[1:5])[0]):
            message, buffer = buffer[5:5 + n], buffer[5 + n:]
            message = without_istio(message).replace(b"istio.hashable_string", b"envoy.hashable_string")
            stream.sendall(b"\0" + struct.pack(">I", len(message)) + message)


def main():
    envoy, arguments = sys.argv[1], sys.argv[2:]
    at = arguments.index("-c") + 1
    bootstrap = json.loads(pathlib.Path(arguments[at]).read_text())
    bootstrap["bootstrap_extensions"] = [e for e in bootstrap["bootstrap_extensions"] if e["name"] != "metadata_discovery"]
    text = json.dumps(bootstrap).replace(XDS, RELAY)
    arguments[at] = "./etc/istio/proxy/stock.json"
    pathlib.Path(arguments[at]).write_text(text)

    mesh.PATIENCE = None  # a control plane may be silent
    listener = socket.socket(socket.AF_UNIX)
    pathlib.Path(RELAY).unlink(missing_ok=True)
    listener.bind(RELAY)
    listener.listen()

    def serve():
        while True:
            sock, _ = listener.accept()
            threading.Thread(target=relay, args=(sock,), daemon=True).start()
    threading.Thread(target=serve, daemon=True).start()
    # The agent ends its child with SIGKILL: Envoy must not survive that.
    child = subprocess.Popen([envoy, *arguments], preexec_fn=lambda: ctypes.CDLL(None).prctl(1, signal.SIGKILL))
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    sys.stdout.flush()
    os._exit(child.wait())


main()
