"""The HBONE bed: configs/waypoint.yaml, and behind it a pod that keeps what its tunnels carry and can be told to go away."""
import asyncio
import socket
import ssl
import struct
import time

import hpack
import yaml

import bed as beds
import rig
from bed import Bed, H2, Recorder
from difft import h2frames as f

PORT, POD = 15008, "127.1.0.10"
CLIENT = {"cert": "client", "alpn": ["h2"]}
HTTP, TCP, SNIFFED = "127.2.0.10:80", "127.2.0.10:5432", "127.2.0.10:9000"
HTTP_OPTIONS, TCP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions", "envoy.extensions.upstreams.tcp.v3.TcpProtocolOptions"
# Only the client's workload may go into /admin.
POLICY = {"name": "envoy.filters.http.rbac", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC", "rules": {"action": "DENY", "policies": {"admin": {
    "permissions": [{"url_path": {"path": {"prefix": "/admin"}}}],
    "principals": [{"not_id": {"filter_state": {"key": "io.istio.peer_principal", "string_match": {"exact": "spiffe://cluster.local/ns/default/sa/client"}}}}]}}}}}


class Inner:
    """The inside of one CONNECT stream at the pod: what an asyncio server would have as reader and writer."""

    def __init__(self, pod, link, sid, authority):
        self.pod, self.link, self.sid, self.authority = pod, link, sid, authority
        self.wire = {"bytes": bytearray(), "pos": 0, "opaque": True}
        self.reader = beds.Tap(self.wire["bytes"])
        self.end = None          # how the peer ended it: fin, rst:N, gone
        self.ended_at = None
        self.closed = False
        self.transport = self

    def over(self, how):
        if self.end is None or self.end == "fin":
            self.end, self.ended_at = how, time.monotonic()

    def write(self, data):
        for i in range(0, len(data), 16384):
            self.link.write(f.frame(f.DATA, 0, self.sid, data[i:i + 16384]))

    async def drain(self):
        await asyncio.sleep(0)
        if self.end not in (None, "fin"):
            raise ConnectionResetError

    def is_closing(self):
        return self.closed or self.end not in (None, "fin")

    def close(self):
        if not self.closed and self.end in (None, "fin"):
            self.closed = True
            self.link.write(f.frame(f.DATA, f.END_STREAM, self.sid))

    def abort(self):
        self.closed = True
        self.link.write(f.frame(f.RST, 0, self.sid, struct.pack(">I", 8)))

    def get_extra_info(self, _):
        return self

    def setsockopt(self, *_):
        pass


class Pod(Recorder):
    """The destination: HBONE on 127.1.0.10:15008. Behind it, HTTP as the parity tests script it (:8080, or :9000 when the bytes look like it), else bytes come back."""

    def __init__(self, certs):
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind((POD, PORT))
        self.listener.setblocking(False)
        super().__init__("POD", {}, self.listener, certs)
        self.tunnels, self.links = [], set()

    async def start(self):
        ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ctx.load_cert_chain(f"{self.certs}/server.pem", f"{self.certs}/server.key")
        ctx.load_verify_locations(f"{self.certs}/ca.pem")
        ctx.verify_mode = ssl.CERT_REQUIRED
        ctx.set_alpn_protocols(["h2"])
        self.listener.listen(1024)
        self.server = await asyncio.start_server(self._serve, sock=self.listener, ssl=ctx, limit=1 << 24)

    async def _serve(self, reader, link):
        self.links.add(link)
        task = asyncio.current_task()
        self.tasks.add(task)
        mine, decoder = {}, hpack.Decoder(max_header_list_size=1 << 22)
        try:
            if await reader.readexactly(len(f.PREFACE)) != f.PREFACE:
                return
            link.write(f.settings({"initial_window_size": 1 << 20}) + f.frame(f.WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 24)))
            while True:
                head = await reader.readexactly(9)
                kind, flags, sid = head[3], head[4], int.from_bytes(head[5:9], "big")
                payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
                if kind == f.SETTINGS and not flags & f.ACK:
                    link.write(f.settings(ack=True))
                elif kind == f.PING and not flags & f.ACK:
                    link.write(f.frame(f.PING, f.ACK, 0, payload))
                elif kind == f.HEADERS:
                    fields = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in decoder.decode(payload, raw=True)]
                    mine[sid] = self._open(link, sid, dict(fields), fields)
                elif kind == f.RST and sid in mine:
                    mine[sid].over(f"rst:{int.from_bytes(payload, 'big')}")
                    mine[sid].reader.feed_eof()
                elif kind == f.DATA and sid in mine:
                    if payload:
                        mine[sid].reader.feed_data(payload)
                        link.write(f.frame(f.WINDOW_UPDATE, 0, 0, struct.pack(">I", len(payload))) + f.frame(f.WINDOW_UPDATE, 0, sid, struct.pack(">I", len(payload))))
                    if flags & f.END_STREAM:
                        mine[sid].over("fin")
                        mine[sid].reader.feed_eof()
        except (OSError, asyncio.IncompleteReadError, ssl.SSLError, asyncio.CancelledError):
            pass
        finally:
            for t in mine.values():
                t.over("gone")
                t.reader.feed_eof()
            self.links.discard(link)
            self.tasks.discard(task)
            link.close()

    def _open(self, link, sid, get, fields):
        t = Inner(self, link, sid, get.get(":authority", ""))
        t.headers = fields
        self.tunnels.append(t)
        link.write(f.headers(sid, [[":status", "200"]]))
        task = asyncio.ensure_future(self._talk(t))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return t

    async def _talk(self, t):
        port = t.authority.rpartition(":")[2]
        if port != "8080":
            first = await t.reader.read(65536)
            if port == "9000" and b" HTTP/1.1\r\n" in first:
                again = t.reader
                t.reader = beds.Tap(bytearray())
                t.reader.feed_data(first)
                asyncio.ensure_future(self._forward(again, t.reader))
            else:
                return await self._bytes(t, first)
        t.wire["opaque"] = False
        self.wires.append(t.wire)
        await self._guard(self._h1, t.reader, t)

    @staticmethod
    async def _forward(source, sink):
        while chunk := await source.read(65536):
            sink.feed_data(chunk)
        sink.feed_eof()

    async def _bytes(self, t, first):
        """Echo; `late` as first word: nothing before the peer's end, then all of it; `early`: says `bye` and ends at once, and goes on reading; `silent`: nothing."""
        rec = self._record(0, tcp="")
        got = bytearray(first)
        word = first[:6]
        if word.startswith(b"early"):
            t.write(b"bye")
            t.close()
        elif not word.startswith((b"late", b"silent")):
            t.write(first)
        while chunk := await t.reader.read(65536):
            got += chunk
            if not word.startswith((b"late", b"early", b"silent")):
                t.write(chunk)
        t.got = bytes(got)
        if word.startswith(b"late"):
            t.write(t.got)
        t.close()
        rec["done"] = True

    def kill(self):
        for link in list(self.links):
            link.transport.abort()

    def reset_streams(self, code=2):
        for t in self.tunnels:
            if t.end is None and not t.closed:
                t.closed = True
                t.link.write(f.frame(f.RST, 0, t.sid, struct.pack(">I", code)))


