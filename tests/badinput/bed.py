"""The bed a case is played in: one proxy, backends that keep every byte, and what has to hold after each case.

After a case: the proxy lives and has not panicked, nobody is connected and no request is under way, what reached the upstream is well-formed
and is what the client was answered for, another client is served what it asked for, and memory has not grown beyond the case's bound.
At the end: every request has its line in the access log, no connection is open on either side, no file is left open."""
import asyncio
import fnmatch
import json
import pathlib
import re
import socket
import sys
import time

import yaml

HERE = pathlib.Path(__file__).resolve().parent
for folder in (HERE.parent, HERE.parent / "parity"):
    sys.path.insert(0, str(folder))

import rig  # noqa: E402
from difft import backend as b, config, conn as c, h2frames as f  # noqa: E402
from difft.steps import Driver  # noqa: E402
from difft.sut import Ports  # noqa: E402

sys.set_int_max_str_digits(0)  # 10 000 zeros are a number
KEEP = 4 << 20          # bytes kept of one upstream connection
GROWTH = 48             # MiB that a case may add at its peak, unless it says otherwise: allocators keep what floods freed
SETTLE = 4.0            # seconds until nothing is under way any more; timers of the configurations are below 2 s
# Filters that only some cases are about.
OPTIONAL = {"buffer": "envoy.extensions.filters.http.buffer.v3.Buffer", "rbac": "envoy.extensions.filters.http.rbac.v3.RBAC"}
PANIC = re.compile(r"panicked|Caught Segmentation|Caught Abort|assert failure|envoy bug failure", re.I)

TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
REQUEST = re.compile(rb"(" + TOKEN + rb") ([!-~\x80-\xff]+) HTTP/1\.1")
HEADER = re.compile(rb"(" + TOKEN + rb"):[ \t]*([\t -~\x80-\xff]*)")
SIZE = re.compile(rb"[0-9a-fA-F]{1,16}")


class Cut(Exception):
    """The bytes end inside a message."""


def line(wire, pos):
    end = wire.find(b"\n", pos)
    if end < 0:
        raise Cut
    text = bytes(wire[pos:end + 1])
    if not text.endswith(b"\r\n"):
        raise ValueError(f"a line ends without CR: {text[:80]!r}")
    return text[:-2], end + 1


def fields(wire, pos):
    out = []
    while True:
        text, pos = line(wire, pos)
        if not text:
            return out, pos
        m = HEADER.fullmatch(text)
        if not m:
            raise ValueError(f"not a header: {text[:80]!r}")
        out.append((m[1].lower(), m[2].strip()))


def strict(wire, pos):
    """Reads requests as the strictest server would: (position after the last whole one, opaque from here on). ValueError on what it would refuse."""
    while pos < len(wire):
        start = pos
        try:
            text, pos = line(wire, pos)
            m = REQUEST.fullmatch(text)
            if not m:
                raise ValueError(f"not a request line: {text[:80]!r}")
            headers, pos = fields(wire, pos)
            names = [n for n, _ in headers]
            if names.count(b"host") != 1:
                raise ValueError(f"{names.count(b'host')} host headers in {text[:80]!r}")
            lengths, codings = [v for n, v in headers if n == b"content-length"], [v for n, v in headers if n == b"transfer-encoding"]
            if len(lengths) + len(codings) > 1 or any(not v.isdigit() for v in lengths) or any(v.lower() != b"chunked" for v in codings):
                raise ValueError(f"length of {text[:80]!r} is open to interpretation: {lengths} {codings}")
            if b"upgrade" in names:
                return len(wire), True  # what follows the switch is not HTTP
            if lengths:
                pos += int(lengths[0])
                if pos > len(wire):
                    raise Cut
            while codings:
                text, pos = line(wire, pos)
                if not SIZE.fullmatch(text):
                    raise ValueError(f"not a chunk size: {text[:80]!r}")
                size = int(text, 16)
                if size == 0:
                    _, pos = fields(wire, pos)
                    break
                pos += size
                if pos + 2 > len(wire):
                    raise Cut
                if wire[pos:pos + 2] != b"\r\n":
                    raise ValueError(f"a chunk ends with {bytes(wire[pos:pos + 8])!r}")
                pos += 2
        except Cut:
            return start, False
    return pos, False


