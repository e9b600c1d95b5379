"""Drives one step against one proxy and writes down what was seen (the raw observation record)."""
import asyncio
import struct

from . import conn as c
from . import h1
from . import h2frames as f

TIMEOUT = 3.0     # for an answer; far above any timer of the cases
LINGER = 0.08     # how long an idle connection has to stay open to be called open
CLOSE_WAIT = 2.0  # for a close that the peer has announced


def latin(text):
    return text if isinstance(text, bytes) else str(text).encode("latin-1")


def piece_bytes(piece):
    """The bytes of one element of `raw`, or None for a control element (sleep, wait, eof, rst)."""
    if isinstance(piece, str):
        return latin(piece)
    if "rep" in piece:
        return latin(piece["rep"]) * piece["n"]
    if "lines" in piece:
        return b"".join(latin(piece["lines"].replace("%d", str(i))) for i in range(piece["n"]))
    return None


def request_bytes(step, method, path):
    """An ordinary HTTP/1.1 request of a `send` step."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {step.get('host', 'x.com')}", "User-Agent: parity"]
    lines += [f"{n}: {v}" for n, v in step.get("headers", [])]
    body = step.get("body")
    if isinstance(body, dict):
        body = body["rep"] * body["n"]
    if body is not None and step.get("chunked"):
        lines.append("Transfer-Encoding: chunked")
        body = f"{len(body):x}\r\n{body}\r\n0\r\n\r\n"
    elif body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return latin("\r\n".join(lines) + "\r\n\r\n" + (body or ""))


class Driver:
    def __init__(self, ports, certs):
        self.ports, self.certs = ports, certs  # ports: listener or backend name -> number

    async def run(self, step):
        """The connections of a step, in order of their start."""
        n = step.get("parallel", 1)
        if n > 1:
            async def one(i):
                await asyncio.sleep(i * step.get("stagger", 0.02))
                return await self._action(step)
            return list(await asyncio.gather(*(one(i) for i in range(n))))
        out = []
        for _ in range(step.get("times", 1)):
            out.append(await self._action(step))
        return out

    async def _action(self, step):
        start = asyncio.get_running_loop().time()
        if "send" in step:
            method, to, path = step["send"].split(" ", 2)
            if step.get("http2"):
                out = await self._h2(to, self._send_frames(step, method, path), step)
            else:
                out = await self._h1(to, [request_bytes(step, method, path).decode("latin-1")], step, [method])
        elif "raw" in step:
            pieces = step["raw"] if isinstance(step["raw"], list) else [step["raw"]]
            out = await self._h1(step["to"], pieces, step, step.get("methods"))
        elif "h2" in step:
            out = await self._h2(step["to"], step["h2"], step)
        elif "tcp" in step:
            out = await self._tcp(step["to"], step["tcp"], step)
        else:
            raise ValueError(f"step {step.get('name')}: no action")
        out["elapsed"] = asyncio.get_running_loop().time() - start
        return out

    async def _open(self, to, step):
        port = self.ports[to] if isinstance(to, str) else to
        return await c.connect(port, step.get("tls"), self.certs)

    @staticmethod
    def _failed(conn):
        return {"conn": conn.state, "error": c.error_text(conn.error), "port": conn.local_port}

    # ---- HTTP/1
    async def _h1(self, to, pieces, step, methods):
        conn = await self._open(to, step)
        if conn.state in ("refused", "tls-failed"):
            return self._failed(conn)
        timeout = step.get("timeout", TIMEOUT)
        try:
            if methods is None:
                first = next((piece_bytes(p) for p in pieces if piece_bytes(p)), b"")
                methods = [first.lstrip(b"\r\n").split(b" ")[0].decode("latin-1")]

            def seen():
                return h1.read_all(conn.buf, methods, conn.state != "open")

            await self._write(conn, pieces, step, seen, timeout)
            wanted = step.get("responses", 1)
            if step.get("until"):  # bytes that have to show up in what we receive
                await conn.wait_for(lambda: latin(step["until"]) in conn.buf, timeout)
            elif wanted:
                await conn.wait_for(lambda: len(seen()[1]) >= wanted, timeout)
            final = seen()[1]
            closing = step.get("close") or (final and h1.wants_close(final[-1]))
            await conn.wait_for(lambda: False, CLOSE_WAIT if closing else step.get("linger", LINGER))
            interim, final, rest = seen()
            return {"interim": interim, "responses": final, "rest": rest, "conn": conn.state,
                    "error": c.error_text(conn.error) if conn.state not in ("rst", "fin") else None, "port": conn.local_port}
        finally:
            conn.close(reset=bool(step.get("abort")))

    @staticmethod
    async def _write(conn, pieces, step, seen, timeout):
        split = step.get("split")
        data = b""
        for piece in [*pieces, {"flush": True}]:
            more = piece_bytes(piece)
            if more is not None:
                data += more
                continue
            if split:
                for i in range(0, len(data), split):
                    conn.send(data[i:i + split])
                    await asyncio.sleep(0)
            elif data:
                conn.send(data)
            data = b""
            if "sleep" in piece:
                await asyncio.sleep(piece["sleep"])
            elif "wait" in piece:
                await conn.wait_for(lambda: len(seen()[1]) >= piece["wait"], timeout)
            elif "wait_interim" in piece:
                await conn.wait_for(lambda: seen()[0], timeout)
            elif "eof" in piece:
                conn.half_close()

    # ---- raw TCP
    async def _tcp(self, to, pieces, step):
        conn = await self._open(to, step)
        if conn.state in ("refused", "tls-failed"):
            return self._failed(conn)
        timeout = step.get("timeout", TIMEOUT)
        try:
            for piece in pieces:
                data = piece_bytes(piece)
                if data is not None:
                    conn.send(data)
                elif "sleep" in piece:
                    await asyncio.sleep(piece["sleep"])
                elif "eof" in piece:
                    conn.half_close()
                elif "expect" in piece:
                    await conn.wait_for(lambda: len(conn.buf) >= piece["expect"], timeout)
            await conn.wait_for(lambda: False, CLOSE_WAIT if step.get("close") else LINGER)
            return {"data": bytes(conn.buf), "conn": conn.state, "error": None, "port": conn.local_port}
        finally:
            conn.close(reset=bool(step.get("abort")))

    # ---- HTTP/2
    @staticmethod
    def _send_frames(step, method, path):
        body = step.get("body")
        if isinstance(body, dict):
            body = body["rep"] * body["n"]
        fields = [[":method", method], [":path", path], [":scheme", step.get("scheme", "http")], [":authority", step.get("host", "x.com")],
                  ["user-agent", "parity"], *step.get("headers", [])]
        trailers = step.get("trailers")
        frames = [{"headers": fields, "stream": 1, "end": body is None and not trailers}]
        if body is not None:
            frames.append({"data": body, "stream": 1, "end": not trailers})
        if trailers:
            frames.append({"headers": trailers, "stream": 1, "end": True})
        return frames

    async def _h2(self, to, frames, step):
        conn = await self._open(to, step)
        if conn.state in ("refused", "tls-failed"):
            return self._failed(conn)
        reader = f.Reader(auto_window=step.get("auto_window", True))
        timeout = step.get("timeout", TIMEOUT)
        opened = []

        def pump():
            reply = reader.feed(conn.buf)
            if reply and step.get("auto_ack", True):
                conn.send(reply)

        def ended(sid):
            pump()
            return reader.streams.get(sid, {"end": "open"})["end"] != "open"

        try:
            if step.get("preface", True):
                conn.send(f.PREFACE + f.settings(step.get("client_settings", {})))
            await self._play(conn, frames, opened, reader, pump, ended, timeout)
            until = step.get("until", "streams")
            await conn.wait_for(self._goal(until, conn, reader, opened, pump, ended), timeout)
            pump()
            closing = step.get("close") or reader.goaway
            await conn.wait_for(lambda: pump() or False, CLOSE_WAIT if closing else step.get("linger", LINGER))
            pump()
            out = {"streams": {str(k): v for k, v in sorted(reader.streams.items())}, "goaway": reader.goaway, "conn": conn.state,
                   "error": reader.error, "port": conn.local_port}
            if step.get("show"):
                facts = {"settings": reader.settings, "conn_window": reader.conn_window, "ping_acks": reader.ping_acks,
                         "settings_acks": reader.settings_acks, "pings": reader.pings}
                out["h2"] = {k: facts[k] for k in step["show"]}
            only = step.get("only_streams")
            if only is not None:
                out["streams"] = {k: v for k, v in out["streams"].items() if int(k) in only}
            return out
        finally:
            conn.close(reset=bool(step.get("abort")))

    @staticmethod
    def _goal(until, conn, reader, opened, pump, ended):
        def goal():
            pump()
            if until == "streams":
                return bool(opened) and all(ended(s) for s in opened)
            if until == "close":
                return False
            if until == "settings":
                return reader.settings is not None and reader.conn_window > 0
            if until == "goaway":
                return bool(reader.goaway)
            kind, value = next(iter(until.items()))
            if kind == "stream":
                return ended(value)
            if kind == "ping_acks":
                return reader.ping_acks >= value
            if kind == "pings":
                return reader.pings >= value
            if kind == "data":  # [stream, bytes]
                return len(reader.streams.get(value[0], {"body": b""})["body"]) >= value[1]
            if kind == "headers":
                return reader.streams.get(value, {"headers": None})["headers"] is not None
            raise ValueError(f"until: {until}")
        return goal

    async def _play(self, conn, frames, opened, reader, pump, ended, timeout):
        """Frames between two waits go out in one write: what the peer reads together does not depend on the scheduler."""
        data = b""
        for item, shift in self._flat(frames, 0):
            if not {"sleep", "wait", "eof"} & item.keys():
                data += self._frame(item, opened, shift)
                if len(data) < 65536:
                    continue
                item = {"flush": True}
            conn.send(data)
            data = b""
            if "flush" in item:
                await asyncio.sleep(0)
            elif "sleep" in item:
                await asyncio.sleep(item["sleep"])
                pump()
            elif "wait" in item:
                await conn.wait_for(self._goal(item["wait"], conn, reader, opened, pump, ended), timeout)
            elif "eof" in item:
                conn.half_close()
        conn.send(data)

    def _flat(self, frames, shift):
        """The frame list with `repeat` unrolled: (item, what to add to its stream id)."""
        for item in frames:
            if "repeat" in item:
                for i in range(item["repeat"]):
                    yield from self._flat(item["frames"], shift + i * item.get("step", 0))
            else:
                yield item, shift

    @staticmethod
    def _frame(item, opened, shift):
        sid = item.get("stream", 0) + (shift if item.get("stream") else 0)
        end = item.get("end", False)
        if "get" in item or "post" in item:
            method, path = ("GET", item["get"]) if "get" in item else ("POST", item["post"])
            fields = [[":method", method], [":path", path], [":scheme", "http"], [":authority", "x.com"], *([n, piece_bytes(v) or v] for n, v in item.get("extra", []))]
            opened.append(sid)
            return f.big_headers(sid, fields, item.get("end", "get" in item))
        if "headers" in item:
            if sid not in opened:
                opened.append(sid)
            fields = item["headers"]
            if "many" in item:
                fields = fields + [[item["many"][0].replace("%d", str(i)), item["many"][1]] for i in range(item["many"][2])]
            if item.get("end_headers", True):
                return f.big_headers(sid, fields, end)
            return f.headers(sid, fields, end, False)
        if "data" in item:
            data = piece_bytes(item["data"])
            flags = f.END_STREAM if end else 0
            if "pad" in item:
                return f.frame(f.DATA, flags | f.PADDED, sid, bytes([item["pad"]]) + data + b"\0" * item["pad"])
            return b"".join(f.frame(f.DATA, flags if i + 16384 >= len(data) else 0, sid, data[i:i + 16384]) for i in range(0, max(len(data), 1), 16384))
        if "rst" in item:
            return f.frame(f.RST, 0, sid, struct.pack(">I", item["rst"]))
        if "settings" in item:
            return f.settings(item["settings"])
        if "ping" in item:
            return f.frame(f.PING, 0, 0, b"12345678")
        if "goaway" in item:
            return f.frame(f.GOAWAY, 0, 0, struct.pack(">II", 0, item["goaway"]))
        if "window" in item:
            return f.frame(f.WINDOW_UPDATE, 0, sid, struct.pack(">I", item["window"]))
        if "bytes" in item:
            return piece_bytes(item["bytes"])
        if "frame" in item:
            kind, flags, payload = item["frame"]
            return f.frame(kind, flags, sid, piece_bytes(payload))
        raise ValueError(f"h2 item {item}")
