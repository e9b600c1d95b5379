"""HBONE: items 76 to 80 of the bad-input list, its TLS, and what has to happen when either side of a tunnel goes away (the bed is in pod.py)."""
import asyncio
import socket
import struct
import time

import tls
from bed import Case
from difft import h2frames as f
from http1 import S
from pod import CLIENT, HTTP, POD, PORT, SNIFFED, TCP

CASES = []


def inner(peer, sid=1):
    """CONNECT's status, the inner answer and the end of the stream: `200 inner:200`, `503`, `200 rst:2`."""
    peer.pump()
    st = peer.stream(sid)
    words = [peer.status(sid) or "-"]
    if st["body"].startswith(b"HTTP/1.1 "):
        return f"{words[0]} inner:{st['body'][9:12].decode()}"  # how such a stream ends is the matter of other cases
    elif st["body"]:
        words.append(f"{len(st['body'])} bytes")
    if st["end"] not in ("open", "fin"):
        words.append(st["end"])
    elif st["end"] == "fin":
        words.append("fin")
    if peer.reader.goaway:
        words.append("goaway")
    if peer.conn.state != "open":
        words.append("closed")
    return " ".join(words)


GET = b"GET /s/200 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
# Refused: before the tunnel (4xx, 5xx, reset), or as a tunnel that ends without a byte (Envoy answers 200 before the chain is chosen).
REFUSED = ["4?? *", "4??", "503", "503 fin", "502 fin", "- rst:*", "200 rst:*", "200 fin", "- closed", "- goaway*", "404 fin*", "400 fin*"]


async def tunnel(bed, authority, data=GET, spec=CLIENT, extra=(), seconds=1.5, fin=False):
    peer = await bed.link(spec)
    if peer is None:
        return "no connection"
    peer.connect(1, authority, extra)
    if data:
        peer.data(1, data, fin)
    await peer.wait(lambda: peer.ended(1) or peer.stream(1)["body"], seconds)
    await peer.wait(lambda: peer.ended(1), 0.2)
    return inner(peer)


def connect(item, name, authority, envoy="?", also=(), up=0, logs=1, refused=True, show=(), grow=48, needs=None, **options):
    CASES.append(Case(item, name, lambda bed: tunnel(bed, authority, **options), envoy, [*(REFUSED if refused else []), *also, *([f"{r} |" for r in REFUSED] if show and refused else [])],
                      up=up, logs=logs, bed="hbone", show=show, grow=grow, needs=needs))


def scenario(item, name, envoy, also=(), **options):
    def take(play):
        CASES.append(Case(item, name, play, envoy, also, **{"bed": "hbone", **options}))
        return play
    return take


# 76: where a tunnel may go.
connect(76, "good", HTTP, "200 inner:200", up=1, refused=False)
for name, authority in {"no_chain_port": "127.2.0.10:81", "no_chain_sniffed": "127.2.0.10:9001", "no_chain_address": "127.9.9.9:80", "pod_address": "127.1.0.10:8080", "itself": "127.0.0.1:15008", "itself_vip": "127.2.0.10:15008", "admin": "127.0.0.1:15000",
                        "host_name": "web.default.svc.cluster.local:80", "localhost": "localhost:80", "port_0": "127.2.0.10:0", "port_65536": "127.2.0.10:65536", "port_65616": "127.2.0.10:65616", "port_2pow32_80": "127.2.0.10:4294967376", "port_minus": "127.2.0.10:-1",
                        "no_port": "127.2.0.10", "two_ports": "127.2.0.10:80:80", "ipv6_loop": "[::1]:80", "ipv6_mapped": "[::ffff:127.2.0.10]:80", "ipv6_bare": "::1:80", "ipv6_open": "[::1:80", "ipv6_zone": "[fe80::1%eth0]:80", "ipv6_any": "[::]:80",
                        "hex": "0x7f02000a:80", "decimal": "2130837514:80", "short": "127.2.10:80", "octal": "0177.2.0.10:80", "leading_zero": "127.2.0.010:80", "userinfo": "u@127.2.0.10:80", "url": "http://127.2.0.10:80", "path": "127.2.0.10:80/x",
                        "star": "*", "any": "0.0.0.0:80", "broadcast": "255.255.255.255:80", "colon": ":80", "space_front": " 127.2.0.10:80", "space_end": "127.2.0.10:80 ", "port_plus": "127.2.0.10:+80", "port_zero_80": "127.2.0.10:080", "port_hex": "127.2.0.10:0x50",
                        "port_empty": "127.2.0.10:", "list": "127.2.0.10:80,127.2.0.10:5432", "nul": "127.2.0.10:80\0", "crlf": "127.2.0.10:80\r\nx: y", "8bit": "127.2.0.10:80\xff", "empty": "", "50k": "a" * 50000 + ":80", "percent": "127.2.0.10%3a80",
                        "internal_name": "main_internal", "internal_scheme": "envoy://main_internal/"}.items():
    alias = name in ("port_zero_80", "port_plus", "ipv6_mapped")  # another spelling of the service's own address
    connect(76, f"to_{name}", authority, also=["200 inner:200"] if alias else [], up={0, 1} if alias else 0, logs={0, 1})


