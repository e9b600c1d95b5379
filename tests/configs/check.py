#!/usr/bin/env python3
"""check.py [--envoy PATH] [--waypost PATH] [--tools PATH] [--require waypost,envoy,tools] [NAME ...]

Starts every configs/*.yaml in Envoy and in Waypost, sends both the same requests (HTTP, TLS, TCP, HBONE) and fails where an answer is not the
expected one or the two proxies differ in it. The backends say what reached them, so what the proxy did to a request is compared as well.
--tools is the binary with `hbone get` and `sink` (Waypost itself unless given). What is missing is left out with a line, unless --require names it."""
import argparse
import difflib
import pathlib
import re
import shutil
import socket
import socketserver
import ssl
import subprocess
import sys
import tempfile
import threading

import yaml

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import rig

VOLATILE = re.compile(r"^(date|x-request-id|x-envoy-upstream-service-time): .*\n", re.M | re.I)
CLOSED = "(closed)"


# Backends: HTTP answers with the request it got; TCP says its name and echoes.

class Threads(socketserver.ThreadingTCPServer):
    allow_reuse_address, daemon_threads, request_queue_size = True, True, 128


class HttpEcho(socketserver.StreamRequestHandler):
    def handle(self):
        while head := self.read_head():
            lines = head.decode("latin-1").split("\r\n")
            body = "\n".join([lines[0], *sorted(l.lower() if l.lower().startswith("host:") else l for l in lines[1:] if l)]) + "\n"
            self.wfile.write(f"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode("latin-1"))

    def read_head(self):
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self.rfile.readline(65536)
            if not line or len(head) > 1 << 20:
                return b""
            head += line
        return head[:-4]


class TcpEcho(socketserver.BaseRequestHandler):
    def handle(self):
        try:
            if context := self.server.tls:
                self.request = context.wrap_socket(self.request, server_side=True)
            while data := self.request.recv(65536):
                self.request.sendall(self.server.name + b":" + data)
        except OSError:
            pass  # the peer went


def serve(address, port, handler, name=b"", tls=None):
    server = Threads((address, port), handler)
    server.name, server.tls = name, tls
    threading.Thread(target=server.serve_forever, daemon=True).start()


# Clients. Each returns a text to compare.

def exchange(port, data, sni=None, alpn=None):
    """Sends bytes over TCP or TLS to 127.0.0.1 and returns one read, or CLOSED."""
    try:
        with socket.create_connection(("127.0.0.1", port), 5) as s:
            if sni:
                context = ssl._create_unverified_context()
                if alpn:
                    context.set_alpn_protocols(alpn)
                s = context.wrap_socket(s, server_hostname=sni)
            s.sendall(data)
            return s.recv(65536).decode("latin-1") or CLOSED
    except OSError:
        return CLOSED


def http(port, host, path, *headers, method="GET", sni=None):
    """One HTTP/1.1 request, read to the end of the connection."""
    request = "".join([f"{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n", *(h + "\r\n" for h in headers), "\r\n"]).encode()
    try:
        with socket.create_connection(("127.0.0.1", port), 5) as s:
            if sni:
                s = ssl._create_unverified_context().wrap_socket(s, server_hostname=sni)
            s.sendall(request)
            answer = b""
            while data := s.recv(65536):
                answer += data
        return normal(answer.decode("latin-1").replace("\r\n", "\n")) or CLOSED
    except OSError:
        return CLOSED


def normal(text):
    """Header order is the proxy's own affair; values that differ from run to run are left out."""
    head, _, body = text.partition("\n\n")
    status, *headers = head.split("\n")
    return VOLATILE.sub("", "\n".join([status, *sorted(h.lower() if ":" not in h else h for h in headers if h)]) + "\n\n" + body)


def curl_h2(path):
    out = subprocess.run(["curl", "-skS", "--http2", "--max-time", "5", "--resolve", "shop.example:8443:127.0.0.1", "-o", "-", "-w", "%{http_version} %{http_code}",
                          f"https://shop.example:8443{path}"], capture_output=True, text=True).stdout
    return VOLATILE.sub("", out)


def hbone(tools, certs, account, url):
    r = subprocess.run([tools, "hbone", "get", "--via", "127.0.0.1:15008", "--cert", certs / f"{account}.pem", "--key", certs / f"{account}.key",
                        "--ca", certs / "ca.pem", url], capture_output=True, text=True, timeout=20)
    if r.returncode == 0:
        return normal(r.stdout)
    refused = re.search(r"CONNECT\D*(\d{3})\b", r.stderr)  # the status, where the tunnel itself was refused
    return CLOSED + (f" {refused[1]}" if refused else "")


# What is asked of each configuration: (name, what to do, a pattern the answer must hold).

def ingress(_):
    tls = lambda path, *h: http(8443, "shop.example", path, *h, sni="shop.example")
    yield "healthz", lambda: http(8080, "shop.example", "/healthz"), r"^HTTP/1.1 200 OK\n(?s:.*)\nok\n$"
    yield "to https", lambda: http(8080, "shop.example", "/a?b=c"), r"301 Moved Permanently(?s:.*)location: https://shop.example:8443/a\?b=c\n"
    yield "unknown host", lambda: http(8080, "other.example", "/"), r"^HTTP/1.1 404 "
    yield "slashes merged", lambda: http(8080, "plain.example", "/a//b/../c"), r"GET /a/c HTTP/1.1\n"
    yield "escaped slash", lambda: http(8080, "plain.example", "/a%2Fb"), r"^HTTP/1.1 307 (?s:.*)location: /a/b\n"
    yield "underscore", lambda: http(8080, "plain.example", "/", "x_y: 1"), r"^HTTP/1.1 400 "
    yield "xff", lambda: http(8080, "plain.example", "/", "x-forwarded-for: 9.9.9.9"), r"x-forwarded-for: 9.9.9.9,\s?127.0.0.1\n"
    yield "spoofed", lambda: http(8080, "plain.example", "/", "x-envoy-retry-on: 5xx", "x-forwarded-proto: https"), r"^HTTP/1.1 200 "
    yield "tls", lambda: tls("/"), r"strict-transport-security: max-age=31536000\n(?s:.*)GET / HTTP/1.1\n(?s:.*)x-forwarded-proto: https\n"
    yield "api", lambda: tls("/api/x"), r"GET /v1/x HTTP/1.1\n(?s:.*)x-api: 1\n"
    yield "redirect", lambda: tls("/old/y"), r"308 (?s:.*)location: https://shop.example/new/y\n"
    yield "unknown name", lambda: http(8443, "other.example", "/", sni="other.example"), re.escape(CLOSED)
    if shutil.which("curl"):
        yield "h2", lambda: curl_h2("/api/h2"), r"GET /v1/h2 HTTP/1.1\n(?s:.*)2 200$"
    else:
        print("  no curl: HTTP/2 left out")


def tcp(_):
    yield "plain", lambda: exchange(9001, b"hello"), r"^a:hello$"
    yield "both clusters", lambda: "".join(sorted({exchange(9002, b"x") for _ in range(60)})), r"^a:xb:x$"
    yield "sni a", lambda: exchange(9443, b"x", sni="a.example"), r"^a-tls:x$"
    yield "sni b", lambda: exchange(9443, b"x", sni="b.example"), r"^b-tls:x$"
    yield "sni of a subdomain", lambda: exchange(9443, b"x", sni="c.b.example"), r"^b-tls:x$"
    yield "unknown name", lambda: exchange(9443, b"x", sni="c.example"), re.escape(CLOSED)
    yield "no tls", lambda: exchange(9443, b"GET / HTTP/1.1\r\nhost: a.example\r\n\r\n"), re.escape(CLOSED)


def waypoint(env):
    yield "no client certificate", lambda: exchange(15008, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", sni="x.example", alpn=["h2"]), re.escape(CLOSED)
    if not env.tools:
        return
    get = lambda account, url: hbone(env.tools, env.certs, account, url)
    yield "http", lambda: get("client", "http://127.2.0.10:80/"), r"\b200\b(?s:.*)server: istio-envoy\n"
    yield "guest elsewhere", lambda: get("guest", "http://127.2.0.10:80/"), r"\b200\b"
    yield "sniffed", lambda: get("client", "http://127.2.0.10:9000/"), r"\b200\b(?s:.*)x-sniffed: http\n"
    yield "tcp chain", lambda: get("client", "http://127.2.0.10:5432/"), r"\b200\b"
    # No chain: on a sniffed port that shows when bytes came, after the 200; on another at once, before it.
    yield "unknown port", lambda: get("client", "http://127.2.0.10:81/"), f"^{re.escape(CLOSED)}$"
    yield "unknown address", lambda: get("client", "http://127.2.0.99:80/"), f"^{re.escape(CLOSED)} 503$"


CASES = {"ingress": ingress, "tcp": tcp, "waypoint": waypoint}


def edge_profile(config):
    """The ingress holds to Envoy's best practices for the edge; returns what does not."""
    wrong = []

    def want(where, have, **values):
        wrong.extend(f"{where}.{k} is {have.get(k)!r}, not {v!r}" for k, v in values.items() if have.get(k) != v)

    if not config["admin"]["address"]["socket_address"]["address"].startswith("127."):
        wrong.append("admin is not on loopback")
    thresholds = {a["name"]: a["triggers"][0]["threshold"]["value"] for a in config["overload_manager"]["actions"]}
    want("overload", thresholds, **{"envoy.overload_actions.shrink_heap": 0.95, "envoy.overload_actions.stop_accepting_requests": 0.98})
    monitors = {m["name"] for m in config["overload_manager"]["resource_monitors"]}
    wrong.extend(f"no monitor {m}" for m in {"envoy.resource_monitors.fixed_heap", "envoy.resource_monitors.global_downstream_max_connections"} - monitors)
    limits = config["layered_runtime"]["layers"][0]["static_layer"]
    for l in config["static_resources"]["listeners"]:
        want(l["name"], l, per_connection_buffer_limit_bytes=32768)
        if f"envoy.resource_limits.listener.{l['name']}.connection_limit" not in limits:
            wrong.append(f"{l['name']} has no connection limit")
        for c in l["filter_chains"]:
            m = c["filters"][-1]["typed_config"]
            want(l["name"], m, use_remote_address=True, normalize_path=True, merge_slashes=True, path_with_escaped_slashes_action="UNESCAPE_AND_REDIRECT",
                 stream_idle_timeout="300s", request_timeout="300s",
                 common_http_protocol_options={"idle_timeout": "3600s", "headers_with_underscores_action": "REJECT_REQUEST"},
                 http2_protocol_options={"max_concurrent_streams": 100, "initial_stream_window_size": 65536, "initial_connection_window_size": 1048576})
    for c in config["static_resources"]["clusters"]:
        want(c["name"], c, per_connection_buffer_limit_bytes=32768)
    return wrong


def run(proxy, config, env):
    """Answers of one proxy to all cases of one configuration: {case: (answer, the pattern it must hold)}; None where it does not start."""
    log = env.work / f"{config.stem}-{proxy.name}.log"
    try:
        with rig.Proxy(proxy.path, config, env.work, log) as p:
            answers = {}
            for name, ask, pattern in CASES.get(config.stem, lambda _: ())(env):
                answers[name] = (ask(), pattern)
                p.alive()
            return answers
    except SystemExit as e:
        print(f"FAIL {config.name} in {proxy.name}: {e}")
        return None


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--envoy")
    a.add_argument("--waypost")
    a.add_argument("--tools")
    a.add_argument("--require", default="")
    a.add_argument("names", nargs="*")
    args = a.parse_args()
    rig.isolate()
    found = {n: rig.find(n, getattr(args, n)) for n in ("envoy", "waypost")}
    tools = args.tools or found["waypost"]
    missing = [n for n, p in [*found.items(), ("tools", tools)] if not p]
    if blocked := [n for n in missing if n in args.require.split(",")]:
        sys.exit(f"needed and not found: {', '.join(blocked)}")
    for n in missing:
        print(f"{n} not found: left out")
    failures, checks = 0, 0

    with tempfile.TemporaryDirectory() as work:
        env = argparse.Namespace(work=pathlib.Path(work), certs=rig.certificates(work), tools=tools)
        serve("127.1.0.20", 8080, HttpEcho)
        for name, address in ((b"a", "127.1.0.21"), (b"b", "127.1.0.22")):
            serve(address, 9000, TcpEcho, name)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(env.certs / f"{name.decode()}.example.pem", env.certs / f"{name.decode()}.example.key")
            serve(address, 9443, TcpEcho, name + b"-tls", context)
        sink = rig.Sink(tools, env.work / "sink.log", hbone=["127.1.0.10:15008"], certs=env.certs).__enter__() if tools else None

        try:
            for config in sorted((rig.ROOT / "configs").glob("*.yaml")):
                if args.names and config.stem not in args.names:
                    continue
                text = config.read_text()
                if not text.startswith("# Shows "):
                    print(f"FAIL {config.name}: does not begin with a line that says what it shows")
                    failures += 1
                wrong = edge_profile(yaml.safe_load(text)) if config.stem == "ingress" else []
                for w in wrong:
                    print(f"FAIL {config.name}: {w}")
                failures += len(wrong)
                results = {}
                for name, path in found.items():
                    if path:
                        results[name] = run(argparse.Namespace(name=name, path=path), config, env)
                        failures += results[name] is None
                for name, answers in results.items():
                    for case, (answer, pattern) in (answers or {}).items():
                        checks += 1
                        if not re.search(pattern, answer):
                            failures += 1
                            print(f"FAIL {config.name} in {name}, {case}: expected {pattern!r}, got\n{answer}")
                if all(results.get(n) is not None for n in ("envoy", "waypost")):
                    for case in results["envoy"]:
                        checks += 1
                        e, w = results["envoy"][case][0], results["waypost"][case][0]
                        if e != w:
                            failures += 1
                            print(f"FAIL {config.name}, {case}: they differ")
                            print("\n".join(difflib.unified_diff(e.splitlines(), w.splitlines(), "envoy", "waypost", lineterm="")))
                print(f"{config.name}: {', '.join(n for n in results) or 'no proxy'}, {len(next((r for r in results.values() if r), {}))} cases")
        finally:
            if sink:
                sink.__exit__()
    print(f"{checks} checks, {failures} failures")
    sys.exit(1 if failures else 0)


main()
