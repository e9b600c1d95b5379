#!/usr/bin/env python3
"""run.py --bin PATH [--envoy PATH] [--shared DIR] [--only PATTERN] [-v]

What istiod pushed, recorded in ../shared/fixtures/istio (or $WAYPOST_SHARED), in Waypost.

1. Every step of every scenario is made static and loaded with `--mode validate`. Each either loads or stops with one line on stderr, `path: reason`,
   whose reason is something a later issue brings; which of them is written down in OUTCOMES, so that a change does not pass unseen.
2. `waypoint-basic` serves: the same requests through HBONE to Envoy and to Waypost, between a client and destinations made here. What the client
   gets and what reaches the destinations must be the same; how is the head of mesh.py. Without an Envoy this part is left out.
3. `waypost explain` tells the way of requests through three scenarios; its words are in explain/*.txt (`--write` writes them anew). While (2) serves,
   the address that it names for each tunnel must be the one that the bytes have reached.

Exit status 0 when all is as expected, 1 when not, 0 with a line when the recordings are not there."""
import argparse
import difflib
import json
import os
import pathlib
import re
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import rig

from mesh import Connection, Destinations, Gone, Reader, Tls, digest, read_all

OK = "OK"
EXPLAINED = pathlib.Path(__file__).resolve().parent / "explain"
# {scenario: {step: outcome}}: OK, or a pattern that the one line on stderr must hold. A step that is not named is a failure, and so is one that is
# not there.
OUTCOMES = {
    "east-west": {"0-initial": OK},
    "gateway-api": {"0-initial": OK, "1-secret-rotated": OK, "2-route-delete": OK},
    "gateway-istio": {"0-initial": OK},
    "waypoint-all": {"0-initial": OK},
    "waypoint-authz": {"0-initial": OK},
    "waypoint-basic": {"0-initial": OK, "1-pod-added": OK, "2-pod-removed": OK, "3-service-added": OK, "4-route-added": OK, "5-route-changed": OK,
                       "6-policy-added": OK, "7-route-delete": OK, "8-service-delete": OK},
    "waypoint-basic-sotw": {"0-initial": OK, "1-service-added": OK},
    "waypoint-egress": {"0-initial": OK},
    "waypoint-extensions": {"0-initial": OK},
    "waypoint-networks": {"0-initial": OK},
    "waypoint-routing": {"0-initial": OK},
    "waypoint-telemetry": {"0-initial": OK},
}


def static(shared, scenario, step, work, certs):
    """A recorded step as one bootstrap file."""
    workload = work / "workload"
    if not workload.exists():
        workload.mkdir()
        for source, name in (("waypoint.pem", "cert-chain.pem"), ("waypoint.key", "key.pem"), ("ca.pem", "root-cert.pem")):
            shutil.copy(certs / source, workload / name)
    config = work / f"{scenario}-{step}.json"
    with config.open("w") as out:
        subprocess.run([sys.executable, shared / "tools/istiod/static.py", shared / "fixtures/istio" / scenario, workload, "--envoy", "--step", step],
                       stdout=out, stderr=subprocess.DEVNULL, check=True)
    return config


def loads(binary, config, outcome):
    """Nothing where the file does what is expected of it, else what it does."""
    r = subprocess.run([binary, "-c", config, "--mode", "validate", "-l", "error"], capture_output=True, text=True, timeout=60)
    lines = r.stderr.splitlines()
    said = f"status {r.returncode}: {r.stderr.strip() or r.stdout.strip()}"
    if outcome == OK:
        return None if (r.returncode, lines) == (0, []) and r.stdout.rstrip().endswith("OK") else said
    as_it_should = r.returncode == 1 and len(lines) == 1 and re.match(r"[a-z_]+[\w.\[\]@]*: .", lines[0]) and re.search(outcome, lines[0])
    return None if as_it_should else said


