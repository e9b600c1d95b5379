"""Differences between two normalised records, the expectations of a case, and the allow-list."""
import datetime
import fnmatch

from .normalise import TOLERANT

CLASSES = {"stricter-security", "cosmetic", "envoy-bug", "unimplemented", "platform"}
REQUIRED = ("id", "where", "envoy", "ours", "class", "justification", "owner", "until")


def close_enough(a, b):
    """Byte counts that include ids and framing: within 64 bytes or a fifth."""
    if not isinstance(a, (int, float)) or not isinstance(b, (int, float)):
        return a == b
    return abs(a - b) <= max(64, abs(a) * 0.2)


def diff(a, b, path=""):
    """[(path, a, b)] of every leaf that differs; a missing key or element reads as '<absent>'."""
    if isinstance(a, dict) and isinstance(b, dict):
        out = []
        for key in sorted(a.keys() | b.keys()):
            here = f"{path}.{key}" if path else str(key)
            if key in TOLERANT and close_enough(a.get(key), b.get(key)):
                continue
            out += diff(a.get(key, "<absent>"), b.get(key, "<absent>"), here)
        return out
    if isinstance(a, list) and isinstance(b, list) and path.split(".")[-2:-1] != ["headers"]:
        out = []
        for i in range(max(len(a), len(b))):
            out += diff(a[i] if i < len(a) else "<absent>", b[i] if i < len(b) else "<absent>", f"{path}[{i}]")
        return out
    return [] if a == b else [(path, a, b)]


def apply_options(record, options):
    """A step's `compare: {conn, upstream, logs, conns, reuse, ignore}` takes unstable parts out, on both sides."""
    options = options or {}
    if options.get("upstream") == "ignore":
        record.pop("upstream", None)
    if options.get("logs") == "ignore":
        record.pop("logs", None)
    for rec in record.get("upstream", []):
        if not options.get("reuse"):
            rec.pop("conn", None)
    for conn in record.get("conns", []):
        if options.get("conn") == "ignore":
            conn.pop("conn", None)
        elif (options.get("conn") == "closed" or "streams" in conn) and conn["conn"] in ("fin", "rst"):
            # On HTTP/2 our automatic ACKs cross the close, so that FIN or RST is a matter of microseconds.
            conn["conn"] = "closed"
    for field in options.get("ignore_log", []):
        for line in record.get("logs", []):
            line.pop(field, None)
    for field in options.get("ignore_conn", []):
        for conn in record.get("conns", []):
            conn.pop(field, None)
    for field in options.get("ignore_upstream", []):
        for rec in record.get("upstream", []):
            rec.pop(field, None)
    return record


def first_response(record):
    conn = record["conns"][0] if record.get("conns") else {}
    if conn.get("responses"):
        resp = conn["responses"][0]
        return str(resp["status"]), resp["headers"], resp["body"], resp
    for sid in sorted(conn.get("streams", {}), key=int):
        stream = conn["streams"][sid]
        if stream["headers"]:
            return stream["headers"].get(":status", [None])[0], stream["headers"], stream["body"], stream
    return None, {}, None, {}