def unclean_h2(record):
    """What of a request to an HTTP/2 upstream no strict server would take."""
    plain = [x for x in record["headers"] if not x[0].startswith(":")] + record["trailers"]
    bad = [n for n, v in plain if not re.fullmatch(TOKEN, n.encode("latin-1")) or n != n.lower() or n in ("connection", "transfer-encoding", "upgrade", "keep-alive", "proxy-connection")
           or not re.fullmatch(r"[\t -~\x80-\xff]*", v)]
    bad += [n for n, v in record["headers"] if n.startswith(":") and not re.fullmatch(r"[!-~\x80-\xff]+", v)]
    return [f"the HTTP/2 upstream got the header {n!r}" for n in bad]


def check_strict():
    """The judge of the upstream's bytes is judged first: what it has to refuse, take and wait for."""
    host, chunked = b"GET / HTTP/1.1\r\nhost: x\r\n", b"transfer-encoding: chunked\r\n"
    for text in (b"GET /a b HTTP/1.1\r\nhost: x\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", host + b"host: y\r\n\r\n", host + b"a: b\rc\r\n\r\n", host + b"a: b\0\r\n\r\n", host + b"a b: c\r\n\r\n",
                 host + b"a: b\nc: d\r\n\r\n", host + b" a: b\r\n\r\n", host + chunked + b"content-length: 1\r\n\r\n", host + b"content-length: 1\r\ncontent-length: 1\r\n\r\n", host + b"content-length: +1\r\n\r\n",
                 host + b"transfer-encoding: x\r\n\r\n", host + chunked + b"\r\n0x1\r\na\r\n0\r\n\r\n", host + chunked + b"\r\n1\r\nabc0\r\n\r\n", host + chunked + b"\r\n1;a\r\n", host + b"\r\nsmuggled\r\n"):
        try:
            strict(text, 0)
        except ValueError:
            continue
        raise SystemExit(f"strict() takes {text!r}")
    whole = host + b"content-length: 3\r\n\r\nabc" + host + chunked + b"\r\n3\r\nabc\r\n0\r\n\r\n"
    if strict(whole, 0) != (len(whole), False) or strict(whole[:-1], 0) != (len(host) + 24, False):
        raise SystemExit("strict() does not take what is right")


class Tap(asyncio.StreamReader):
    """A reader that keeps what it is fed."""

    def __init__(self, wire):
        super().__init__(limit=1 << 24)
        self.wire = wire

    def feed_data(self, data):
        if len(self.wire) < KEEP:
            self.wire += data
        super().feed_data(data)


class Recorder(b.Backend):
    """The scripted backend of the parity tests, which also keeps every byte of every connection and answers /script/NAME by a function."""

    def __init__(self, name, spec, sock, certs):
        super().__init__(name, spec, sock, certs)
        self.wires, self.scripts, self.open = [], {}, set()

    async def start(self):
        kind = self.spec.get("kind", "script")
        self.sock.listen(1024)
        handler = {"tcp": self._tcp, "h1": self._h1, "h2": self._h2}["tcp" if kind == "tcp" else self.spec.get("proto", "h1")]

        def accept():
            wire = {"bytes": bytearray(), "pos": 0, "opaque": kind == "tcp" or self.spec.get("proto") == "h2"}
            self.wires.append(wire)
            return asyncio.StreamReaderProtocol(Tap(wire["bytes"]), lambda r, w: self._guard(handler, r, w))
        self.server = await asyncio.get_running_loop().create_server(accept, sock=self.sock)

    async def _guard(self, handler, reader, writer):
        self.open.add(writer)
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # asyncio does so only for a listener made with IPPROTO_TCP
        try:
            await super()._guard(handler, reader, writer)
        except Exception as e:  # noqa: BLE001 - what the proxy sent made no sense: strict() says so
            self.records.append({"backend": self.name, "conn": 0, "done": True, "request": f"!{type(e).__name__}", "headers": [], "body": "", "complete": False})
        finally:
            self.open.discard(writer)

    async def _h1_reply(self, writer, rec, method, path, body, action):
        if path.startswith("/script/"):
            return await self.scripts[path.removeprefix("/script/")](writer, rec)
        return await super()._h1_reply(writer, rec, method, path, body, action)

    def unclean(self):
        """What of the new bytes no strict server would take."""
        out = []
        for w in self.wires:
            if w["opaque"] or len(w["bytes"]) == w["pos"]:
                continue
            try:
                w["pos"], w["opaque"] = strict(w["bytes"], w["pos"])
                w["opaque"] = w["opaque"] or len(w["bytes"]) >= KEEP
            except ValueError as e:
                out.append(f"the upstream got: {e}")
                w["opaque"] = True
        return out


