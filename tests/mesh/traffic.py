"""The traffic of the mesh tests: what captured clients send through HBONE, what clients of a gateway send, destinations, and load."""
import contextlib
import json
import pathlib
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "recorded"))
import rig
import mesh as wire
from mesh import Connection, Gone, Reader, Tls, read_all

VIA = ("127.0.0.1", 15008)


def peers(tool, work):
    """Certificates of a client and of the pods under the mesh's root, in the names that the helpers know: client, server, ca."""
    folder = work / "peers"
    folder.mkdir(parents=True)
    for name in ("client", "server"):
        subprocess.run(["bash", tool.script, "certs", work / "certs", "default", name], check=True, env=tool.env)
        made = work / "certs" / f"default-{name}"
        shutil.copy(made / "cert-chain.pem", folder / f"{name}.pem")
        shutil.copy(made / "key.pem", folder / f"{name}.key")
    shutil.copy(work / "certs/root-cert.pem", folder / "ca.pem")
    return folder


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = int(status), dict(headers), body

    def __repr__(self):
        return f"{self.status} {self.body[:200]!r}"


def exchange(pipe, host, path, method="GET", headers=(), reader=None):
    """One HTTP/1.1 request and its answer on a stream of bytes."""
    lines = [f"{method} {path} HTTP/1.1", f"host: {host}", *(f"{n}: {v}" for n, v in headers)]
    pipe.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
    reader = reader or Reader(pipe)
    line, got = reader.head()
    status = line.split(" ")[1]
    return Answer(status, got, reader.body(got, False, bodiless=method == "HEAD" or status in ("204", "304")))


class Client:
    """A captured client (its ztunnel, to be exact)."""

    def __init__(self, certs, via=VIA, name="client"):
        self.via = via
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.load_cert_chain(certs / f"{name}.pem", certs / f"{name}.key")
        self.context.load_verify_locations(certs / "ca.pem")
        self.context.check_hostname = False
        self.context.set_alpn_protocols(["h2"])

    def hbone(self):
        sock = socket.create_connection(self.via, 10)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Connection(Tls(sock, self.context, False)).start()

    def tunnel(self, authority, connection=None):
        """The stream of an accepted CONNECT, or the status of a refused one."""
        stream = (connection or self.hbone()).open([(":method", "CONNECT"), (":authority", authority)])
        status = dict(stream.head())[":status"]
        return stream if status == "200" else int(status)

    def get(self, authority, path="/hello", host="shop.example", **more):
        """The answer inside a tunnel; the CONNECT's where that was refused, and 0 where the tunnel ended without one."""
        try:
            stream = self.tunnel(authority)
            if isinstance(stream, int):
                return Answer(stream, {}, b"")
            answer = exchange(stream, host, path, **more)
            stream.close()
            return answer
        except Gone as e:
            return Answer(0, {}, str(e).encode())

    def grpc(self, authority, path="/svc/Unary", headers=()):
        try:
            stream = self.tunnel(authority)
            if isinstance(stream, int):
                return Answer(stream, {}, b"")
            request = Connection(stream).start().open([(":method", "POST"), (":scheme", "http"), (":authority", "ratings"), (":path", path),
                                                       ("content-type", "application/grpc"), ("te", "trailers"), *headers])
            with contextlib.suppress(Gone):  # it may be answered before its message is there
                request.sendall(b"\0" + struct.pack(">I", 2) + b"hi")
                request.close_write()
            head, body = dict(request.head()), b""
            with contextlib.suppress(Gone):
                body = read_all(request)
            return Answer(head[":status"], {**head, **dict(request.trailers or [])}, body)
        except Gone as e:
            return Answer(0, {}, str(e).encode())

    def echo(self, authority, data=b"\x01 no http"):
        """What comes back for these bytes, to the end (Envoy ends a tunnel by a reset, Waypost as a TCP connection ends)."""
        out = b""
        with contextlib.suppress(Gone):
            stream = self.tunnel(authority)
            if isinstance(stream, int):
                return out
            stream.sendall(data)
            while len(out) < len(data) + 5 and (piece := stream.recv()):
                out += piece
            stream.close_write()
            while piece := stream.recv():
                out += piece
        return out


def visit(port, name=None, path="/hello", roots=None, cert=None, address="127.0.0.1", host=None, **more):
    """What a client outside the mesh gets from a gateway, over TLS to `name` (trusting `roots`, or anything when False) or, without `roots`, in the clear."""
    try:
        with socket.create_connection((address, port), 5) as sock:
            sock.settimeout(10)
            if roots is None:
                return exchange(wire.Socket(sock), host or name, path, **more)
            with outside(roots, cert).wrap_socket(sock, server_hostname=name) as tls:
                return exchange(wire.Socket(tls), host or name, path, **more)
    except (OSError, Gone) as e:
        return Answer(0, {}, str(e).encode())


def echo_outside(port, data=b"\x01 no http"):
    """What a TCP client of a gateway gets back."""
    with socket.create_connection(("127.0.0.1", port), 5) as sock:
        sock.sendall(data)
        return Reader(wire.Socket(sock)).exactly(len(data) + 5)


def outside(roots, cert=None):
    context = ssl.create_default_context(cafile=roots) if roots else ssl._create_unverified_context()
    if cert:
        context.load_cert_chain(*cert)
    return context