def check_loading(binary, shared, work, certs, verbose):
    failed = 0
    recorded = {s.parent.parent.parent.name: set() for s in (shared / "fixtures/istio").glob("*/recorded/state/*")}
    for s in (shared / "fixtures/istio").glob("*/recorded/state/*"):
        recorded[s.parent.parent.parent.name].add(s.name)
    expected = {name: set(steps) for name, steps in OUTCOMES.items()}
    for name in sorted(set(recorded) | set(expected)):
        for step in sorted(recorded.get(name, set()) ^ expected.get(name, set())):
            print(f"FAILED  {name}/{step}: {'has no outcome in this test' if step in recorded.get(name, ()) else 'is not recorded any more'}")
            failed += 1
        for step in sorted(recorded.get(name, set()) & expected.get(name, set())):
            difference = loads(binary, static(shared, name, step, work, certs), OUTCOMES[name][step])
            if difference:
                print(f"FAILED  {name}/{step}: expected {OUTCOMES[name][step]}, got {difference}")
                failed += 1
            elif verbose:
                print(f"ok      {name}/{step}: {OUTCOMES[name][step]}")
    print(f"loading: {sum(map(len, recorded.values()))} steps of {len(recorded)} scenarios, {failed} not as expected")
    return failed


# What `waypost explain` says.

PEER = ("--peer", "spiffe://cluster.local/ns/default/sa/client")
# {file: (scenario, arguments)}
QUESTIONS = {
    "captured": ("waypoint-basic", ["--hbone", "127.2.0.21:9080", *PEER, "/hello"]),
    "service": ("waypoint-basic", ["--hbone", "127.2.0.10:9080", *PEER, "--random", "5", "/hello"]),
    "tcp": ("waypoint-basic", ["--hbone", "127.2.0.12:3306", *PEER, "--tcp"]),
    "sniffed": ("waypoint-basic", ["--hbone", "127.2.0.13:8000", *PEER, "--http2", "/hello"]),
    "unknown-port": ("waypoint-basic", ["--hbone", "127.2.0.13:9999", *PEER, "/"]),
    "subset": ("waypoint-routing", ["--hbone", "127.2.0.14:9080", *PEER, "-H", "x-skip: 1", "/api/1"]),
    "grpc": ("waypoint-routing", ["--hbone", "127.2.0.11:9081", *PEER, "-X", "POST", "--http2", "-H", "content-type: application/grpc", "/ratings.v1.Ratings/Get"]),
    "https-redirect": ("gateway-istio", ["http://shop.example:8080/"]),
    "ingress": ("gateway-istio", ["--address", "8443", "--sni", "shop.example", "https://shop.example/"]),
    "passthrough": ("gateway-istio", ["--address", "15443", "--sni", "outbound_.9080_._.reviews.default.svc.cluster.local", "--alpn", "istio", "--tcp"]),
}


def check_explaining(binary, shared, work, certs, write):
    failed = 0
    for name, (scenario, arguments) in QUESTIONS.items():
        config = static(shared, scenario, "0-initial", work, certs)
        r = subprocess.run([binary, "explain", "-c", config, *arguments], capture_output=True, text=True, timeout=60)
        # What is not built yet is in OUTCOMES.
        file, got = EXPLAINED / f"{name}.txt", r.stdout.partition("not usable:\n")[0]
        if write:
            file.write_text(got)
        wanted = file.read_text() if file.exists() else ""
        if r.returncode or got != wanted:
            failed += 1
            print(f"FAILED  explain {name}: status {r.returncode} {r.stderr}")
            print("".join(difflib.unified_diff(wanted.splitlines(True), got.splitlines(True), "as it was", "now", n=2)))
    print(f"explaining: {len(QUESTIONS)} questions, {failed} answered otherwise")
    return failed


def reached(binary, config, tunnel):
    """Where `waypost explain` says that a tunnel's bytes go: an address, and the authority of the CONNECT around them if there is one."""
    authority, content = tunnel
    r = subprocess.run([binary, "explain", "-c", config, "--hbone", authority, *PEER, "--json", *content], capture_output=True, text=True, timeout=60)
    outcome = json.loads(r.stdout)["outcome"]
    return " through ".join([outcome["address"], *outcome["tunnels"]]) if "address" in outcome else None


# The client's side.

VOLATILE = [(re.compile(r"^(x-request-id): .*", re.M), r"\1: <uuid>"), (re.compile(r"^(date|x-envoy-upstream-service-time): .*", re.M), r"\1: <time>"),
            (re.compile(r"(\d+\.\d+\.\d+\.\d+):[3-6]\d{4}\b"), r"\1:<port>")]