class HboneBed(Bed):
    """configs/waypoint.yaml with two workers; pools empty themselves after a second, and connect_terminate keeps an access log."""
    kind, concurrency = "hbone", 2

    def config(self):
        config = yaml.safe_load((rig.ROOT / "configs/waypoint.yaml").read_text())
        log_format = yaml.safe_load((beds.HERE.parent / "parity/log_format.yaml").read_text())
        for cluster in config["static_resources"]["clusters"]:
            options = cluster.setdefault("typed_extension_protocol_options", {}).setdefault(
                HTTP_OPTIONS, {"@type": f"type.googleapis.com/{HTTP_OPTIONS}", "explicit_http_config": {"http_protocol_options": {}}})
            options["common_http_protocol_options"] = {"idle_timeout": "1s"}
            if self.envoy and "|http|" not in cluster["name"]:
                cluster["typed_extension_protocol_options"][TCP_OPTIONS] = {"@type": f"type.googleapis.com/{TCP_OPTIONS}", "idle_timeout": "1s"}
        # The policy that the identity cases are about, whether or not the example has it.
        manager = next(c for c in config["static_resources"]["listeners"][1]["filter_chains"] if "|80|http|" in c["name"])["filters"][0]["typed_config"]
        manager["http_filters"] = [POLICY, *(x for x in manager["http_filters"] if not x["name"].endswith("rbac"))]
        chain = config["static_resources"]["listeners"][0]["filter_chains"][0]
        chain["transport_socket_connect_timeout"] = "1s"
        manager = chain["filters"][0]["typed_config"]
        for listener in config["static_resources"]["listeners"]:
            for x in (x for c in listener["filter_chains"] for x in c["filters"]):
                if x["name"].endswith("http_connection_manager"):
                    x["typed_config"]["delayed_close_timeout"] = "0.1s"  # a second by default, and then the second within which a peer has to be told is over
        manager["access_log"] = [{"name": "envoy.access_loggers.file", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog", "path": str(self.access), "log_format": {"json_format": log_format}}}]
        return config

    async def setup(self):
        self.certs += "/certs"
        self.names = {"HB": PORT}
        self.pod = self.backends["POD"] = Pod(self.certs)
        await self.pod.start()
        link = self.work / "certs"
        if not link.exists():
            link.symlink_to(self.certs)
        await asyncio.to_thread(self.start, self.config())
        self.asked = 0
        problems = await self.probe()
        if problems:
            raise SystemExit(f"the tunnel does not work: {problems}; {self.proxy.tail(5)}")
        await asyncio.sleep(0.2)
        await self.quiet("_active$", 4)
        self.fds = self.proxy.fds()

    async def quiet(self, pattern, seconds):
        if "downstream_cx_active" in pattern:  # between cases the pools may keep their tunnels
            pattern = r"^http\..*downstream_(cx|rq)_active|^cluster\.(inbound|main_internal).*upstream_rq_(active|pending_active)"
        return await super().quiet(pattern, seconds)

    async def link(self, tls=CLIENT, **options):
        """A new connection of a workload; None when it was not let in."""
        conn = await self.open(PORT, tls)
        if conn.state != "open":
            return None
        return H2(conn, **options)

    async def probe(self):
        self.asked += 1
        path = f"/echo?probe={self.asked}"
        kept = self.used, self.conns
        self.used, self.conns = [], []
        try:
            peer = await self.link()
            if peer is None:
                return ["another client is not let in"]
            peer.connect(1, HTTP)
            peer.data(1, f"GET {path} HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n".encode())
            await peer.wait(lambda: b'"trailers": []}' in peer.stream(1)["body"] or peer.ended(1), 3)
            text = peer.stream(1)["body"]
            if f'"request": "GET {path} HTTP/1.1"'.encode() in text and b'"body": ""' in text:
                return []
            return [f"BLEED or no answer: another client got {peer.status(1)} {text[:200]!r}"]
        finally:
            for conn in self.conns:
                conn.close()
            self.used, self.conns = kept