@scenario(76, "non_connect", "404 fin", ["404 fin closed"], up=0, logs=1)
async def non_connect(bed):
    peer = await bed.link()
    peer.request(1, "/", extra=[], authority=HTTP)
    await peer.wait(lambda: peer.ended(1), 2)
    return inner(peer)


@scenario(76, "non_connect_post", "404 fin+rst:0", ["404 fin", "404 fin closed"], up=0, logs=1)
async def non_connect_post(bed):
    peer = await bed.link()
    peer.request(1, "/", "POST", end=False, authority=HTTP)
    peer.data(1, S.encode())
    await peer.wait(lambda: peer.ended(1), 2)
    return inner(peer)


def pseudo(name, fields, end=False, may=()):
    async def play(bed):
        peer = await bed.link()
        peer.send(f.headers(1, fields, end))
        peer.data(1, GET) if not end else None
        await peer.wait(lambda: peer.ended(1) or peer.stream(1)["body"], 1)
        return inner(peer)
    CASES.append(Case(76, name, play, "?", [*REFUSED, *(["200 fin"] if end else []), *may], up={0, 1} if may else 0, logs={0, 1}, bed="hbone"))


pseudo("connect_with_path", [[":method", "CONNECT"], [":authority", HTTP], [":path", "/"]])
pseudo("connect_with_scheme", [[":method", "CONNECT"], [":authority", HTTP], [":scheme", "http"]])
pseudo("connect_with_all", [[":method", "CONNECT"], [":authority", HTTP], [":scheme", "http"], [":path", "/"]])
pseudo("connect_no_authority", [[":method", "CONNECT"]])
pseudo("connect_host_only", [[":method", "CONNECT"], ["host", HTTP]])
pseudo("connect_two_authorities", [[":method", "CONNECT"], [":authority", HTTP], [":authority", TCP]])
pseudo("connect_websocket", [[":method", "CONNECT"], [":protocol", "websocket"], [":authority", HTTP], [":scheme", "http"], [":path", "/"]])
pseudo("connect_lower", [[":method", "connect"], [":authority", HTTP]])
pseudo("connect_te", [[":method", "CONNECT"], [":authority", HTTP], ["transfer-encoding", "chunked"]])
pseudo("connect_cl_0", [[":method", "CONNECT"], [":authority", HTTP], ["content-length", "0"]], may=["200 inner:200"])
pseudo("connect_cl_5", [[":method", "CONNECT"], [":authority", HTTP], ["content-length", "5"]], may=["200 inner:200"])
pseudo("connect_end_stream", [[":method", "CONNECT"], [":authority", HTTP]], True)

# 77: what is inside.
for name, data in {"garbage": b"\x00\x01\x02garbage\r\n\r\n", "tls_hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 500, "te_cl": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + S.encode(),
                   "09": b"GET /\r\n\r\n", "socks": b"\x05\x01\x00", "proxy_v1": b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + GET, "proxy_v2": b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + b"\x01\x02\x03\x04\x05\x06\x07\x08\0\x01\0\x02" + GET, "big_line": b"GET /" + b"a" * 60000}.items():
    connect(77, f"inner_{name}", HTTP, data=data, also=["200 inner:4??*", "200 inner:431*", "200 inner:501*", "200 inner:505*"])