class Destinations(wire.Destinations):
    """Those of the recorded tests, and a few of their own."""

    def tls_plain(self, cert, key):
        """A server that ends TLS itself, behind a passthrough."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)

        def handle(sock, address):
            with contextlib.suppress(Gone, OSError):
                self.inner(Tls(sock, context, True), f"{address} over TLS")
        return handle

    def double(self, sock, address):
        """The east-west gateway of another network and a pod behind it: HBONE in HBONE."""
        with contextlib.suppress(Gone):
            def outer(stream):
                fields = stream.head()
                stream.send_head([(":status", "200")])
                way = f"{address} through {dict(fields)[':authority']}"

                def inner(second):
                    fields = second.head()
                    second.send_head([(":status", "200")])
                    self.inner(second, f"{way} through {dict(fields)[':authority']}")
                Connection(TlsOver(stream, self.tls), inner).read(b"")
            Connection(Tls(sock, self.tls, True), outer).read(b"")

    def reached(self):
        """The addresses (and tunnels) that something arrived at since the last call."""
        return [address for _, address, *_ in self.taken()]


class TlsOver(Tls):
    """TLS over a stream that is no socket, server side."""

    def __init__(self, stream, context):
        stream.settimeout = lambda _: None
        super().__init__(stream, context, True)


class Load:
    """`hbone load` in the background: requests back to back on connections x streams tunnels, until it is told to end."""

    def __init__(self, tools, certs, target, connections=4, streams=16):
        self.target = target
        self.child = subprocess.Popen([tools, "hbone", "load", "--via", "127.0.0.1:15008", "--cert", certs / "client.pem", "--key", certs / "client.key",
                                       "--ca", certs / "ca.pem", "--connections", str(connections), "--streams", str(streams), "--duration", "300s",
                                       f"http://{target}/"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def running(self):
        return self.child.poll() is None

    def flawless(self):
        """Ends it; every request must have been answered."""
        self.child.send_signal(signal.SIGINT)
        out, err = self.child.communicate(timeout=60)
        found = [json.loads(l) for l in out.splitlines() if l.startswith("{")]
        assert found, f"the load on {self.target} gave no result: {err.strip()}"
        assert found[-1]["errors"] == 0 and found[-1]["requests"] > 100, f"the load on {self.target}: {found[-1]} {err.strip()}"
        return found[-1]

    def stop(self):
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait()


class Steady:
    """Tunnels that are opened once and used all the time: what was not changed must never break them."""

    def __init__(self, client, authorities, http=True):
        self.failures, self.rounds, self.over = [], 0, threading.Event()
        self.threads = [threading.Thread(target=self.use, args=(client, a, http), daemon=True) for a in authorities]
        for t in self.threads:
            t.start()

    def use(self, client, authority, http):
        try:
            stream = client.tunnel(authority)
            assert not isinstance(stream, int), f"CONNECT {authority}: {stream}"
            reader = Reader(stream)
            while not self.over.wait(0.02):
                if http:
                    answer = exchange(stream, "steady", "/", reader=reader)
                    assert answer.status == 200, f"{authority} answered {answer}"
                    assert answer.headers.get("connection") != "close", f"{authority}: asked to close after {self.rounds} rounds"
                else:
                    stream.sendall(b"\x01ping")
                    assert len(reader.exactly(5)) == 5
                self.rounds += 1
            stream.close()
        except (Gone, AssertionError, OSError) as e:
            self.failures.append(f"{authority} after {self.rounds} rounds: {e}")

    def unbroken(self):
        """Ends it, after a few more rounds."""
        enough = self.rounds + 4 * len(self.threads)
        rig.until("a few more rounds", 20, lambda: self.rounds >= enough or self.failures)
        self.over.set()
        for t in self.threads:
            t.join(15)
        assert not self.failures, "a tunnel on an unchanged chain broke: " + "; ".join(self.failures)


class Newcomers:
    """New HBONE connections one after the other, each with a handshake, a tunnel and a request."""

    def __init__(self, client, authority):
        self.failures, self.count, self.over = [], 0, threading.Event()
        self.thread = threading.Thread(target=self.come, args=(client, authority), daemon=True)
        self.thread.start()

    def come(self, client, authority):
        while not self.over.wait(0.01):
            try:
                connection = client.hbone()
                stream = client.tunnel(authority, connection)
                answer = exchange(stream, "newcomer", "/")
                assert answer.status == 200, answer
                connection.pipe.close()
            except (Gone, AssertionError, OSError) as e:
                self.failures.append(f"connection {self.count}: {e!r}")
            self.count += 1

    def all_served(self):
        """Ends it, after a few more."""
        enough = self.count + 4
        rig.until("a few more connections", 20, lambda: self.count >= enough or self.failures)
        self.over.set()
        self.thread.join(15)
        assert not self.failures, f"{len(self.failures)} of {self.count} new connections failed: {self.failures[:3]}"


def idle(process, seconds=15):
    """Waits until a sink has done nothing for a quarter of a second: what was sent to it is over."""
    state = {"us": -1, "at": time.monotonic()}

    def probe():
        now = process.run_us() or sum(process.cpu_us())
        if now != state["us"]:
            state.update(us=now, at=time.monotonic())
        return time.monotonic() - state["at"] > 0.25
    rig.until(f"{process.command[0]} of {process.addresses} idle", seconds, probe)