# {case: what Envoy does}, where the case does not say so itself; a list where Envoy's own timing decides. Written by run.py --record.
RECORDED = yaml.safe_load((HERE / "envoy.yaml").read_text()) if (HERE / "envoy.yaml").exists() else {}


class Case:
    """One bad input. `play` is a step of the parity tester or `async def play(bed)` that returns the outcome; `envoy` is Envoy's outcome ("?": as
    recorded in envoy.yaml), `also` what else is right (patterns; stricter than Envoy), `only` takes Envoy's own off the list. `up`: how many whole requests may
    reach the upstream (a number or several); unless given, none for a refusal and one for each answer. `logs`: how many access-log lines.
    `needs`: the filter of OPTIONAL that it is about."""

    def __init__(self, item, name, play, envoy, also=(), only=False, up=None, logs=None, show=(), grow=GROWTH, limit=12, bed="http", full=False, why="", needs=None):
        self.item, self.play, self.envoy, self.also, self.only = item, play, envoy, [also] if isinstance(also, str) else list(also), only
        self.up = {up} if isinstance(up, int) else up
        self.logs = {logs} if isinstance(logs, int) else logs
        self.show, self.grow, self.limit, self.bed, self.full, self.why, self.needs = show, grow, limit, bed, full, why, needs
        self.id = f"{item:02d}_{name}"
        self.recorded = envoy == "?"
        if self.recorded:
            self.envoy = RECORDED.get(self.id, "?")

    def allows(self, outcome, envoy):
        mine = self.envoy if isinstance(self.envoy, (list, tuple)) else [self.envoy]
        sets = mine if envoy else ([] if self.only else [*mine]) + self.also
        return any(outcome == p or fnmatch.fnmatchcase(outcome, p.replace("[", "[[]")) for p in sets)


def runs(values):
    """a a a b -> a*3,b"""
    out = []
    for v in values:
        if out and out[-1][0] == v:
            out[-1][1] += 1
        else:
            out.append([v, 1])
    return ",".join(v if n == 1 else f"{v}*{n}" for v, n in out)


def outcome(rec):
    """An observation of the parity tester in a word: `200,400 closed`, `1:rst:1 open`, `goaway:1 closed`."""
    end = "open" if rec["conn"] == "open" else "closed"
    if rec["conn"] in ("refused", "tls-failed"):
        return f"{rec['conn']} {rec.get('error')}"
    if "streams" in rec:
        parts = []
        for sid, s in rec["streams"].items():
            status = next((v for n, v in s["headers"] or () if n == ":status"), None)
            tail = {"fin": "", "open": "~"}.get(s["end"], s["end"].removeprefix("fin+"))
            parts.append(f"{sid}:" + "+".join(x for x in (status, tail) if x).replace("+~", "~"))
        parts += [f"goaway:{code}" for _, code in rec["goaway"]]
        return " ".join([*parts, end])
    if "responses" in rec:
        text = runs(str(r["status"]) + ("" if r["complete"] else "~") for r in rec["responses"])
        # Response splitting: only the cases of an evil upstream know this cookie.
        if any(n.lower() == "set-cookie" and v == "evil=1" for r in rec["responses"] for n, v in r["headers"]):
            text += "+set-cookie"
        if rec["rest"]:
            text = f"{text}+rest" if text else "rest"
        return f"{text} {end}".strip()
    return f"{len(rec['data'])} bytes {end}"


