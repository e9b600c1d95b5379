"""A proxy that asks the scripted control plane, backends that say their name, and a client."""
import contextlib
import http.client
import http.server
import json
import pathlib
import socket
import ssl
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import rig  # noqa: E402
from control import Plane  # noqa: E402
from resources import ADMIN, ADS, bootstrap  # noqa: E402


class Backend(http.server.ThreadingHTTPServer):
    """Answers with its name; /hold waits until `release` is set."""
    daemon_threads, request_queue_size = True, 128

    def __init__(self, name, port):
        self.name, self.release, self.held = name, threading.Event(), threading.Event()
        super().__init__(("127.0.0.1", port), Answer)
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/hold":
            self.server.held.set()
            self.server.release.wait(10)
        body = self.server.name.encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Proxy(rig.Proxy):
    """Ready as soon as the admin port answers: whether it is LIVE is what the cases ask."""

    def ready(self):
        rig.until(f"{self.command[0]} answers", 20, lambda: self.alive() and self.get("/ready")[0])

    def live(self):
        return self.get("/ready")[0] == 200

    def until_live(self, seconds=10):
        rig.until("LIVE", seconds, self.live)

    def stat(self, name):
        """A counter or gauge; None where there is none."""
        _, text = self.get(f"/stats?filter=^{name.replace('.', '[.]').replace('|', '[|]')}$")
        for line in text.splitlines():
            if line.startswith(name + ": "):
                return int(line.rsplit(": ", 1)[1])
        return None

    def until_stat(self, name, value, seconds=5):
        last = [None]

        def probe():
            last[0] = self.stat(name)
            return value(last[0]) if callable(value) else last[0] == value
        try:
            rig.until(name, seconds, probe)
        except SystemExit:
            raise AssertionError(f"{name} is {last[0]}, not {'as expected' if callable(value) else value}") from None
        return last[0]

    def dump(self, kind):
        _, text = self.get("/config_dump?include_eds")
        return [c for c in json.loads(text)["configs"] if c["@type"].endswith(kind)]


def ask(port, path="/", host="test", tls=None, timeout=5, headers=None):
    """(status, body, headers) of one request on a connection of its own, or (0, why, {}) where there is none."""
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        if tls:
            raw = socket.create_connection(("127.0.0.1", port), timeout)
            c.sock = tls.wrap_socket(raw, server_hostname=host)
        c.request("GET", path, headers={"host": host, **(headers or {})})
        r = c.getresponse()
        return r.status, r.read().decode(errors="replace"), dict(r.getheaders())
    except (OSError, http.client.HTTPException) as e:
        return 0, type(e).__name__, {}
    finally:
        c.close()


def body(port, *a, **kw):
    """The body of a good answer, else its status."""
    status, text, _ = ask(port, *a, **kw)
    return text if status == 200 else status


class Held:
    """A connection that is kept and asks again and again."""

    def __init__(self, port):
        self.c = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        self.c.connect()
        self.name = self.c.sock.getsockname()

    def ask(self, path="/"):
        """The body of a good answer, else its status; `closed` where the connection is no more the same."""
        try:
            self.c.request("GET", path)
            r = self.c.getresponse()
            text = r.read().decode()
        except (OSError, http.client.HTTPException):
            return "closed"
        if self.c.sock is None or self.c.sock.getsockname() != self.name:
            return "last" if r.status == 200 else r.status
        return text if r.status == 200 else r.status

    def close(self):
        self.c.close()


def peer_certificate(port):
    """The certificate that the listener shows, as PEM; None where there is no handshake."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection(("127.0.0.1", port), 3) as raw, context.wrap_socket(raw) as s:
            return ssl.DER_cert_to_PEM_cert(s.getpeercert(True))
    except OSError:
        return None


class Bed:
    """What a case has: `plane`, `sds` (to be started), `proxy` (after `start`), `backends` by name, `certs` of configs/make-certs.sh."""

    def __init__(self, binary, wire, work, dialect, backends, certs=None):
        self.binary, self.wire, self.work, self.dialect, self.backends, self.certs = binary, wire, work, dialect, backends, certs
        self.stack, self.proxy, self.notes = contextlib.ExitStack(), None, []
        self.plane = self.stack.enter_context(Plane(f"127.0.0.1:{ADS}", wire))
        self.sds = Plane(f"unix:{work / 'sds.sock'}", wire)

    def start(self, concurrency=1, extra=(), **how):
        extra = ("--file-flush-interval-msec", 20, *extra)
        file = self.work / "bootstrap.json"
        file.write_text(json.dumps(bootstrap(self.dialect, **how)))
        self.proxy = self.stack.enter_context(Proxy(self.binary, file, self.work, self.work / "proxy.log", concurrency=concurrency, admin=ADMIN, extra=extra))
        return self.proxy

    def note(self, text):
        """Something to be told though both ways would be right."""
        self.notes.append(text)

    def close(self):
        self.stack.close()
        self.sds.stop()