# Where tunnels go, as istiod named it: reviews-v1 and -v2 are captured pods, -v3 a plain one.
CAPTURED, PLAIN, GRPC, DB, DB2, MIXED, SNIFFED, TLS = ("127.2.0.21:9080", "127.2.0.23:9080", "127.2.0.11:9081", "127.2.0.12:3306", "127.2.0.12:3307",
                                                       "127.2.0.13:80", "127.2.0.13:8000", "127.2.0.13:443")


def fields(pairs):
    """Header fields in an order of their own: that of the names is the proxy's affair, that of a name's values is not."""
    return "".join(f"  {n}: {v}\n" for n, v in sorted(pairs, key=lambda p: p[0]))


def normal(text):
    text = re.sub(r"^  ", "", text, flags=re.M)
    for pattern, by in VOLATILE:
        text = pattern.sub(by, text)
    return text


class Client:
    """What a captured client's ztunnel does, and what it gets, line by line."""

    def __init__(self, certs):
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.load_cert_chain(certs / "client.pem", certs / "client.key")
        self.context.load_verify_locations(certs / "ca.pem")
        self.context.check_hostname = False
        self.context.set_alpn_protocols(["h2"])
        self.got, self.tunnels, self.content = [], set(), ("/",)

    def say(self, *what):
        self.got.append(" ".join(str(w) for w in what))

    def hbone(self):
        sock = socket.create_connection(("127.0.0.1", 15008), 10)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Connection(Tls(sock, self.context, False)).start()

    def tunnel(self, authority, *more, connection=None):
        """CONNECT; the stream where it was accepted."""
        self.tunnels.add((authority, self.content))
        stream = (connection or self.hbone()).open([(":method", "CONNECT"), (":authority", authority), *more])
        head = dict(stream.head())
        status = head.pop(":status")
        self.say(f"CONNECT {authority}:", status, "\n" + fields(head.items()))
        if status != "200":
            self.end(stream)
        return stream

    def end(self, stream):
        """Waits for the end of a stream that the waypoint ends. Envoy resets a tunnel (CONNECT_ERROR) even after a last response; Waypost ends it
        (END_STREAM), as a TCP connection would be, so that no data is lost on the way. After a refusal Envoy says CONNECT_ERROR, Waypost NO_ERROR.
        All of them are an end."""
        rest, how = b"", "the end"
        try:
            while data := stream.recv():
                rest += data
        except Gone as e:
            how = "the end" if str(e) in ("reset 10", "reset 0") else e
        self.say("then", digest(rest), how)

    def answer(self, reader, method="GET"):
        line, headers = reader.head()
        self.say(line, "\n" + fields(headers))
        status = line.split(" ")[1]
        try:
            self.say("body", digest(reader.body(headers, False, bodiless=method == "HEAD" or status in ("100", "101", "204", "304"))))
        except Gone as e:
            self.say("body cut short by", "the end" if str(e) in ("reset 10", "closed") else e)  # see `end`

    def http(self, authority, *requests, method="GET", connect=(), closes=False):
        """HTTP/1.1 requests, bytes as they are, one after the other in one tunnel, which is closed from there with `closes`."""
        stream = self.tunnel(authority, *connect)
        reader = Reader(stream)
        for request in requests:
            stream.sendall(request if isinstance(request, bytes) else request.encode())
            self.answer(reader, method)
        if closes:
            self.end(stream)
        stream.close()

    def h2(self, authority, path, body=b"", *more, trailers=None):
        """A request over HTTP/2 in a tunnel, to its end."""
        self.content = ("--http2", "/")
        inner = Connection(self.tunnel(authority)).start()
        head = [(":method", "POST" if body else "GET"), (":scheme", "http"), (":authority", "shop.example"), (":path", path), *more]
        stream = inner.open(head, end=not body)
        if body:
            stream.sendall(body)
            stream.send_head(trailers, True) if trailers else stream.close_write()
        self.say("response\n" + fields(stream.head()))
        try:
            self.say("body", digest(read_all(stream)))
        except Gone as e:
            self.say("body cut short by", e)
        self.say("trailers\n" + fields(stream.trailers or []))

    def raw(self, authority, *data, quiet=False):
        """Bytes in a tunnel, to and fro, then a half-close."""
        self.content = ("--tcp",)
        stream = self.tunnel(authority)
        for d in data:
            stream.sendall(d)
            want, got = 0 if quiet else len(d) + 5, b""
            while len(got) < want:
                piece = stream.recv(want - len(got))
                if not piece:
                    break
                got += piece
            self.say("got", digest(got))
        stream.close_write()
        self.say("then", read_all(stream))