class H2:
    """An HTTP/2 client by hand on a connection of the parity tester."""

    def __init__(self, conn, settings=None, window=True, preface=True):
        self.conn, self.reader = conn, f.Reader(auto_window=window)
        self.ack = True
        if preface:
            conn.send(f.PREFACE + f.settings(settings or {}))

    def pump(self):
        reply = self.reader.feed(self.conn.buf)
        if reply and self.ack:
            self.conn.send(reply)

    async def wait(self, predicate, seconds=3.0):
        def ready():
            self.pump()
            return predicate()
        return await self.conn.wait_for(ready, seconds) or bool(ready())

    def stream(self, sid):
        return self.reader.stream(sid)

    def status(self, sid):
        return next((v for n, v in self.stream(sid)["headers"] or () if n == ":status"), None)

    def ended(self, sid):
        return self.stream(sid)["end"] != "open"

    async def closed(self, seconds=3.0):
        await self.wait(lambda: False, seconds) if self.conn.state == "open" else self.pump()
        return self.conn.state != "open"

    def send(self, data):
        self.conn.send(data)

    def request(self, sid, path="/", method="GET", extra=(), end=True, authority="x.com"):
        self.send(f.big_headers(sid, [[":method", method], [":scheme", "http"], [":authority", authority], [":path", path], *extra], end))

    def connect(self, sid, authority, extra=()):
        self.send(f.big_headers(sid, [[":method", "CONNECT"], [":authority", authority], *extra]))

    def data(self, sid, data, end=False):
        self.send(b"".join(f.frame(f.DATA, f.END_STREAM if end and i + 16384 >= len(data) else 0, sid, data[i:i + 16384]) for i in range(0, max(len(data), 1), 16384)))

    def rst(self, sid, code=8):
        self.send(f.frame(f.RST, 0, sid, code.to_bytes(4, "big")))

    def say(self, *streams):
        """The outcome, of the named streams or of all."""
        self.pump()
        seen = {str(k): v for k, v in sorted(self.reader.streams.items()) if not streams or k in streams}
        return outcome({"streams": seen, "goaway": self.reader.goaway, "conn": self.conn.state})