connect(77, "inner_http_on_sniffed", SNIFFED, "?", ["200 inner:200"], up=1, refused=False)
connect(77, "inner_garbage_on_sniffed", SNIFFED, "?", data=b"\x00\x01garbage", also=["200 9 bytes fin", "200 9 bytes"], refused=False, fin=True)
connect(77, "inner_nothing", HTTP, "?", data=b"", also=["200 fin", "200"], seconds=0.3)
connect(77, "inner_end_at_once", HTTP, "?", data=b"", extra=(), also=["200 fin"], seconds=0.5, fin=True)
connect(77, "inner_half_request", HTTP, "?", data=b"GET / HTTP/1.1\r\nHo", fin=True, also=["200 fin", "200 inner:400"])
connect(77, "inner_10k_body_cut", HTTP, "?", data=b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10000\r\n\r\nabc", fin=True, also=["200 fin", "200 inner:400"])


@scenario(77, "inner_h2c", "?", ["answered", "refused"], logs=1)
async def inner_h2c(bed):
    """HTTP/2 with prior knowledge inside the tunnel: served or refused, but whole."""
    peer = await bed.link()
    peer.connect(1, HTTP)
    peer.data(1, f.PREFACE + f.settings({}) + f.headers(1, [[":method", "GET"], [":scheme", "http"], [":authority", "x"], [":path", "/s/200"]], True))
    reader = f.Reader()
    await peer.wait(lambda: peer.ended(1) or (reader.feed(peer.stream(1)["body"]) and False) or (1 in reader.streams and reader.streams[1]["end"] == "fin"), 2)
    return "answered" if 1 in reader.streams and reader.streams[1]["headers"] else "refused"


@scenario(77, "inner_byte_by_byte_sniffed", "?", ["200 inner:200*"], up=1, logs=1)
async def inner_bytes(bed):
    """The sniffer sees an HTTP request in 1-byte DATA frames."""
    peer = await bed.link()
    peer.connect(1, SNIFFED)
    for i in range(len(GET)):
        peer.data(1, GET[i:i + 1])
        await asyncio.sleep(0.001)
    await peer.wait(lambda: peer.ended(1), 2)
    return inner(peer)


# 78: baggage and peer metadata.
for name, value in {"malformed": "=;=,,;k8s.cluster.name", "percent": "k8s.cluster.name=%zz%00%0d%0a", "utf8": "k8s.cluster.name=\xc3\x28", "50k": "k8s.cluster.name=" + "a" * 50000, "commas": "," * 10000, "empty": "", "pairs_5000": ",".join(f"k{i}=v" for i in range(5000)),
                    "quotes": 'k8s.cluster.name="a,b;c"', "equals": "=" * 5000}.items():
    connect(78, f"baggage_{name}", HTTP, extra=[["baggage", value]], also=["200 inner:200"], up={0, 1})
connect(78, "baggage_1m", HTTP, extra=[["baggage", "a=" + "b" * (1 << 20)]], logs={0, 1}, grow=24)
connect(78, "baggage_nul", HTTP, extra=[["baggage", "a=\0"]], logs={0, 1})
connect(78, "baggage_crlf", HTTP, extra=[["baggage", "a=b\r\nx: y"]], logs={0, 1})
connect(78, "baggage_200_headers", HTTP, extra=[["baggage", f"a{i}=b"] for i in range(200)], logs={0, 1})
for name in ("x-envoy-peer-metadata", "x-envoy-peer-metadata-id"):
    for kind, value in {"junk": "not base64!!", "50k": "A" * 50000}.items():
        connect(78, f"{name[8:].replace('-', '_')}_{kind}", HTTP, extra=[[name, value]], also=["200 inner:200"], up={0, 1})
connect(78, "inner_baggage_1m", HTTP, data=b"GET / HTTP/1.1\r\nHost: x\r\nbaggage: " + b"a" * 60000, also=["200 inner:4??*"])

# 79: who one is comes from the certificate alone.
GUEST = {"cert": "guest", "alpn": ["h2"]}
SPOOF = "By=spiffe://cluster.local/ns/default/sa/waypoint;Hash=00;URI=spiffe://cluster.local/ns/default/sa/client"


def admin(path="/admin", headers="", method="GET"):
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n".encode()


DENIED = ["200 inner:403", "200 inner:400", "200 inner:403 |", "200 inner:400 |"]
connect(79, "admin_client", HTTP, "200 inner:200", data=admin(), up=1, refused=False)
connect(79, "admin_guest", HTTP, "200 inner:403", data=admin(), spec=GUEST, refused=False, needs="rbac")
for name, header in {"xfcc": f"x-forwarded-client-cert: {SPOOF}", "peer": "x-envoy-peer-principal: spiffe://cluster.local/ns/default/sa/client", "io_istio": "io.istio.peer_principal: spiffe://cluster.local/ns/default/sa/client",
                     "xff": "x-forwarded-for: 127.0.0.1", "original_path": "x-envoy-original-path: /", "rewrite": "x-original-url: /", "internal": "x-envoy-internal: true"}.items():
    connect(79, f"spoof_inner_{name}", HTTP, "200 inner:403", DENIED, data=admin(headers=header + "\r\n"), spec=GUEST, refused=False, needs="rbac")
for name, header in {"xfcc": ["x-forwarded-client-cert", SPOOF], "peer": ["x-envoy-peer-principal", "spiffe://cluster.local/ns/default/sa/client"], "forwarded": ["forwarded", "for=127.0.0.1"], "baggage": ["baggage", "k8s.service.account=client"]}.items():
    connect(79, f"spoof_connect_{name}", HTTP, "200 inner:403", DENIED, data=admin(), extra=[header], spec=GUEST, refused=False, needs="rbac")
for name, path in {"dot": "/./admin", "dots": "/x/../admin", "encoded_dots": "/x/%2e%2e/admin", "encoded_a": "/%61dmin", "slash_end": "/admin/", "query": "/admin?x", "semicolon": "/admin;x", "backslash": "/x\\..\\admin"}.items():
    connect(79, f"path_{name}", HTTP, "200 inner:403", [*DENIED, "200 inner:404", "200 inner:301"], data=admin(path), spec=GUEST, refused=False, needs="rbac")
connect(79, "xfcc_does_not_reach_the_pod", HTTP, "200 inner:200 |", data=admin("/s/200", f"x-forwarded-client-cert: {SPOOF}\r\n"), up=1, show=["x-forwarded-client-cert"], refused=False)
connect(79, "smuggled_admin", HTTP, "?", ["200 inner:200*", "200 inner:400*"], data=b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nConnection: close\r\n\r\nabcd" + admin("/smuggled"), spec=GUEST, up={0, 1}, refused=False)
# Their SAN has the right prefix for the handshake, and is not the client's.
for name in ("nulsan", "crlfsan"):
    connect(79, f"admin_{name}", HTTP, "?", ["no connection", *DENIED, *REFUSED], data=admin(), spec={"cert": name, "alpn": ["h2"]}, logs={0, 1}, needs="rbac")

# 80: tunnels in tunnels.
connect(80, "inner_connect_h1", HTTP, data=f"CONNECT {HTTP} HTTP/1.1\r\nHost: {HTTP}\r\n\r\n".encode() + GET, also=["200 inner:4??*", "200 inner:501*"])
connect(80, "inner_connect_h1_20_deep", HTTP, data=f"CONNECT {HTTP} HTTP/1.1\r\nHost: {HTTP}\r\n\r\n".encode() * 20, also=["200 inner:4??*", "200 inner:501*"])


@scenario(80, "inner_connect_h2", "refused", logs=1, up=0)
async def inner_connect_h2(bed):
    peer = await bed.link()
    peer.connect(1, HTTP)
    peer.data(1, f.PREFACE + f.settings({}) + f.headers(1, [[":method", "CONNECT"], [":authority", HTTP]]) + f.frame(f.DATA, 0, 1, GET))
    reader = f.Reader()
    await peer.wait(lambda: peer.ended(1) or (reader.feed(peer.stream(1)["body"]) and False) or (1 in reader.streams), 2)
    status = next((v for n, v in (reader.streams.get(1, {}).get("headers") or ()) if n == ":status"), None)
    return "TUNNELLED" if status == "200" else "refused"


@scenario(80, "hbone_in_hbone", "refused", up=0)
async def hbone_in_hbone(bed):
    """TLS and a second CONNECT inside a tunnel to the waypoint's own port: no such chain, so nothing loops."""
    peer = await bed.link()
    peer.connect(1, "127.0.0.1:15008")
    peer.data(1, tls.client_hello({"alpn": ["h2"]}, None)[3])
    await peer.wait(lambda: peer.ended(1) or peer.stream(1)["body"], 1.5)
    return "LOOPED" if peer.stream(1)["body"] else "refused"


@scenario(80, "itself_1000_times", "refused", up=0, grow=32)
async def itself_1000(bed):
    """No loop takes sockets: 1 000 tunnels to the waypoint itself, 50 at a time."""
    fds, worst = bed.proxy.fds(), 0
    for _ in range(20):
        peer = await bed.link()
        for i in range(50):
            peer.connect(2 * i + 1, "127.0.0.1:15008")
            peer.data(2 * i + 1, GET)
        await peer.wait(lambda: all(peer.ended(2 * i + 1) for i in range(50)), 2)
        worst = max(worst, bed.proxy.fds() - fds)
        if any(peer.stream(2 * i + 1)["body"] for i in range(50)):
            return "LOOPED"
        peer.conn.close()
    return "refused" if worst < 40 else f"{worst} files more"


# TLS of the tunnel's end.
LOGLESS = dict(up=0, logs=0, bed="hbone")


def let_in(name, spec, envoy="?", also=("no connection*", "refused*"), sni=None, cut=None, **options):
    async def play(bed):
        """The preface in, the server's SETTINGS out: then the connection has been taken."""
        got = await tls.handshake(bed, PORT, spec, sni, cut, request=f.PREFACE + f.settings({}) + f.frame(f.PING, 0, 0, b"12345678"), enough=1)
        return got if got.startswith("refused") else "in"
    CASES.append(Case(75, f"hbone_{name}", play, envoy, also, **{**LOGLESS, **options}))


let_in("good", CLIENT, "in", ())
let_in("hello_tcp_bytes", CLIENT, "in", (), cut=lambda h: [h[i:i + 1] for i in range(len(h))])
let_in("hello_1_byte_records", CLIENT, "?", ["in", "refused*"], cut=lambda h: [tls.records(tls.message(h), 1)])
let_in("no_certificate", {"alpn": ["h2"]})
let_in("tls12", {**CLIENT, "max": "1.2"})
let_in("no_alpn", {"cert": "client"}, "?", ["in", "refused*"])
let_in("alpn_h1", {"cert": "client", "alpn": ["http/1.1"]}, "?", ["in", "refused*"])
let_in("alpn_junk", {"cert": "client", "alpn": ["\x01\x02"]}, "?", ["in", "refused*"])
for name in ["expired", "selfsigned", "wrongeku", "foreign", "nosan", "dnssan", "nuldomain", "manysans", "strange", "looped"]:
    let_in(f"cert_{name}", {"cert": name, "alpn": ["h2"]})
for name, value in {"absent": None, "10k": tls.names(b"a" * 10240), "nul": tls.names(b"a\0b"), "ip": tls.names(b"127.2.0.10"), "empty": tls.names(b"")}.items():
    CASES.append(Case(75, f"hbone_sni_{name}", (lambda v: lambda bed: tls.send_raw(bed, PORT, tls.records(tls.edited({0: v}, spec={"alpn": ["h2"]}), 16384)))(value), "?", ["hello *", *tls.REFUSED], **LOGLESS))
CASES.append(Case(75, "hbone_plaintext_h2", lambda bed: tls.send_raw(bed, PORT, f.PREFACE + f.settings({})), "?", tls.REFUSED, **LOGLESS))
CASES.append(Case(75, "hbone_plaintext_connect", lambda bed: tls.send_raw(bed, PORT, f"CONNECT {HTTP} HTTP/1.1\r\nHost: x\r\n\r\n".encode()), "?", tls.REFUSED, **LOGLESS))


@scenario(75, "hbone_connect_h1", "?", ["refused*"], up={0, 1}, logs={0, 1})
async def connect_h1(bed):
    """HTTP/1.1 CONNECT through good mTLS."""
    return "refused " + await tls.handshake(bed, PORT, {"cert": "client"}, None, request=f"CONNECT {HTTP} HTTP/1.1\r\nHost: {HTTP}\r\n\r\n".encode() + GET)


# --- nobody outlives the other side
async def within(seconds, predicate, peer=None):
    """Seconds until the predicate holds, None when it did not in time."""
    start = time.monotonic()
    while time.monotonic() - start < seconds:
        if peer is not None:
            peer.pump()
        if predicate():
            return time.monotonic() - start
        await asyncio.sleep(0.01)
    return None


async def running(bed, authority, data, count=1):
    """A client with `count` tunnels under way, and the pod's ends of them."""
    mark = len(bed.pod.tunnels)
    peer = await bed.link()
    for i in range(count):
        peer.connect(2 * i + 1, authority)
        peer.data(2 * i + 1, data)
    await within(3, lambda: all(peer.stream(2 * i + 1)["body"] for i in range(count)), peer)
    return peer, bed.pod.tunnels[mark:]


STREAM = b"GET /stream/400/20 HTTP/1.1\r\nHost: x\r\n\r\n"
for kind, authority, data in [("http", HTTP, STREAM), ("tcp", TCP, b"hello"), ("sniffed", SNIFFED, b"\0hello")]:
    def lives(name, act, told, kind=kind, authority=authority, data=data, count=1):
        async def play(bed):
            peer, tunnels = await running(bed, authority, data, count)
            if not all(peer.stream(2 * i + 1)["body"] for i in range(count)):
                return f"no tunnel: {inner(peer)}"
            await act(bed, peer)
            took = await within(1.0, lambda: told(bed, peer, tunnels), peer if peer.conn.state == "open" else None)
            return "told" if took is not None else f"not told within 1 s: {[t.end for t in tunnels][:3]} {inner(peer)}"
        CASES.append(Case(80, f"{name}_{kind}", play, "told", limit=15, bed="hbone", up=None, logs=count))

    async def client_rst(bed, peer):
        for sid in list(peer.reader.streams):
            peer.rst(sid)

    async def client_kill(bed, peer):
        peer.conn.close(reset=True)

    async def client_close(bed, peer):
        peer.conn.close()

    async def pod_kill(bed, peer):
        bed.pod.kill()

    async def pod_rst(bed, peer):
        bed.pod.reset_streams()

    # A pooled connection to the pod may live on after the client went; what must not is the request on it.
    def upstream_over(bed, peer, tunnels):
        return all(t.end is not None or t.closed for t in tunnels) and all(r["done"] for r in bed.pod.records[-len(tunnels):])

    def client_over(bed, peer, tunnels):
        return all(peer.ended(sid) for sid in peer.reader.streams) or peer.conn.state != "open"

    lives("client_reset", client_rst, upstream_over)
    lives("client_killed", client_kill, upstream_over)
    lives("client_closed", client_close, upstream_over)
    lives("client_killed_20", client_kill, upstream_over, count=20)
    lives("pod_killed", pod_kill, client_over)
    lives("pod_reset", pod_rst, client_over)
    lives("pod_killed_20", pod_kill, client_over, count=20)

BLOCK = bytes(range(256)) * 200


@scenario(80, "half_close_client_first", "all", logs=1)
async def half_close_client(bed):
    """The client ends its half after 51 kB; the pod answers only then, with all of it."""
    peer = await bed.link()
    peer.connect(1, TCP)
    peer.data(1, b"late" + BLOCK, True)
    await peer.wait(lambda: peer.ended(1), 3)
    return "all" if peer.stream(1)["body"] == b"late" + BLOCK and peer.stream(1)["end"] == "fin" else f"{len(peer.stream(1)['body'])} bytes, {inner(peer)}"


# Envoy's TCP proxy ends both halves when the pod ends its own: the rest of the client's bytes is lost.
@scenario(80, "half_close_pod_first", "pod's half: 200 3 bytes fin+rst:0", "all", only=True, logs=1)
async def half_close_pod(bed):
    """The pod ends its half first; what the client sends afterwards still arrives, to its end."""
    mark = len(bed.pod.tunnels)
    peer = await bed.link()
    peer.connect(1, TCP)
    peer.data(1, b"early")
    await peer.wait(lambda: peer.ended(1), 2)
    if peer.stream(1)["body"] != b"bye" or peer.stream(1)["end"] != "fin":
        return f"pod's half: {inner(peer)}"
    peer.data(1, BLOCK, True)
    await within(2, lambda: bed.pod.tunnels[mark:] and hasattr(bed.pod.tunnels[mark], "got"), peer)
    got = getattr(bed.pod.tunnels[mark], "got", b"")
    return "all" if got == b"early" + BLOCK else f"the pod got {len(got)} bytes, its end: {bed.pod.tunnels[mark].end}"


# Envoy drops the connection when the client's end comes while the sniffer still looks.
@scenario(80, "half_close_sniffed", "0 bytes, 200 fin", "all", only=True, logs=1)
async def half_close_sniffed(bed):
    peer = await bed.link()
    peer.connect(1, SNIFFED)
    peer.data(1, b"late" + BLOCK, True)
    await peer.wait(lambda: peer.ended(1), 3)
    return "all" if peer.stream(1)["body"] == b"late" + BLOCK and peer.stream(1)["end"] == "fin" else f"{len(peer.stream(1)['body'])} bytes, {inner(peer)}"


@scenario(80, "half_close_http", "?", ["200 inner:200*", "200 fin"], logs=1, up={0, 1})
async def half_close_http(bed):
    """A request, and the end of the client's half at once: answered or refused (Envoy drops it), not hung."""
    return await tunnel(bed, HTTP, b"GET /delay/100 HTTP/1.1\r\nHost: x\r\n\r\n", fin=True, seconds=2)


@scenario(80, "pod_absent", "?", ["200 inner:503*", "503*", "200 rst:*", "200 fin"], limit=15, logs=2)
async def pod_absent(bed):
    """The pod is not there: HTTP says 503, bytes end; nothing waits."""
    bed.pod.server.close()
    bed.pod.kill()
    await asyncio.sleep(0.1)
    try:
        return f"{await tunnel(bed, HTTP)} / {await tunnel(bed, TCP, b'hello')}"
    finally:
        again = socket.socket()
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind((POD, PORT))
        again.setblocking(False)
        bed.pod.listener = again
        await bed.pod.start()


CASES[-1].also = ["*503* / *"]


# --- floods through the tunnel
def conn_req(i, authority=HTTP):
    return f.headers(2 * i + 1, [[":method", "CONNECT"], [":authority", authority]])


def flood(name, make, count, envoy="?", also=("goaway:* closed", "closed"), **options):
    async def play(bed):
        peer, i = await bed.link(), 0
        end = time.monotonic() + 5
        while i < count and peer.conn.state == "open" and time.monotonic() < end:
            peer.send(b"".join(make(j) for j in range(i, min(i + 50, count))))
            i += 50
            await asyncio.sleep(0)
            peer.pump()
        await peer.closed(1.0)
        codes = "".join(f"goaway:{c} " for _, c in peer.reader.goaway)
        return codes + ("open" if peer.conn.state == "open" else "closed")
    CASES.append(Case(80, name, play, envoy, also, limit=20, bed="hbone", **options))


RST8 = struct.pack(">I", 8)
for kind, authority in [("http", HTTP), ("tcp", TCP), ("sniffed", SNIFFED), ("no_chain", "127.2.0.10:81")]:
    flood(f"rapid_reset_{kind}", lambda i, a=authority: conn_req(i, a) + f.frame(f.RST, 0, 2 * i + 1, RST8), 5000)
flood("rapid_request_reset", lambda i: conn_req(i) + f.frame(f.DATA, 0, 2 * i + 1, GET) + f.frame(f.RST, 0, 2 * i + 1, RST8), 5000)
flood("window_zero_resets", lambda i: conn_req(i) + f.frame(f.WINDOW_UPDATE, 0, 2 * i + 1, struct.pack(">I", 0)), 5000)
flood("empty_data_in_tunnel", lambda i: conn_req(0, TCP) if i == 0 else f.frame(f.DATA, 0, 1), 20000, also=("goaway:* closed", "closed", "open"))


@scenario(80, "streams_beyond_100", "100 run, the rest refused", ["closed", "goaway:* closed"], limit=15)
async def beyond(bed):
    peer = await bed.link()
    for i in range(150):
        peer.connect(2 * i + 1, TCP)
        peer.data(2 * i + 1, b"hello")
    await peer.wait(lambda: sum(peer.stream(2 * i + 1)["body"] == b"hello" or peer.ended(2 * i + 1) for i in range(150)) >= 150, 3)
    if peer.conn.state != "open":
        return peer.say(0)
    good, refused = sum(peer.stream(2 * i + 1)["body"] == b"hello" for i in range(150)), sum(peer.stream(2 * i + 1)["end"].startswith("rst:7") for i in range(150))
    return "100 run, the rest refused" if (good, refused) == (100, 50) else f"{good} run, {refused} refused"


@scenario(80, "silent_pod_big_upload", "held", grow=32, limit=15, logs=1)
async def silent_upload(bed):
    """As many bytes as the proxy's windows let in, to a TCP pod that takes them: they pass, memory stays."""
    peer = await bed.link()
    peer.connect(1, TCP)
    peer.data(1, b"silent")
    for _ in range(40):
        peer.data(1, b"x" * 1000)
    await asyncio.sleep(0.3)
    return "held" if not peer.ended(1) else inner(peer)
