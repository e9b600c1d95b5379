"""Scripted backends: h1, h2, TLS, raw TCP, a dead port, and a listener whose backlog is full.

Every backend appends what it sees to `records`, so that the upstream view of a step can be compared.
"""
import asyncio
import hashlib
import json
import socket
import ssl
import struct

import hpack

from . import h2frames as f
from .script import parse


def server_tls(spec, certs):
    ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    name = spec.get("cert", "server")
    ctx.load_cert_chain(f"{certs}/{name}.pem", f"{certs}/{name}.key")
    if spec.get("client_ca"):
        ctx.load_verify_locations(f"{certs}/ca.pem")
        ctx.verify_mode = ssl.CERT_REQUIRED
    if spec.get("alpn"):
        ctx.set_alpn_protocols(list(spec["alpn"]))
    return ctx


def reset(writer):
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def hash_body(body):
    """Short bodies are kept readable, long ones as length and digest."""
    if len(body) <= 256:
        return body.decode("latin-1")
    return f"<{len(body)} bytes sha256:{hashlib.sha256(body).hexdigest()[:16]}>"


class Backend:
    """One listening backend; `kind` is script | tcp | dead | blackhole, `proto` h1 | h2."""

    def __init__(self, name, spec, sock, certs):
        self.name, self.spec, self.sock, self.certs = name, spec or {}, sock, certs
        self.port = sock.getsockname()[1]
        self.records, self.counters = [], {}
        self.conns = 0
        self.server = None
        self.fillers = []
        self.tasks = set()

    async def start(self):
        kind = self.spec.get("kind", "script")
        if kind == "dead":
            return  # bound and never listening: connects are refused, nobody else gets the port
        if kind == "blackhole":
            self.sock.listen(0)
            for _ in range(3):  # Linux accepts backlog+1 connections; the third stays in SYN_SENT
                s = socket.socket()
                s.setblocking(False)
                s.connect_ex(("127.0.0.1", self.port))
                self.fillers.append(s)
            await asyncio.sleep(0.05)
            return
        self.sock.listen(128)
        tls = server_tls(self.spec["tls"], self.certs) if "tls" in self.spec else None
        handler = {"tcp": self._tcp, "h1": self._h1, "h2": self._h2}["tcp" if kind == "tcp" else self.spec.get("proto", "h1")]
        self.server = await asyncio.start_server(lambda r, w: self._guard(handler, r, w), sock=self.sock, ssl=tls, limit=1 << 24)

    async def stop(self):
        for s in self.fillers:
            s.close()
        if self.server:
            self.server.close()
        for task in list(self.tasks):
            task.cancel()
        self.sock.close()

    async def _guard(self, handler, reader, writer):
        self.conns += 1
        task = asyncio.current_task()
        self.tasks.add(task)
        try:
            await handler(reader, writer, self.conns)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ssl.SSLError, asyncio.CancelledError):
            pass
        finally:
            self.tasks.discard(task)
            writer.close()

    def _record(self, conn, **fields):
        rec = {"backend": self.name, "conn": conn, "done": False, **fields}
        self.records.append(rec)
        return rec

    async def _tcp(self, reader, writer, conn):
        """Echo; the bytes received are the record. `hello` is sent first when configured."""
        rec = self._record(conn, tcp="")
        if self.spec.get("hello"):
            writer.write(self.spec["hello"].encode("latin-1"))
        data = bytearray()
        try:
            while chunk := await reader.read(65536):
                data += chunk
                rec["tcp"] = hash_body(bytes(data))
                writer.write(chunk)
                await writer.drain()
            rec["end"] = "fin"
        finally:
            rec["done"] = True

    # ---- HTTP/1
    async def _h1(self, reader, writer, conn):
        while True:
            line = await reader.readline()
            if not line:
                return
            rec = self._record(conn, request=line.rstrip(b"\r\n").decode("latin-1"), headers=[], body="", trailers=[], framing="none", complete=False)
            try:
                if not await self._h1_one(reader, writer, rec):
                    return
            finally:
                rec["done"] = True

    async def _h1_one(self, reader, writer, rec):
        rec["headers"] = await self._h1_headers(reader)
        get = {}
        for name, value in rec["headers"]:
            get.setdefault(name.lower(), value)
        method, path = (rec["request"].split(" ") + ["", ""])[:2]
        action = parse(get.get("x-be") or path, self.counters)
        if action.kind == "upgrade":
            rec["framing"], rec["complete"] = "upgrade", True
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: " + get.get("upgrade", "foo").encode("latin-1") + b"\r\n\r\n")
            data = bytearray()
            while chunk := await reader.read(65536):
                data += chunk
                rec["body"] = hash_body(bytes(data))
                writer.write(chunk)
            return False
        if action.kind == "raw" and get.get("x-be-early"):
            writer.write(action.raw)  # answer before the body is read
        if get.get("expect", "").lower() == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await self._h1_body(reader, rec, get)
        rec["body"], rec["complete"] = hash_body(body), True
        return await self._h1_reply(writer, rec, method, path, body, action)

    @staticmethod
    async def _h1_headers(reader):
        out = []
        while True:
            line = (await reader.readuntil(b"\r\n"))[:-2].decode("latin-1")
            if not line:
                return out
            name, _, value = line.partition(":")
            out.append([name, value[1:] if value.startswith(" ") else value])

    async def _h1_body(self, reader, rec, get):
        if "chunked" in get.get("transfer-encoding", "").lower():
            rec["framing"] = "chunked"
            body = bytearray()
            while True:
                size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
                if size == 0:
                    rec["trailers"] = await self._h1_headers(reader)
                    return bytes(body)
                body += await reader.readexactly(size)
                rec["body"] = hash_body(bytes(body))
                await reader.readexactly(2)
        if "content-length" in get:
            rec["framing"] = "cl"
            return await reader.readexactly(int(get["content-length"]))
        return b""

    async def _h1_reply(self, writer, rec, method, path, body, action):
        if action.delay:
            await asyncio.sleep(action.delay)
        if action.kind == "close":
            return False
        if action.kind == "rst":
            reset(writer)
            return False
        if action.kind == "raw":
            writer.write(action.raw)
            await writer.drain()
            return not action.close
        if action.kind == "stream":
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            for _ in range(action.length):
                writer.write(b"6\r\nchunk\n\r\n")
                await writer.drain()
                await asyncio.sleep(action.body_delay)
            writer.write(b"0\r\n\r\n")
            return True
        payload = self._payload(rec, action, body)
        headers = list(action.headers)
        if action.kind == "echo":
            headers.append(["content-type", "application/json"])
        if action.status != 204:
            headers.append(["content-length", str(action.length if action.length is not None else len(payload))])
        head = f"HTTP/1.1 {action.status} X\r\n" + "".join(f"{n}: {v}\r\n" for n, v in headers) + "\r\n"
        writer.write(head.encode("latin-1"))
        if action.body_delay:
            await writer.drain()
            await asyncio.sleep(action.body_delay)
        if method != "HEAD" and action.status not in (204, 304):
            writer.write(payload)
        await writer.drain()
        return not action.close

    @staticmethod
    def _payload(rec, action, body):
        if action.kind != "echo":
            return action.body
        return json.dumps({"request": rec["request"], "headers": rec["headers"], "body": body.decode("latin-1"), "trailers": rec["trailers"]}).encode()

    # ---- HTTP/2
    async def _h2(self, reader, writer, conn):
        if await reader.readexactly(len(f.PREFACE)) != f.PREFACE:
            return
        writer.write(f.settings({"initial_window_size": 1 << 20}) + f.frame(f.WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 24)))
        decoder, streams, blocks = hpack.Decoder(max_header_list_size=1 << 22), {}, {}
        try:
            while True:
                head = await reader.readexactly(9)
                size, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
                sid = int.from_bytes(head[5:9], "big") & 0x7FFFFFFF
                payload = await reader.readexactly(size)
                if kind == f.SETTINGS and not flags & f.ACK:
                    writer.write(f.settings(ack=True))
                elif kind == f.PING and not flags & f.ACK:
                    writer.write(f.frame(f.PING, f.ACK, 0, payload))
                elif kind == f.RST and sid in streams:
                    streams[sid].update(done=True, end=f"rst:{int.from_bytes(payload, 'big')}")
                elif kind in (f.HEADERS, f.CONTINUATION):
                    if kind == f.HEADERS and flags & 0x20:
                        payload = payload[5:]
                    first_flags, data = blocks.get(sid, (flags, b""))
                    blocks[sid] = (first_flags, data + payload)
                    if flags & f.END_HEADERS:
                        first_flags, data = blocks.pop(sid)
                        fields = [[n.decode("latin-1"), v.decode("latin-1")] for n, v in decoder.decode(data, raw=True)]
                        self._h2_headers(writer, conn, streams, sid, fields, bool(first_flags & f.END_STREAM))
                elif kind == f.DATA and sid in streams:
                    if flags & f.PADDED:
                        payload = payload[1:len(payload) - payload[0]]
                    streams[sid]["_body"] += payload
                    if size:
                        writer.write(f.frame(f.WINDOW_UPDATE, 0, 0, struct.pack(">I", size)))
                    if flags & f.END_STREAM:
                        self._h2_end(writer, streams[sid], sid)
        finally:
            for rec in streams.values():
                rec["done"] = True

    def _h2_headers(self, writer, conn, streams, sid, fields, end):
        if sid in streams:
            streams[sid]["trailers"] = fields
        else:
            get = dict(map(tuple, fields))
            rec = self._record(conn, request=f"{get.get(':method')} {get.get(':path', '')} HTTP/2", headers=fields, body="", trailers=[], framing="h2", complete=False)
            rec["_body"] = b""
            streams[sid] = rec
        if end:
            self._h2_end(writer, streams[sid], sid)

    def _h2_end(self, writer, rec, sid):
        rec["body"], rec["complete"] = hash_body(rec["_body"]), True
        task = asyncio.ensure_future(self._h2_reply(writer, rec, sid))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _h2_reply(self, writer, rec, sid):
        get = dict(map(tuple, rec["headers"]))
        action = parse(get.get("x-be") or get.get(":path", ""), self.counters)
        if action.delay:
            await asyncio.sleep(action.delay)
        if rec["done"] or writer.is_closing():
            return
        rec["done"] = True
        if action.kind == "rst":
            writer.write(f.frame(f.RST, 0, sid, struct.pack(">I", 2)))
        elif action.kind == "close":
            writer.close()
        elif action.kind == "goaway":
            writer.write(f.frame(f.GOAWAY, 0, 0, struct.pack(">II", 0, 0)))
            await writer.drain()
            await asyncio.sleep(0.05)
            writer.close()
        elif action.kind == "raw":
            writer.write(action.raw)
        else:
            await self._h2_answer(writer, rec, sid, action, get)

    async def _h2_answer(self, writer, rec, sid, action, get):
        payload = self._payload(rec, action, rec["_body"])
        length = len(payload) if action.length is None else action.length
        fields = [[":status", action.status], *action.headers, ["content-length", length]]
        bare = get.get(":method") == "HEAD" or action.status in (204, 304) or not payload
        writer.write(f.headers(sid, fields, end_stream=bare))
        if action.body_delay:
            await asyncio.sleep(action.body_delay)
        if bare:
            return
        for i in range(0, len(payload), 16384):
            last = i + 16384 >= len(payload)
            writer.write(f.frame(f.DATA, f.END_STREAM if last else 0, sid, payload[i:i + 16384]))
            await writer.drain()