class Bed:
    """What the http and the hbone bed have in common; they say how to configure, warm up and probe."""
    kind, concurrency, admin, certs = "", 1, 15000, ""
    proxy, access = None, None

    def __init__(self, binary, envoy, work, certs, full):
        self.binary, self.envoy, self.full, self.certs = binary, envoy, full, str(certs)
        self.work = pathlib.Path(work) / self.kind
        self.work.mkdir(parents=True, exist_ok=True)
        self.access = self.work / "access.log"
        self.access.touch()
        self.ports, self.names, self.backends, self.conns = Ports(), {}, {}, []
        self.used, self.log_checks, self.seen_log = [], [], 0
        self.lacks = set()

    # --- what a case uses
    async def open(self, listener, tls=None, address=None):
        """A client connection; the case's log lines are found by its port."""
        port = self.names[listener] if isinstance(listener, str) else listener
        conn = await c.connect(port, tls, self.certs)
        self.used.append(conn.local_port)
        self.conns.append(conn)
        return conn

    async def h2(self, listener, **options):
        return H2(await self.open(listener), **options)

    def records(self):
        return [r for x in self.backends.values() for r in x.records]

    def rss(self):
        return self.proxy.rss_kib() / 1024

    def peak(self):
        text = pathlib.Path(f"/proc/{self.proxy.child.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", text)[1]) / 1024

    # --- the proxy
    def start(self, plain):
        """Starts the proxy; what it says is not built is left out (it would let nothing through), and the cases that need it too."""
        while True:
            self.launch(plain)
            log = (self.work / "proxy.log").read_text(errors="replace")
            missing = next((n for n in OPTIONAL if n not in self.lacks and f"{OPTIONAL[n]} is not built yet" in log), None)
            if missing is None:
                return
            self.proxy.__exit__()
            self.lacks.add(missing)
            for chain in (c for x in plain["static_resources"]["listeners"] for c in x["filter_chains"]):
                for manager in (x["typed_config"] for x in chain["filters"] if "http_filters" in x["typed_config"]):
                    manager["http_filters"] = [x for x in manager["http_filters"] if x["typed_config"]["@type"] != f"type.googleapis.com/{OPTIONAL[missing]}"]

    def launch(self, plain):
        path = self.work / "bootstrap.json"
        path.write_text(json.dumps(plain, indent=1))
        self.proxy = rig.Proxy(self.binary, path, self.work, self.work / "proxy.log", concurrency=self.concurrency, admin=self.admin,
                               extra=("--file-flush-interval-msec", "50"))
        self.proxy.__enter__()

    async def active(self, pattern):
        gauges = await asyncio.to_thread(self.proxy.gauges, "_active$")
        if not gauges:
            return {"the admin port shows no gauges": 1}
        return {n: v for n, v in gauges.items() if v and re.search(pattern, n) and not n.startswith(("listener.admin.", "http.admin."))}

    async def quiet(self, pattern, seconds):
        """The gauges that match and do not become zero in time."""
        end = time.monotonic() + seconds
        while left := await self.active(pattern):
            if time.monotonic() > end or self.proxy.child.poll() is not None:
                return left
            await asyncio.sleep(0.02)
        return {}

    def dead(self):
        if self.proxy.child.poll() is not None:
            return f"DIED with {self.proxy.child.returncode}: {self.proxy.tail(6)}"
        log = self.proxy.log.read_bytes()
        fresh, self.seen_log = log[self.seen_log:].decode(errors="replace"), len(log)
        bad = [x for x in fresh.splitlines() if PANIC.search(x)]
        return f"PANIC: {' | '.join(bad[:3])}" if bad else None

    async def run(self, case):
        """(outcome, problems) of a case; log lines are judged at the end."""
        if self.proxy.child.poll() is not None:
            self.revive()
        self.used, self.conns = [], []
        marks = {n: len(x.records) for n, x in self.backends.items()}
        rss = self.rss()
        try:
            pathlib.Path(f"/proc/{self.proxy.child.pid}/clear_refs").write_text("5")  # the peak starts anew
        except OSError:
            pass
        problems, recs, got = [], [], "?"
        try:
            if callable(case.play):
                got = await asyncio.wait_for(case.play(self), case.limit)
            else:
                recs = await asyncio.wait_for(Driver(self.names, self.certs).run({"name": case.id, **case.play}), case.limit)
                self.used += [r["port"] for r in recs]
                got = " / ".join(outcome(r) for r in recs)
        except asyncio.TimeoutError:
            got = "hangs"
            problems.append(f"took more than {case.limit} s")
        except Exception as e:  # noqa: BLE001 - whatever a proxy does to the client's code is the case's result
            got = f"!{type(e).__name__}: {e}"
        for conn in self.conns:
            conn.close(reset=conn.state == "open")
        if fault := self.dead():
            return got, [*problems, fault]
        if left := await self.quiet(r"downstream_cx_active|downstream_rq_active|upstream_rq_active|upstream_rq_pending_active", SETTLE):
            problems.append(f"not quiet: {left}")
        peak = self.peak()
        if peak - rss > case.grow:
            problems.append(f"memory: {rss:.0f} MiB before, {peak:.0f} at the peak")
        fresh = [r for n, x in self.backends.items() for r in x.records[marks[n]:]]
        for _ in range(20):
            if all(r["done"] for r in fresh):
                break
            await asyncio.sleep(0.02)
        problems += [p for x in self.backends.values() for p in x.unclean()]
        problems += await self.probe()
        if case.show:
            wanted = {n.lower() for n in case.show}
            shown = [f"{n.lower()}={v}" for r in fresh for n, v in [(":request", r.get("request", "")), *r["headers"]] if n.lower() in wanted]
            got = f"{got} | {' '.join(sorted(shown))}".rstrip()
        requests = [r for r in fresh if "request" in r]
        problems += [p for r in requests if r.get("framing") == "h2" for p in unclean_h2(r)]
        if any("smuggled" in r["request"] for r in requests):
            problems.append(f"SMUGGLED: {[r['request'] for r in requests]}")
        whole = sum(r["complete"] for r in requests)
        allowed = case.up
        if allowed is None and recs:
            allowed = set(range(sum(self.answers(r) for r in recs) + 1))
        if allowed is not None and whole not in allowed:
            problems.append(f"{whole} requests reached the upstream, not {sorted(allowed)}: {[r['request'] for r in requests][:5]}")
        self.log_checks.append((case, list(self.used), recs, problems))
        if fault := self.dead():
            problems.append(fault)
        return got, problems

    @staticmethod
    def answers(rec):
        """How many requests of a connection the upstream may have answered."""
        if "responses" in rec:
            return sum(r["status"] not in (400, 431, 413, 426, 501) for r in rec["responses"])
        return len([s for s in rec.get("streams", {}).values() if s["headers"]])

    def revive(self):
        self.proxy.__exit__()
        self.proxy.__enter__()
        self.seen_log = 0

    async def finish(self):
        """What is wrong at the end; completes the cases' problems by their log lines."""
        problems = []
        if fault := self.dead():
            return [fault]
        if left := await self.quiet(r"(cx|rq|pending|sessions)_active$", 5):
            problems.append(f"left over at the end: {left}")
        fds = self.proxy.fds()
        for _ in range(50):
            if (fds := self.proxy.fds()) <= self.fds + 2:  # the admin port's own connections come and go
                break
            await asyncio.sleep(0.1)
        else:
            problems.append(f"files: {self.fds} at the start, {fds} at the end")
        lines, size = {}, -1
        for _ in range(40):
            now = self.access.stat().st_size
            if now == size:
                break
            size = now
            await asyncio.sleep(0.15)
        for text in self.access.read_text(errors="replace").splitlines():
            try:
                entry = json.loads(text)
                lines.setdefault(str(entry.get("client") or "").rpartition(":")[2], []).append(entry)
            except ValueError:
                problems.append(f"not a JSON log line: {text[:200]}")
        for case, used, recs, found in self.log_checks:
            n = sum(len(lines.get(str(p), ())) for p in used)
            allowed = case.logs
            if allowed is None and len(recs) == 1 and "responses" in recs[0]:
                k = len(recs[0]["responses"])
                allowed = {k} if k else {0, 1}
            elif allowed is None and len(recs) == 1 and "streams" in recs[0]:
                k = sum(bool(s["headers"]) for s in recs[0]["streams"].values())
                allowed = set(range(k, max(len(recs[0]["streams"]), 1) + 1))
            if allowed is not None and n not in allowed:
                found.append(f"{n} access-log lines, not {sorted(allowed)}")
        return problems

    async def close(self):
        self.proxy.__exit__()
        for x in self.backends.values():
            await x.stop()