def unmet(want, record):
    """What a case says about Envoy (`want`) and Envoy's record does not show: such a case proves something else."""
    status, headers, body, _ = first_response(record)
    conn = record["conns"][0] if record.get("conns") else {}
    logs = record.get("logs", [])
    up = record.get("upstream", [])
    out = []

    def check(what, wanted, got):
        if str(wanted) != str(got):
            out.append(f"{what}: wanted {wanted!r}, Envoy shows {got!r}")

    def pick(mapping, name):
        values = next((v for k, v in mapping.items() if k.lower() == name.lower()), None)
        return None if values is None else ",".join(values) if isinstance(values, list) else values

    for key, wanted in (want or {}).items():
        if key == "status":
            check(key, wanted, status)
        elif key == "statuses":
            got = [str(r["status"]) for c in record["conns"] for r in c.get("responses", [])]
            check(key, [str(w) for w in wanted], got)
        elif key == "body":
            check(key, wanted, body)
        elif key == "body_has":
            if wanted not in (body or ""):
                out.append(f"body lacks {wanted!r}: {body!r}")
        elif key == "headers":
            for name, value in wanted.items():
                check(f"header {name}", value, pick(headers, name))
        elif key == "conn":
            got = conn.get("conn")
            if not (wanted == "closed" and got in ("fin", "rst")):
                check(key, wanted, got)
        elif key in ("flags", "details", "attempts", "code"):
            check(key, wanted, logs[0].get(key) if logs else "no log line")
        elif key == "log":
            for name, value in wanted.items():
                check(f"log {name}", value, logs[0].get(name) if logs else "no log line")
        elif key == "logs":
            check(key, wanted, len(logs))
        elif key == "up":
            check(key, wanted, len(up))
        elif key == "up_request":
            check(key, wanted, up[0].get("request") if up else None)
        elif key == "up_body":
            check(key, wanted, up[0].get("body") if up else None)
        elif key == "up_headers":
            for name, value in wanted.items():
                check(f"upstream header {name}", value, pick(up[0]["headers"], name) if up else "no upstream request")
        elif key == "up_all":
            for name, values in wanted.items():
                check(f"upstream header {name} of all", values, [pick(u["headers"], name) for u in up])
        elif key == "end":
            check(key, wanted, {k: v["end"] for k, v in conn.get("streams", {}).items()}.get("1", "no stream"))
        elif key == "goaway":
            check(key, wanted, [g[1] for g in conn.get("goaway", [])])
        elif key == "stats":
            for name, value in wanted.items():
                check(f"stat {name}", value, record.get("stats", {}).get(name))
        elif key == "data":
            check(key, wanted, conn.get("data"))
        elif key == "error":
            check(key, wanted, conn.get("error"))
        else:
            out.append(f"unknown expectation {key!r}")
    return out


class AllowList:
    """Explicit, dated, justified, expiring differences; an entry that excuses nothing any more is a failure itself."""

    def __init__(self, entries, today=None):
        self.entries = entries or []
        self.used = set()
        self.errors = []
        today = today or datetime.date.today()
        seen = set()
        for entry in self.entries:
            ident = entry.get("id", "?")
            missing = [k for k in REQUIRED if k not in entry]
            if missing:
                self.errors.append(f"allow {ident}: lacks {', '.join(missing)}")
                continue
            if ident in seen:
                self.errors.append(f"allow {ident}: the id is taken")
            seen.add(ident)
            if entry["class"] not in CLASSES:
                self.errors.append(f"allow {ident}: class {entry['class']!r} is none of {', '.join(sorted(CLASSES))}")
            until = entry["until"]
            if until != "never":
                if not isinstance(until, datetime.date):
                    self.errors.append(f"allow {ident}: until is a date or 'never'")
                elif until < today:
                    self.errors.append(f"allow {ident}: expired on {until}")

    def match(self, case, path, envoy, ours):
        """The entry that excuses this difference, if any."""
        selector = f"{case}:{path}"
        for entry in self.entries:
            if not all(k in entry for k in REQUIRED):
                continue
            if fnmatch.fnmatchcase(selector, str(entry["where"]).replace("[", "[[]")) and self._value(entry["envoy"], envoy) and self._value(entry["ours"], ours):
                self.used.add(entry["id"])
                return entry
        return None

    @staticmethod
    def _value(wanted, got):
        if wanted == "*":
            return True
        if isinstance(got, list) and len(got) == 1 and not isinstance(wanted, list):
            got = got[0]
        return wanted == got or str(wanted) == str(got)

    def unused(self, cases_run):
        """Entries whose cases ran and which no difference needed."""
        out = []
        for entry in self.entries:
            where = str(entry.get("where", ""))
            case_glob = where.split(":")[0]
            if entry.get("id") not in self.used and any(fnmatch.fnmatchcase(c, case_glob) for c in cases_run):
                out.append(entry)
        return out
