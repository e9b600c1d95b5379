"""HTTP/1 response reader: what a client saw on the wire, with header names in their original case."""


class Incomplete(Exception):
    pass


class Malformed(Exception):
    pass


def _line(buf, pos):
    end = buf.find(b"\r\n", pos)
    if end < 0:
        raise Incomplete
    return bytes(buf[pos:end]).decode("latin-1"), end + 2


def _headers(buf, pos):
    out = []
    while True:
        line, pos = _line(buf, pos)
        if line == "":
            return out, pos
        name, sep, value = line.partition(":")
        if not sep:
            raise Malformed(line)
        out.append([name, value.strip(" \t")])


def _get(headers, name):
    return [v for n, v in headers if n.lower() == name]


def parse_response(buf, pos, method, eof):
    """One response at buf[pos:] -> (record, new position). Raises Incomplete while bytes are missing."""
    try:
        status_line, p = _line(buf, pos)
        version, _, rest = status_line.partition(" ")
        code, _, reason = rest.partition(" ")
        if not version.startswith("HTTP/1.") or not code.isdigit():
            raise Malformed(status_line)
        headers, p = _headers(buf, p)
    except Incomplete:
        if eof and len(buf) > pos:
            raise Malformed("cut inside the head") from None
        raise
    rec = {"version": version, "status": int(code), "reason": reason, "headers": headers, "complete": True, "trailers": []}
    code = int(code)
    if 100 <= code < 200:
        rec.update(framing="none", body=b"")
        if code == 101:
            rec.update(framing="upgrade", body=bytes(buf[p:]))
            p = len(buf)
        return rec, p
    if method == "HEAD" or code in (204, 304):
        rec.update(framing="none", body=b"")
        return rec, p
    if method == "CONNECT" and code == 200:
        rec.update(framing="tunnel", body=bytes(buf[p:]))
        return rec, len(buf)
    te = [v.lower() for v in _get(headers, "transfer-encoding")]
    cl = _get(headers, "content-length")
    if te:
        rec["framing"] = "chunked"
        return _chunked(buf, p, rec, eof)
    if cl:
        rec["framing"] = "cl"
        need = int(cl[0])
        have = len(buf) - p
        if have < need:
            if not eof:
                raise Incomplete
            rec["complete"] = False
        rec["body"] = bytes(buf[p:p + need])
        return rec, min(p + need, len(buf))
    rec["framing"] = "eof"
    if not eof:
        raise Incomplete
    rec["body"] = bytes(buf[p:])
    return rec, len(buf)


def _chunked(buf, p, rec, eof):
    body = bytearray()
    try:
        while True:
            line, p = _line(buf, p)
            size = int(line.split(";")[0].strip() or "x", 16)
            if size == 0:
                rec["trailers"], p = _headers(buf, p)
                rec["body"] = bytes(body)
                return rec, p
            if len(buf) < p + size + 2:
                body += buf[p:p + size]
                raise Incomplete
            body += buf[p:p + size]
            p += size + 2
    except Incomplete:
        if not eof:
            raise
        rec["complete"] = False
        rec["body"] = bytes(body)
        return rec, len(buf)
    except ValueError:
        raise Malformed("chunk size") from None


def read_all(buf, methods, eof):
    """All complete responses in buf -> (interim responses, final responses, unread rest)."""
    interim, final, pos = [], [], 0
    while pos < len(buf):
        method = methods[min(len(final), len(methods) - 1)] if methods else "GET"
        try:
            rec, pos = parse_response(buf, pos, method, eof)
        except Incomplete:
            break
        except Malformed as exc:
            return interim, final, b"!malformed " + str(exc).encode() + b" " + bytes(buf[pos:pos + 200])
        (interim if 100 <= rec["status"] < 200 and rec["status"] != 101 else final).append(rec)
    return interim, final, bytes(buf[pos:])


def wants_close(rec):
    """True when the response says that its connection ends."""
    conn = ",".join(_get(rec["headers"], "connection")).lower()
    return "close" in conn or rec["framing"] == "eof" or (rec["version"] == "HTTP/1.0" and "keep-alive" not in conn)