class HttpBed(Bed):
    """Plain and TLS listeners in front of scripted HTTP/1 and HTTP/2 backends; one worker, so that clients share upstream connections."""
    kind = "http"

    async def setup(self):
        data = yaml.safe_load((HERE / "http.yaml").read_text())
        log_format = yaml.safe_load((HERE.parent / "parity/log_format.yaml").read_text())
        for name, spec in data["backends"].items():
            x = self.backends[name] = Recorder(name, spec, self.ports.take(), self.certs)
            self.names[name] = x.port
            await x.start()
        for name in data["listeners"]:
            self.names[name] = self.ports.number()
        self.admin = self.names["ADMIN"] = self.ports.number()
        plain = config.substitute(config.bootstrap(data, log_format), {**self.names, "LOG": str(self.access), "TMP": str(self.work), "CERTS": self.certs})
        for listener in plain["static_resources"]["listeners"]:
            for chain in listener["filter_chains"]:
                if "transport_socket" in chain:
                    chain["transport_socket_connect_timeout"] = "1s"  # a handshake that stops half-way
        await asyncio.to_thread(self.start, plain)
        self.asked = 0
        await self.probe()
        await asyncio.sleep(0.2)
        await self.quiet("_active$", 3)
        self.fds = self.proxy.fds()

    async def probe(self):
        """Another client's request on the shared upstream connections: its own answer, nothing of the case's."""
        self.asked += 1
        path = f"/echo?probe={self.asked}"
        conn = await c.connect(self.names["L"])
        try:
            conn.send(f"GET {path} HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n".encode())
            await conn.wait_for(lambda: False, 3)
            head, _, body = bytes(conn.buf).partition(b"\r\n\r\n")
            if head.startswith(b"HTTP/1.1 200") and f'"request": "GET {path} HTTP/1.1"'.encode() in body and b'"body": ""' in body:
                return []
            return [f"BLEED or no answer: another client got {bytes(conn.buf[:200])!r}"]
        finally:
            conn.close()