def get(path, *headers, method="GET"):
    return f"{method} {path} HTTP/1.1\r\nhost: shop.example\r\n" + "".join(h + "\r\n" for h in headers) + "\r\n"


GRPC_HEAD = (("content-type", "application/grpc"), ("te", "trailers"), ("grpc-timeout", "5S"))


def message(text):
    return b"\0" + struct.pack(">I", len(text)) + text


def chat(c):
    """A gRPC stream in both directions: the answer to each message comes before the next is sent."""
    inner = Connection(c.tunnel(GRPC)).start()
    stream = inner.open([(":method", "POST"), (":scheme", "http"), (":authority", "ratings"), (":path", "/svc/Chat"), *GRPC_HEAD])
    c.say("response\n" + fields(stream.head()))
    for text in (b"one", b"two", b"three"):
        stream.sendall(message(text))
        got = b""
        while len(got) < len(message(text)) and (data := stream.recv()):
            got += data
        c.say("got", got)
    stream.close_write()
    c.say("rest", read_all(stream), "trailers\n" + fields(stream.trailers or []))


def websocket(c):
    stream = c.tunnel(CAPTURED)
    reader = Reader(stream)
    stream.sendall(get("/ws", "connection: Upgrade", "upgrade: websocket", "sec-websocket-version: 13", "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==").encode())
    c.answer(reader)
    for text in (b"one", b"two"):
        stream.sendall(text)
        c.say("got", reader.exactly(len(text) + 3))
    stream.close()


def expect(c):
    stream = c.tunnel(CAPTURED)
    reader = Reader(stream)
    stream.sendall(get("/echo", "expect: 100-continue", "content-length: 4", method="POST").encode())
    c.answer(reader)
    stream.sendall(b"body")
    c.answer(reader)
    stream.close()


def side_by_side(c):
    connection = c.hbone()
    tunnels = [c.tunnel(a, connection=connection) for a in (CAPTURED, PLAIN, CAPTURED)]
    for i, t in enumerate(tunnels):
        t.sendall(get(f"/n/{i}").encode())
        c.answer(Reader(t))
    tunnels[0].reset()
    tunnels[2].sendall(get("/after").encode())
    c.answer(Reader(tunnels[2]))


def not_connect(c):
    stream = c.hbone().open([(":method", "GET"), (":scheme", "https"), (":authority", CAPTURED), (":path", "/")], end=True)
    c.say("response\n" + fields(stream.head()))
    c.say("body", digest(read_all(stream)))


def unknown_port(c):
    stream = c.tunnel("127.2.0.13:9999")
    stream.sendall(get("/").encode())
    c.say("then", read_all(stream))


def without_a_certificate(c):
    context = ssl._create_unverified_context()
    context.set_alpn_protocols(["h2"])
    try:
        sock = context.wrap_socket(socket.create_connection(("127.0.0.1", 15008), 10))
        sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
        data = sock.recv(9)
        c.say("accepted" if data else "closed")
    except OSError:
        c.say("closed")


