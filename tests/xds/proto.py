"""The four messages of xDS in wire form, by hand: they are small and stable, and resources pass through as bytes. `Wire` turns resources from
JSON into an Any and back by `waypost wire`, so no generated code is needed."""
import base64
import collections
import json
import subprocess
import threading

PREFIX = "type.googleapis.com/"
TYPES = {
    "cds": "envoy.config.cluster.v3.Cluster",
    "eds": "envoy.config.endpoint.v3.ClusterLoadAssignment",
    "lds": "envoy.config.listener.v3.Listener",
    "rds": "envoy.config.route.v3.RouteConfiguration",
    "sds": "envoy.extensions.transport_sockets.tls.v3.Secret",
    "ecds": "envoy.config.core.v3.TypedExtensionConfig",
    "wds": "istio.workload.Workload",
    "vhds": "envoy.config.route.v3.VirtualHost",
    "scoped": "envoy.config.route.v3.ScopedRouteConfiguration",
    "runtime": "envoy.service.runtime.v3.Runtime",
}
SHORT = {PREFIX + v: k for k, v in TYPES.items()}


def url(kind):
    return PREFIX + TYPES.get(kind, kind)


# Fields.

def varint(n):
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def field(number, value):
    """A string, bytes, message (bytes) or integer field; none where it is empty."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value) if value else b""
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value if value else b""


def repeated(number, values):
    return b"".join(varint(number << 3 | 2) + varint(len(v)) + v for v in (v.encode() if isinstance(v, str) else v for v in values))


def fields(data):
    """{number: [values]}: bytes of length-delimited fields, integers of others."""
    out, at = collections.defaultdict(list), 0

    def number():
        nonlocal at
        shift = n = 0
        while True:
            b = data[at]
            at += 1
            n |= (b & 0x7F) << shift
            shift += 7
            if b < 0x80:
                return n
    while at < len(data):
        key = number()
        kind = key & 7
        if kind == 0:
            value = number()
        else:
            size = {1: 8, 5: 4}[kind] if kind != 2 else number()
            value, at = data[at:at + size], at + size
        out[key >> 3].append(value)
    return out


def text(found, number):
    return found[number][-1].decode(errors="replace") if found[number] else ""


def texts(found, number):
    return [v.decode(errors="replace") for v in found[number]]


# Messages.

class Any(collections.namedtuple("Any", "type value")):
    """A message under its type URL."""

    @classmethod
    def parse(cls, data):
        f = fields(data)
        return cls(text(f, 1), f[2][-1] if f[2] else b"")

    def encode(self):
        return field(1, self.type) + field(2, self.value)


Resource = collections.namedtuple("Resource", "name version any aliases", defaults=((),))  # any: the encoded Any; empty where there is none
Node = collections.namedtuple("Node", "id cluster user_agent raw")


class Request:
    """What a client sent, in either dialect: names are `subscribe` in both; in state of the world they are all that it wants."""

    def __init__(self, dialect, data):
        f = fields(data)
        self.dialect, self.raw = dialect, data
        if dialect == "delta":
            node, kind, self.subscribe, self.unsubscribe, nonce, error = f[1], text(f, 2), texts(f, 3), texts(f, 4), text(f, 6), f[7]
            pairs = [fields(e) for e in f[5]]
            self.initial, self.version = {text(p, 1): text(p, 2) for p in pairs}, ""
        else:
            self.version, node, self.subscribe, kind, nonce, error = text(f, 1), f[2], texts(f, 3), text(f, 4), text(f, 5), f[6]
            self.unsubscribe, self.initial = [], {}
        self.type_url, self.type, self.nonce = kind, SHORT.get(kind, kind), nonce
        status = fields(error[-1]) if error else None
        self.error = None if status is None else (status[1][-1] if status[1] else 0, text(status, 2))
        n = fields(node[-1]) if node else None
        self.node = None if n is None else Node(text(n, 1), text(n, 2), text(n, 6), node[-1])

    def __repr__(self):
        what = "NACK" if self.error else "ACK" if self.nonce else "ask"
        parts = [f"{what} {self.type}"]
        parts += [f"+{','.join(self.subscribe)}"] if self.subscribe else []
        parts += [f"-{','.join(self.unsubscribe)}"] if self.unsubscribe else []
        parts += [f"versions {self.initial}"] if self.initial else []
        parts += [f"version {self.version}"] if self.version else []
        parts += [f"nonce {self.nonce}"] if self.nonce else []
        parts += [f"error {self.error}"] if self.error else []
        return " ".join(parts)


def response(dialect, type_url, nonce, version, resources, removed=()):
    """DeltaDiscoveryResponse or DiscoveryResponse."""
    if dialect == "delta":
        made = [field(1, r.version) + field(2, r.any) + field(3, r.name) + repeated(4, r.aliases) for r in resources]
        return field(1, version) + repeated(2, made) + field(4, type_url) + field(5, nonce) + repeated(6, removed)
    return field(1, version) + repeated(2, [r.any for r in resources]) + field(4, type_url) + field(5, nonce)


def parse_response(dialect, data):
    """(type_url, [Resource], removed names); names are unknown in state of the world."""
    f = fields(data)
    if dialect == "delta":
        made = [fields(r) for r in f[2]]
        return text(f, 4), [Resource(text(r, 3), text(r, 1), r[2][-1] if r[2] else b"") for r in made], texts(f, 6)
    return text(f, 4), [Resource("", text(f, 1), r) for r in f[2]], []


class Refused(Exception):
    """`waypost wire` does not take a line."""


class Wire:
    """`waypost wire` as a process: JSON with @type into an encoded Any and back."""

    def __init__(self, binary):
        self.child = subprocess.Popen([binary, "wire"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.lock = threading.Lock()

    def ask(self, lines):
        with self.lock:
            def write():
                for at in range(0, len(lines), 64):
                    self.child.stdin.write(b"".join(x + b"\n" for x in lines[at:at + 64]))
                self.child.stdin.flush()
            # Asked and heard at the same time: both pipes are small.
            writer = threading.Thread(target=write, daemon=True)
            writer.start()
            out = [self.child.stdout.readline().rstrip(b"\n") for _ in lines]
            writer.join()
        for line, a in zip(lines, out):
            if a.startswith(b"!") or not a:
                raise Refused(f"{a.decode()} for {line[:300]!r}")
        return out

    def encode(self, values):
        """Values with @type as encoded Anys."""
        return [base64.b64decode(a) for a in self.ask([json.dumps(v).encode() for v in values])]

    def decode(self, anys):
        return [json.loads(a) for a in self.ask([base64.b64encode(a) for a in anys])]

    def close(self):
        self.child.stdin.close()
        self.child.wait(5)
