"""Makes two observation records comparable: applied to both sides alike, never to one only.

What varies by nature (clock, random ids, ephemeral ports, own address, durations) becomes a symbol;
equal random ids within a step become the same symbol, so that "forwarded unchanged" stays visible.
"""
import hashlib
import re
import zlib
from pathlib import Path

UUID = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b")
DATE = re.compile(r"\b(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\b")
LOOPBACK = re.compile(r"\b127\.0\.0\.1:(\d+)\b")
HEX_HASH = re.compile(r"\b[0-9a-f]{64}\b")
MASKED_HEADERS = {"x-envoy-upstream-service-time": "<ms>"}
DURATIONS = {"duration", "request_duration", "response_duration", "tx_duration"}
# Compared within a tolerance by compare.py: they move with ids, dates and framing choices that are not semantic.
TOLERANT = {"request_header_bytes", "response_header_bytes", "down_wire_rx", "down_wire_tx", "up_wire_rx", "up_wire_tx"}
HOST_LOCAL = re.compile(r"\|-- (\S+)\s+/32 host LOCAL")


def local_addresses():
    """This machine's own IPv4 addresses other than loopback (Envoy renders loopback peers as one of them)."""
    try:
        found = set(HOST_LOCAL.findall(Path("/proc/net/fib_trie").read_text()))
    except OSError:
        return set()
    return {ip for ip in found if not ip.startswith("127.")}


class Normaliser:
    """State of one step on one side: the ids seen so far, in a fixed order of traversal."""

    def __init__(self, ports, local_ips=(), tmp=None, rules=()):
        self.ports = {str(number): name for name, number in ports.items()}
        self.local = re.compile(r"\b(?:" + "|".join(map(re.escape, sorted(local_ips))) + r")\b") if local_ips else None
        self.tmp = tmp
        self.rules = [(re.compile(r["re"]), r["sub"]) for r in rules]
        self.ids, self.hashes = {}, {}

    def text(self, value):
        value = DATE.sub("<date>", value)
        value = UUID.sub(self._uuid, value)
        value = HEX_HASH.sub(lambda m: f"<hash#{self.hashes.setdefault(m[0], len(self.hashes))}>", value)
        value = LOOPBACK.sub(lambda m: f"127.0.0.1:<{self.ports.get(m[1], 'ephemeral')}>", value)
        if self.local:
            value = self.local.sub("<local-ip>", value)
        if self.tmp:
            value = value.replace(self.tmp, "<tmp>")
        value = re.sub(r"\b(\d{5})\b", lambda m: f"<{self.ports[m[1]]}>" if m[1] in self.ports else m[1], value)
        for pattern, sub in self.rules:
            value = pattern.sub(sub, value)
        return value

    def _uuid(self, match):
        """A UUID's symbol: its number of first appearance and its trace-reason character."""
        number = self.ids.setdefault(match[0], len(self.ids))
        return f"<uuid#{number}:{match[0][14]}>"

    def headers(self, pairs):
        """[[name, value]] -> {name: [values]}: order matters per name, not between names."""
        out = {}
        for name, value in pairs or []:
            value = MASKED_HEADERS.get(name.lower()) or self.text(value)
            if name.lower() == "x-envoy-expected-rq-timeout-ms" and len(value) == 5 and "14000" <= value < "15000":
                value = "<rest of 15000>"  # the remaining budget of a retry
            out.setdefault(self.text(name), []).append(value)
        return dict(sorted(out.items()))

    def coded(self, rec):
        """A compressed body by what it says: no two libraries make the same bytes of it."""
        coding = [v for n, v in rec["headers"] or [] if n.lower() == "content-encoding"]
        if coding != ["gzip"] or not rec["body"]:
            return self.body(rec["body"])
        inflate = zlib.decompressobj(31)
        try:
            plain = inflate.decompress(bytes(rec["body"]))
        except zlib.error as exc:
            return f"<not gzip: {exc}>"
        whole = inflate.eof and not inflate.unused_data
        return f"<gzip{'' if whole else ', cut short or followed by more'}> {self.body(plain)}"

    def body(self, data):
        if isinstance(data, bytes):
            if len(data) > 4096:
                return f"<{len(data)} bytes sha256:{hashlib.sha256(data).hexdigest()[:16]}>"
            data = data.decode("latin-1")
        return self.text(data)

    def response(self, rec):
        out = {"head": f"{rec['version']} {rec['status']} {rec['reason']}", "status": rec["status"], "headers": self.headers(rec["headers"]),
               "framing": rec["framing"], "body": self.coded(rec), "complete": rec["complete"]}
        if rec["trailers"]:
            out["trailers"] = self.headers(rec["trailers"])
        return out

    def stream(self, rec):
        out = {"headers": self.headers(rec["headers"]) if rec["headers"] is not None else None, "body": self.coded(rec), "end": rec["end"]}
        if rec["interim"]:
            out["interim"] = [self.headers(h) for h in rec["interim"]]
        if rec["trailers"] is not None:
            out["trailers"] = self.headers(rec["trailers"])
        return out

    def connection(self, rec):
        out = {"conn": rec["conn"]}
        if rec.get("error"):
            out["error"] = rec["error"]
        if rec.get("interim"):
            out["interim"] = [self.response(r) for r in rec["interim"]]
        if "responses" in rec:
            out["responses"] = [self.response(r) for r in rec["responses"]]
        if rec.get("rest"):
            out["rest"] = self.body(rec["rest"])
        if "streams" in rec:
            out["streams"] = {k: self.stream(v) for k, v in rec["streams"].items()}
            out["goaway"] = rec["goaway"]
        if "data" in rec:
            out["data"] = self.body(rec["data"])
        if "h2" in rec:
            out["h2"] = rec["h2"]
        return out

    def upstream(self, rec, conn_index):
        if "tcp" in rec:
            return {"backend": rec["backend"], "tcp": self.text(rec["tcp"]), "end": rec.get("end", "-")}
        out = {"backend": rec["backend"], "conn": conn_index, "request": self.text(rec["request"]), "headers": self.headers(rec["headers"]),
               "framing": rec["framing"], "body": self.text(rec["body"]), "complete": rec["complete"]}
        if rec["trailers"]:
            out["trailers"] = self.headers(rec["trailers"])
        if rec.get("end"):
            out["end"] = rec["end"]
        return out

    def log(self, line):
        out = {"fields": len(line)}  # nulls are left out below; this still tells a null from a field that is missing
        if line.get("protocol") is None and line.get("upstream_host") is None:
            # A listener's own line counts the bytes of heads, and with them the digits of a service time.
            line = {k: "<some>" if k in ("rx", "tx") and v else v for k, v in line.items()}
        for key, value in line.items():
            if key == "client" or value is None:
                continue
            if key in DURATIONS:
                out[key] = "<duration>"
            elif isinstance(value, str):
                out[key] = self.text(value)
            else:
                out[key] = f"<{self.ports[str(value)]}>" if str(value) in self.ports else value
        return out

    def record(self, conns, upstream, logs, stats):
        """The comparable record of a step. Traversal order is fixed: client, upstream, log."""
        out = {"conns": [self.connection(r) for r in conns]}
        seen = {}
        out["upstream"] = [self.upstream(r, seen.setdefault((r["backend"], r["conn"]), len(seen))) for r in upstream]
        out["logs"] = [self.log(line) for line in logs]
        if stats:
            out["stats"] = {self.text(k): v for k, v in stats.items()}
        return out