SPOOF = "x-forwarded-client-cert: By=spiffe://cluster.local/ns/x/sa/x;URI=spiffe://cluster.local/ns/admin/sa/admin"
ZTUNNEL = (("baggage", "k8s.cluster.name=c,k8s.namespace.name=default,k8s.deployment.name=client,service.name=client,service.version=v1"),
           ("forwarded", "for=10.0.0.7"), ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"))
BIG = b"0123456789abcdef" * (5 << 16)

CASES = {
    "GET, captured": lambda c: c.http(CAPTURED, get("/hello?a=b", "x-a: 1", "x-a: 2")),
    "GET, plain pod": lambda c: c.http(PLAIN, get("/hello")),
    "GET, captured, three in a tunnel": lambda c: c.http(CAPTURED, get("/1"), get("/2"), get("/3")),
    "ztunnel's headers on CONNECT": lambda c: c.http(CAPTURED, get("/hello"), connect=ZTUNNEL),
    "HEAD": lambda c: c.http(CAPTURED, get("/hello", method="HEAD"), get("/after", method="HEAD"), method="HEAD"),
    "POST": lambda c: c.http(CAPTURED, get("/post", "content-length: 5", method="POST") + "hello"),
    "POST, chunked": lambda c: c.http(CAPTURED, get("/post", "transfer-encoding: chunked", method="POST") + "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"),
    "PUT, 5 MiB": lambda c: c.http(CAPTURED, get("/put", f"content-length: {len(BIG)}", method="PUT").encode() + BIG),
    "GET, 5 MiB": lambda c: c.http(CAPTURED, get(f"/big/{len(BIG)}")),
    "GET, 5 MiB, plain pod": lambda c: c.http(PLAIN, get(f"/big/{len(BIG)}")),
    "chunked response": lambda c: c.http(CAPTURED, get("/chunked"), get("/after")),
    "404 of the destination": lambda c: c.http(CAPTURED, get("/status/404"), get("/after")),
    "503 of the destination": lambda c: c.http(PLAIN, get("/status/503"), get("/after")),
    "body cut short": lambda c: c.http(PLAIN, get("/cut")),
    "closed without an answer": lambda c: c.http(PLAIN, get("/close")),
    "path to be normalised": lambda c: c.http(CAPTURED, get("/a/../b//c/%2e%2e/d;x?q=/../")),
    "HTTP/1.0": lambda c: c.http(CAPTURED, "GET /old HTTP/1.0\r\n\r\n", closes=True),
    "no host": lambda c: c.http(CAPTURED, "GET / HTTP/1.1\r\n\r\n", closes=True),
    "nonsense": lambda c: c.http(CAPTURED, "nonsense\r\n\r\n", closes=True),
    "x-forwarded-client-cert in the request": lambda c: c.http(CAPTURED, get("/hello", SPOOF)),
    "x-forwarded-client-cert on CONNECT": lambda c: c.http(CAPTURED, get("/hello"), connect=[tuple(SPOOF.split(": ", 1))]),
    "x-envoy and x-istio headers of the client": lambda c: c.http(CAPTURED, get("/hello", "x-envoy-retry-on: 5xx", "x-envoy-upstream-rq-timeout-ms: 1", "x-envoy-original-dst-host: 127.1.0.3:9080",
                                                                  "x-istio-attributes: x", "x-forwarded-for: 9.9.9.9", "x-forwarded-proto: https", "x-request-id: mine")),
    "connection: close": lambda c: c.http(CAPTURED, get("/bye", "connection: close"), closes=True),
    "expect: 100-continue": expect,
    "websocket": websocket,
    "HTTP/2 in the tunnel": lambda c: c.h2(CAPTURED, "/hello", b"body"),
    "HTTP/2 to a pod of h2c": lambda c: c.h2(MIXED, "/hello", b"body"),
    "HTTP/1.1 to a pod of h2c": lambda c: c.http(MIXED, get("/hello"), get("/again")),
    "gRPC, unary": lambda c: c.h2(GRPC, "/svc/Unary", message(b"hi"), *GRPC_HEAD),
    "gRPC, streamed response": lambda c: c.h2(GRPC, "/svc/Stream", message(b"hi"), *GRPC_HEAD),
    "gRPC, streams both ways": chat,
    "gRPC, error in trailers": lambda c: c.h2(GRPC, "/svc/Late", message(b"hi"), *GRPC_HEAD),
    "gRPC, error at once": lambda c: c.h2(GRPC, "/svc/Error", message(b"hi"), *GRPC_HEAD),
    "gRPC, stream reset": lambda c: c.h2(GRPC, "/svc/Reset", message(b"hi"), *GRPC_HEAD),
    "gRPC, request trailers": lambda c: c.h2(GRPC, "/svc/Unary", message(b"hi"), *GRPC_HEAD, trailers=[("x-sum", "7")]),
    "TCP": lambda c: c.raw(DB, b"\x01one", b"\x01two"),
    "TCP, another port": lambda c: c.raw(DB2, b"\x01one"),
    "TCP, 1 MiB": lambda c: c.raw(DB, b"quiet" + b"x" * (1 << 20), quiet=True),
    "TCP, plain pod": lambda c: c.raw(TLS, b"\x01one and more"),
    "sniffed as HTTP": lambda c: c.http(SNIFFED, get("/sniffed")),
    "sniffed as TCP": lambda c: c.raw(SNIFFED, b"\x01\x02 not http"),
    "sniffed as HTTP/2": lambda c: c.h2(SNIFFED, "/sniffed", b"body"),
    "tunnels side by side": side_by_side,
    "unknown address": lambda c: c.tunnel("127.2.0.99:80"),
    "unknown port": unknown_port,
    "authority that is no address": lambda c: c.tunnel("reviews.default.svc.cluster.local:9080"),
    "no CONNECT": not_connect,
    "no client certificate": without_a_certificate,
}


def observe(name, certs, destinations, ways):
    """What a case looks like from both ends. Its tunnels, and the places that they reached, go into `ways`."""
    destinations.taken()
    client = Client(certs)
    try:
        CASES[name](client)
    except Gone as e:
        client.say("ended by", e)
    seen, taken = [], destinations.taken()
    ways[name] = client.tunnels, {re.sub(r" through :authority: ([^,]+),.*", r" through \1", address) for _, address, *_ in taken}
    for what, address, *rest in taken:
        seen.append(f"{what} {address}\n" + "".join(fields(r) if isinstance(r, list) else f"  {r}\n" for r in rest))
    # What several connections say of a case has no order among them.
    return normal("\n".join(client.got) + "\n--- at the destination\n" + "".join(sorted(seen)))


def serve(binary, config, work, certs, destinations, names):
    with rig.Proxy(binary, config, work, work / "proxy.log") as proxy:
        out, ways = {}, {}
        for name in names:
            out[name] = observe(name, certs, destinations, ways)
            proxy.alive()
        return out, ways


def check_serving(binary, envoy, shared, work, certs, only, verbose):
    config = static(shared, "waypoint-basic", "0-initial", work, certs)
    destinations = Destinations(certs)
    for pod in ("127.1.0.1", "127.1.0.2", "127.1.0.11", "127.1.0.12"):
        destinations.listen(f"{pod}:15008", destinations.captured)
    for address in ("127.1.0.3:9080", "127.1.0.13:8080", "127.1.0.13:8000", "127.1.0.13:8443"):
        destinations.listen(address, destinations.plain)
    names = [n for n in CASES if re.search(only, n)]
    expected, _ = serve(envoy, config, work, certs, destinations, names)
    got, ways = serve(binary, config, work, certs, destinations, names)
    failed = 0
    for name in names:
        if verbose:
            print(f"== {name}\n{expected[name]}")
        if expected[name] == got[name]:
            continue
        failed += 1
        print(f"FAILED  {name}")
        print("".join(difflib.unified_diff(expected[name].splitlines(True), got[name].splitlines(True), "Envoy", "Waypost", n=2)))
    print(f"serving: {len(names)} cases, {failed} different")
    known = {t: reached(binary, config, t) for tunnels, _ in ways.values() for t in tunnels}
    for name, (tunnels, at) in ways.items():
        said = {known[t] for t in tunnels} - {None}
        # A request that is refused reaches nothing, wherever it would have gone.
        if at and at != said:
            failed += 1
            print(f"FAILED  {name}: explain says {sorted(said)}, the bytes came to {sorted(at)}")
    print(f"explaining: {sum(bool(at) for _, at in ways.values())} cases reached what was said they would reach" if not failed else "explaining: see above")
    return failed


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bin", required=True)
    p.add_argument("--envoy")
    p.add_argument("--shared", type=pathlib.Path, default=pathlib.Path(os.environ.get("WAYPOST_SHARED", rig.ROOT.parent / "shared")))
    p.add_argument("--only", default="", metavar="PATTERN", help="serve only cases whose name matches, and load nothing")
    p.add_argument("--write", action="store_true", help="write explain/*.txt anew")
    p.add_argument("-v", "--verbose", action="store_true")
    a = p.parse_args()
    shared = a.shared.resolve()
    if not (shared / "fixtures/istio").is_dir():
        print(f"no recordings under {shared}: nothing to do")
        return 0
    rig.isolate()
    failed, envoy = 0, rig.find("envoy", a.envoy)
    with tempfile.TemporaryDirectory() as d:
        work = pathlib.Path(d)
        certs = rig.certificates(work)
        if not a.only:
            failed += check_loading(a.bin, shared, work, certs, a.verbose)
            failed += check_explaining(a.bin, shared, work, certs, a.write)
        if envoy:
            failed += check_serving(a.bin, envoy, shared, work, certs, a.only, a.verbose)
        else:
            print("serving: left out, Envoy is not there to compare with")
    return 1 if failed else 0


sys.exit(main())
