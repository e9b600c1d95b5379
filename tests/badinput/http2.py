"""HTTP/2: items 34 to 55 of the bad-input list, as frames with literal HPACK."""
import asyncio
import struct
import time

from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

from bed import Case
from difft import h2frames as f
from http1 import S, ended

CASES = []
# Refused: the stream is reset (what RFC 9113 8.1.1 asks for a malformed message; D7), or the connection ends as Envoy's default has it, or 4xx.
REFUSED = ["1:rst:*", "1:4?? *", "1:4??+*", "1:501 *", "goaway:*", "closed"]
G = [[":method", "GET"], [":scheme", "http"], [":authority", "x.com"], [":path", "/"]]
P = [[":method", "POST"], [":scheme", "http"], [":authority", "x.com"], [":path", "/"]]


def h2(item, name, frames, envoy="?", also=(), to="L", show=(), up=None, logs=None, only=False, grow=48, **step):
    CASES.append(Case(item, name, {"to": to, "h2": frames, "timeout": 1.0, **step}, envoy, also, only, up, logs, show, grow))


def head(fields, end=True, sid=1):
    return {"headers": [list(x) for x in fields], "stream": sid, "end": end}


def scenario(item, name, envoy, also=(), **options):
    def take(play):
        CASES.append(Case(item, name, play, envoy, also, **options))
        return play
    return take


# 34: headers that HTTP/2 forbids.
for name, field in {"connection": ["connection", "close"], "keep_alive": ["keep-alive", "timeout=5"], "proxy_connection": ["proxy-connection", "close"], "te_chunked": ["transfer-encoding", "chunked"],
                    "upgrade": ["upgrade", "websocket"], "te_gzip": ["te", "gzip"], "te_list": ["te", "trailers, gzip"], "upper": ["Foo", "bar"], "empty_name": ["", "x"], "space_name": ["a b", "x"],
                    "colon_name": ["a:b", "x"], "nul_name": ["a\0b", "x"], "8bit_name": ["a\xe9", "x"], "del_name": ["a\x7f", "x"], "tab_name": ["a\tb", "x"], "nul_value": ["a", "b\0c"], "ctl_value": ["a", "b\x01c"],
                    "status": [":status", "200"], "unknown_pseudo": [":foo", "x"], "protocol": [":protocol", "websocket"], "pseudo_only_colon": [":", "x"], "dup_method": [":method", "POST"], "dup_path": [":path", "/smuggled"],
                    "dup_authority": [":authority", "evil"], "dup_scheme": [":scheme", "https"], "host_empty": ["host", ""], "del_value": ["a", "b\x7fc"], "slash_name": ["a/b", "x"], "at_name": ["a@b", "x"]}.items():
    may = ["1:200 open"] if name in ("te_list", "te_gzip", "host_empty", "del_value") else []
    h2(34, f"header_{name}", [head([*G, field])], also=REFUSED + may, up={0, 1} if may else 0)
h2(34, "value_8bit", [head([*G, ["a", "\xe9\xff"]])], also=["1:200 open", *REFUSED])
h2(34, "value_spaces", [head([*G, ["a", "  b\t"]])], also=["1:200 open | a=b", *[f"{r} |" for r in REFUSED]], show=["a"])
h2(34, "te_trailers", [head([*G, ["te", "trailers"]])], "1:200 open")
h2(34, "pseudo_after_regular", [head([*G[:3], ["a", "b"], G[3]])], also=REFUSED, up=0)
for i, name in enumerate(["method", "scheme", "authority", "path"]):
    h2(34, f"no_{name}", [head([x for j, x in enumerate(G) if j != i])], also=REFUSED, up=0)
    h2(34, f"empty_{name}", [head([[n, "" if j == i else v] for j, (n, v) in enumerate(G)])], also=REFUSED + (["1:200 open"] if name == "authority" else []), up={0, 1} if name == "authority" else 0)
h2(34, "no_headers", [head([])], also=REFUSED, up=0)
h2(34, "cookie_nul", [head([*G, ["cookie", "a=\0"]])], also=REFUSED, up=0)
h2(34, "accept_encoding_newline", [head([*G, ["accept-encoding", "gzip\r\n"]])], also=REFUSED, up=0)
h2(34, "upstream_h2", [head([*G[:3], [":path", "/h2/x"], ["connection", "close"]])], also=REFUSED, up=0)

# 22 as frames: an answer before the body is there has to arrive, and the connection goes on.
for name in ("200", "401", "403"):
    h2(22, f"h2_direct{name}_body_unread", [head([*P[:3], [":path", f"/direct{name}"]], False), {"data": S, "stream": 1}, {"wait": {"stream": 1}}, head(G, True, 3)],
       also=[f"1:{name} 3:200 open", f"1:{name}+rst:* 3:200 open"], up={0, 1}, until={"stream": 3})

# 35: trailers.
for name, field in {"path": [":path", "/smuggled"], "status": [":status", "200"], "method": [":method", "GET"], "authority": [":authority", "evil"], "connection": ["connection", "close"], "te": ["transfer-encoding", "chunked"],
                    "upper": ["Foo", "bar"], "crlf": ["a", "b\r\nc: d"], "nul": ["a", "\0"], "name_crlf": ["a\r\nb", "c"]}.items():
    h2(35, f"trailer_{name}", [head(P, False), {"data": "abc", "stream": 1}, head([field])], also=REFUSED, up=0)
for name, field in {"cl": ["content-length", "9"], "host": ["host", "evil"], "authorization": ["authorization", "evil"]}.items():
    h2(35, f"trailer_{name}", [head(P, False), {"data": "abc", "stream": 1}, head([field])], also=["1:200 open |", *[f"{r} |" for r in REFUSED]], show=["authorization"])
h2(35, "trailer_no_end", [head(P, False), {"data": "abc", "stream": 1}, head([["a", "b"]], False)], also=REFUSED, up=0)
h2(35, "trailer_twice", [head(P, False), {"data": "abc", "stream": 1}, head([["a", "b"]], False), head([["a", "b"]])], also=REFUSED, up=0)
h2(35, "trailer_big", [head(P, False), {"data": "abc", "stream": 1}, head([["a", "b" * 100000]])], also=REFUSED + ["1:431 *"], up=0)
h2(35, "trailer_h2_upstream_pseudo", [head([*P[:3], [":path", "/h2/x"]], False), {"data": "abc", "stream": 1}, head([[":path", "/smuggled"]])], also=REFUSED, up=0)

# 36: content-length against what comes.
for name, length, data in [("longer", "5", "abc"), ("shorter", "2", "abc"), ("zero", "0", "abc"), ("minus", "-1", "abc"), ("plus", "+3", "abc"), ("word", "x", "abc"), ("2pow64", "18446744073709551619", "abc"),
                           ("list", "3,3", "abc"), ("empty", "", "abc"), ("space", "3 ", "abc")]:
    for to, path in [("h1", "/"), ("h2", "/h2/x")]:
        h2(36, f"cl_{name}_{to}", [head([*P[:3], [":path", path], ["content-length", length]], False), {"data": data, "stream": 1, "end": True}], also=REFUSED + (["1:200 open"] if name in ("space",) else []),
           up={0, 1} if name in ("space", "zero") else 0)  # of length 0 the request is whole before the data that should not be comes
h2(36, "cl_end_stream", [head([*P, ["content-length", "5"]])], also=REFUSED, up=0)
h2(36, "cl_end_stream_smuggles", [head([*P, ["content-length", str(len(S))]]), head([*G], True, 3)], also=[*REFUSED, "1:rst:* 3:200 *"], up={0, 1})
h2(36, "cl_twice_same", [head([*P, ["content-length", "3"], ["content-length", "3"]], False), {"data": "abc", "stream": 1, "end": True}], also=REFUSED, up=0)
h2(36, "cl_twice_differ", [head([*P, ["content-length", "3"], ["content-length", str(3 + len(S))]], False), {"data": "abc" + S, "stream": 1, "end": True}], also=REFUSED, up=0)
h2(36, "cl_get_body", [head([*G, ["content-length", str(len(S))]], False), {"data": S, "stream": 1, "end": True}], also=["1:200 open"])
h2(36, "get_body_no_cl", [head(G, False), {"data": S, "stream": 1, "end": True}], also=["1:200 open"])
h2(36, "body_smuggles", [head(P, False), {"data": S, "stream": 1, "end": True}], also=["1:200 open"])
h2(36, "cl_zero_then_data_empty", [head([*P, ["content-length", "0"]], False), {"data": "", "stream": 1, "end": True}], also=["1:200 open"])

# 37: CR and LF everywhere.
for name, evil in {"crlf": "\r\n", "lf": "\n", "cr": "\r"}.items():
    inject = f"x{evil}Transfer-Encoding: chunked{evil}{evil}0{evil}{evil}{S}"
    h2(37, f"{name}_value", [head([*G, ["a", inject]])], also=REFUSED, up=0)
    h2(37, f"{name}_name", [head([*G, [f"a{evil}b: c{evil}d", "x"]])], also=REFUSED, up=0)
    for i, part in enumerate(["method", "scheme", "authority", "path"]):
        h2(37, f"{name}_{part}", [head([[n, (v + " HTTP/1.1" + evil + "Host: x" + evil + evil + S) if j == i else v] for j, (n, v) in enumerate(G)])], also=REFUSED, up=0)
    h2(37, f"{name}_cookie", [head([*G, ["cookie", f"a=b{evil}x: y"], ["cookie", "c=d"]])], also=REFUSED, up=0)
    h2(37, f"{name}_host", [head([*G, ["host", f"x{evil}x: y"]])], also=REFUSED, up=0)

# 38-40: pseudo headers that are something else in HTTP/1.
for name, method in {"request_line": "GET /smuggled HTTP/1.1", "space": "GET ", "path": "GET /smuggled", "tab": "G\tET", "slash": "A/B", "colon": "A:B", "nul": "G\0T", "8bit": "G\xffT", "comma": "GET,POST"}.items():
    h2(38, f"method_{name}", [head([[":method", method], *G[1:]])], also=REFUSED + ["1:200 open"] * (name in ("slash", "colon", "comma")), up={0, 1} if name in ("slash", "colon", "comma") else 0)
h2(38, "method_10k", [head([[":method", "A" * 10000], *G[1:]])], also=["1:200 open", *REFUSED])
h2(38, "method_connect_no_authority", [head([[":method", "CONNECT"]])], also=REFUSED, up=0)
h2(38, "method_connect_path", [head([[":method", "CONNECT"], *G[1:]])], also=REFUSED, up=0)
h2(38, "method_pri", [head([[":method", "PRI"], *G[1:]])], also=["1:200 open", *REFUSED])
for name, path in {"space": "/a b", "fragment": "/a#b", "absolute": "http://evil/p", "star": "*", "no_slash": "p", "request": "/ HTTP/1.1", "8bit": "/a\xff", "nul": "/a\0", "del": "/a\x7f", "double_slash": "//evil/p", "query_only": "?a",
                   "backslash": "/\\evil", "dots": "/../../x", "percent_nul": "/%00", "tab": "/a\tb", "absolute_no_path": "http://evil", "64k": "/" + "a" * 65536}.items():
    fine = name in ("8bit", "double_slash", "backslash", "dots", "percent_nul")
    h2(39, f"path_{name}", [head([*G[:3], [":path", path]])], also=REFUSED + ["1:200 open"] * fine, up={0, 1} if fine else 0)
h2(39, "path_star_options", [head([[":method", "OPTIONS"], *G[1:3], [":path", "*"]])], also=REFUSED + ["1:200 open"])
SHOW = dict(show=[":request", "host", ":authority"])
h2(40, "host_differs", [head([*G, ["host", "evil"]])], also=["1:200 open | :request=GET / HTTP/1.1 host=x.com", *[f"{r} |" for r in REFUSED]], **SHOW)
h2(40, "host_differs_h2", [head([*G[:3], [":path", "/h2/x"], ["host", "evil"]])], also=["1:200 open | :authority=x.com :request=GET /h2/x HTTP/2", *[f"{r} |" for r in REFUSED]], **SHOW)
h2(40, "host_only", [head([*G[:2], G[3], ["host", "only"]])], also=["1:200 open | :request=GET / HTTP/1.1 host=only", *[f"{r} |" for r in REFUSED]], **SHOW)
h2(40, "host_twice", [head([*G[:2], G[3], ["host", "a"], ["host", "b"]])], also=[f"{r} |" for r in REFUSED], **SHOW)
for name, authority in {"space": "a b", "slash": "a/b", "userinfo": "u:p@a", "query": "a?b", "hash": "a#b", "at": "@", "port_99999": "a:99999", "bracket": "[::1", "list": "a,b", "10k": "a" * 10240, "backslash": "a\\b", "quote": 'a"b', "zone": "[fe80::1%eth0]:80"}.items():
    h2(40, f"authority_{name}", [head([*G[:2], [":authority", authority], G[3]])], also=[*REFUSED, "1:200 open"])


# 41: many copies.
def many(name, count):
    return {"headers": [list(x) for x in G], "many": [name, "evil", count], "stream": 1, "end": True}


h2(41, "host_10000", [many("host", 10000)], also=REFUSED, up=0)
h2(41, "cookie_10000", [many("cookie", 10000)], also=REFUSED, up=0)
h2(41, "header_10000", [many("h%d", 10000)], also=REFUSED, up=0)
h2(41, "authority_10000", [many(":authority", 10000)], also=REFUSED, up=0)
h2(41, "empty_10000", [{"headers": [list(x) for x in G], "many": ["a", "", 10000], "stream": 1, "end": True}], also=REFUSED, up=0)


# 42-43: resets, the client's and those it provokes.
async def flood(bed, make, count, seconds=6.0, listener="L", batch=50, hello=None, grace=1.0):
    """Sends make(i) for i < count, in batches, until the peer closes; then says whether it did, and how many went out."""
    peer = await bed.h2(listener, settings=hello)
    end, i = time.monotonic() + seconds, 0
    while i < count and peer.conn.state == "open" and time.monotonic() < end:
        peer.send(b"".join(make(j) for j in range(i, min(i + batch, count))))
        i += batch
        while peer.conn.transport.get_write_buffer_size() > 1 << 20 and peer.conn.state == "open" and time.monotonic() < end:
            await asyncio.sleep(0.002)
        await asyncio.sleep(0)
        peer.pump()
    await peer.closed(grace)
    peer.flooded = i
    return peer


def verdict(peer):
    codes = "".join(f"goaway:{c} " for _, c in peer.reader.goaway)
    return codes + ("open" if peer.conn.state == "open" else "closed")


def req(i, path="/delay/50", method="GET", extra=(), end=True):
    return f.headers(2 * i + 1, [[":method", method], [":scheme", "http"], [":authority", "x.com"], [":path", path], *extra], end)


def rst(i, code=8):
    return f.frame(f.RST, 0, 2 * i + 1, struct.pack(">I", code))


def flooding(item, name, make, count, envoy="?", also=(), full=0, **options):
    """A flood that must end the connection, or be taken without harm where `also` says so."""
    flags = {k: options.pop(k) for k in ("listener", "batch", "hello", "seconds", "grace") if k in options}

    async def play(bed):
        return verdict(await flood(bed, make, full if bed.full and full else count, **flags))
    CASES.append(Case(item, name, play, envoy, ["goaway:* closed", "closed", *also], limit=20, **{"up": None, **options}))


def upstream_bound(item, name, make, count, most, also=()):
    """A flood of streams that end early: the connection is ended, and the upstream is not worked through (at most `most` requests reach it)."""
    async def play(bed):
        start = len(bed.records())
        peer = await flood(bed, make, count)
        await asyncio.sleep(0.1)
        got = len(bed.records()) - start
        return verdict(peer) + ("" if got <= most else f" but {got} upstream requests")
    CASES.append(Case(item, name, play, "?", ["goaway:* closed", "closed", *also], limit=20))


upstream_bound(42, "rapid_reset", lambda i: req(i) + rst(i), 10000, 1000)
upstream_bound(42, "rapid_reset_no_error", lambda i: req(i) + rst(i, 0), 10000, 1000)
upstream_bound(42, "rapid_reset_post", lambda i: req(i, method="POST", end=False) + rst(i), 10000, 1000)
upstream_bound(42, "rapid_reset_local_reply", lambda i: req(i, "/direct200") + rst(i), 10000, 1000, also=["open"])
upstream_bound(42, "rapid_reset_h2_upstream", lambda i: req(i, "/h2/delay/50") + rst(i), 10000, 1000)
upstream_bound(43, "made_reset_window_zero", lambda i: req(i) + f.frame(f.WINDOW_UPDATE, 0, 2 * i + 1, struct.pack(">I", 0)), 10000, 1000)
upstream_bound(43, "made_reset_window_overflow", lambda i: req(i) + f.frame(f.WINDOW_UPDATE, 0, 2 * i + 1, struct.pack(">I", 0x7FFFFFFF)), 10000, 1000)
upstream_bound(43, "made_reset_data_half_closed", lambda i: req(i) + f.frame(f.DATA, 1, 2 * i + 1, b"x"), 10000, 1000)
upstream_bound(43, "made_reset_headers_half_closed", lambda i: req(i) + f.headers(2 * i + 1, [["a", "b"]], True), 10000, 1000)
upstream_bound(43, "made_reset_priority_self", lambda i: req(i) + f.frame(f.PRIORITY, 0, 2 * i + 1, struct.pack(">IB", 2 * i + 1, 0)), 10000, 1100, also=["open"])
upstream_bound(43, "made_reset_priority_length", lambda i: req(i) + f.frame(f.PRIORITY, 0, 2 * i + 1, b"abc"), 10000, 1000)
upstream_bound(43, "made_reset_content_length", lambda i: req(i, method="POST", extra=[["content-length", "1"]], end=False) + f.frame(f.DATA, 0, 2 * i + 1, b"xyz"), 10000, 1000)
upstream_bound(43, "made_reset_bad_header", lambda i: req(i, extra=[["connection", "x"]]), 10000, 0)


def cancelled(item, name, provoke):
    """One stream under way whose reset the client provokes: the upstream request is given up, and the connection's other stream lives or all end."""
    async def play(bed):
        peer = await bed.h2("L")
        start = len(bed.records())
        peer.send(req(0, "/stream/200/50"))
        await peer.wait(lambda: peer.status(1))
        peer.send(provoke)
        end = time.monotonic() + 1
        while any(not r["done"] for r in bed.records()[start:]) and time.monotonic() < end:
            await asyncio.sleep(0.02)
            peer.pump()
        return "upstream told" if all(r["done"] for r in bed.records()[start:]) else "upstream still busy"
    CASES.append(Case(item, name, play, "upstream told", up={0, 1}, logs=1))


cancelled(43, "cancels_rst", rst(0))
cancelled(43, "cancels_window_zero", f.frame(f.WINDOW_UPDATE, 0, 1, struct.pack(">I", 0)))
cancelled(43, "cancels_window_overflow", f.frame(f.WINDOW_UPDATE, 0, 1, struct.pack(">I", 0x7FFFFFFF)) * 2)
cancelled(43, "cancels_data_half_closed", f.frame(f.DATA, 1, 1, b"x"))


# 44: CONTINUATION.
def open_block(data=b""):
    return f.frame(f.HEADERS, f.END_STREAM, 1, f.block(G) + data)


SMALL = f.literal("a", "b")


def first_then(start, piece):
    return lambda i: start if i == 0 else piece


flooding(44, "continuation_never_ends", first_then(open_block(), f.frame(f.CONTINUATION, 0, 1, SMALL * 3000)), 2000, up=0, grow=16)
flooding(44, "continuation_empty", first_then(open_block(), f.frame(f.CONTINUATION, 0, 1)), 100000, up=0, grow=16)
flooding(44, "continuation_one_byte", first_then(open_block(), f.frame(f.CONTINUATION, 0, 1, b"\x82")), 100000, up=0, grow=16)
flooding(44, "continuation_huge_value", first_then(open_block(b"\x00\x01a" + f.integer(1 << 30, 7)), f.frame(f.CONTINUATION, 0, 1, b"x" * 16384)), 2000, up=0, grow=16)
flooding(44, "continuation_trailers", first_then(req(0, method="POST", end=False) + f.frame(f.HEADERS, 1, 1, SMALL), f.frame(f.CONTINUATION, 0, 1, SMALL * 3000)), 2000, up=0, grow=16)
h2(44, "continuation_interleaved_data", [{"bytes": open_block().decode("latin-1")}, {"data": "x", "stream": 1}], also=REFUSED, up=0, until="close")
h2(44, "continuation_interleaved_headers", [{"bytes": open_block().decode("latin-1")}, head(G, True, 3)], also=REFUSED, up=0, until="close")
h2(44, "continuation_interleaved_ping", [{"bytes": open_block().decode("latin-1")}, {"ping": True}], also=REFUSED, up=0, until="close")
h2(44, "continuation_other_stream", [{"bytes": open_block().decode("latin-1")}, {"frame": [9, 4, ""], "stream": 3}], also=REFUSED, up=0, until="close")
h2(44, "continuation_alone", [{"frame": [9, 4, "\x82"], "stream": 1}], also=REFUSED, up=0, until="close")
h2(44, "continuation_after_end", [head(G), {"frame": [9, 4, "\x82"], "stream": 1}], also=[*REFUSED, "1:200 *"], up={0, 1}, until="close")
h2(44, "continuation_stream_0", [{"bytes": open_block().decode("latin-1")}, {"frame": [9, 4, ""], "stream": 0}], also=REFUSED, up=0, until="close")


# 45: HPACK.
CRLF = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode(b"x\r\nb: c")


def hpack(name, block, also=(), **options):
    h2(45, f"hpack_{name}", [{"bytes": f.frame(f.HEADERS, 5, 1, block).decode("latin-1")}], also=REFUSED + list(also), up=options.pop("up", 0), until=options.pop("until", "close"), **options)


B = f.block(G)
hpack("size_beyond", f.integer(4097, 5, 0x20) + B)
hpack("size_huge", f.integer(1 << 32, 5, 0x20) + B)
hpack("size_late", B + f.integer(0, 5, 0x20))
hpack("size_1000_times", f.integer(0, 5, 0x20) * 1000 + B, ["1:200 *"], up={0, 1}, until={"stream": 1})
hpack("size_flips", (f.integer(0, 5, 0x20) + f.integer(4096, 5, 0x20)) * 500 + B, ["1:200 *"], up={0, 1}, until={"stream": 1})
hpack("index_0", b"\x80" + B)
hpack("index_beyond", f.integer(62, 7, 0x80) + B)
hpack("index_huge", b"\xff" + b"\xff" * 20 + b"\x7f")
hpack("index_zero_padded", b"\xff" + b"\x80" * 20 + b"\x00" + B)
hpack("name_index_beyond", f.integer(100, 4) + b"\x01x" + B)
hpack("length_beyond", B + b"\x00\x05ab")
hpack("length_2pow31", B + b"\x00\x01a" + f.integer(1 << 31, 7) + b"x")
hpack("length_2pow62", B + b"\x00\x01a" + f.integer(1 << 62, 7) + b"x")
hpack("cut_integer", B + b"\x00\x7f")
hpack("huffman_eos", B + b"\x00\x01a\x84\xff\xff\xff\xff")
hpack("huffman_padding_long", B + b"\x00\x01a\x82\x1f\xff")
hpack("huffman_padding_zero", B + b"\x00\x01a\x81\x18")
hpack("huffman_crlf", B + b"\x00\x01a" + bytes([0x80 | len(CRLF)]) + CRLF)
hpack("never_indexed", b"\x10\x01a\x01b" + B, ["1:200 *"], up={0, 1}, until={"stream": 1})
hpack("empty", b"")
hpack("table_overflow", b"\x40\x01a" + f.integer(5000, 7) + b"x" * 5000 + f.integer(62, 7, 0x80) + B)

# 46: the bomb. One entry of 4 KB in the table, then references of one byte each.
CRUMB = b"\x40\x06cookie" + f.integer(3900, 7) + b"c" * 3900


def bomb_block(first, refs):
    return (B + CRUMB if first else B) + f.integer(62, 7, 0x80) * refs


async def bomb(bed, refs, streams, hold):
    peer = await bed.h2("L", settings={"initial_window_size": 0}, window=False)
    for i in range(streams):
        data = bomb_block(i == 0, refs)
        parts = [data[j:j + 16384] for j in range(0, len(data), 16384)]
        peer.send(b"".join(f.frame(f.CONTINUATION if k else f.HEADERS, (0 if k else 1) | (4 if k == len(parts) - 1 else 0), 2 * i + 1, part) for k, part in enumerate(parts)))
        await asyncio.sleep(0)
        peer.pump()
    await peer.closed(hold)
    answered = sum(bool(peer.status(2 * i + 1)) and peer.status(2 * i + 1).startswith("2") for i in range(streams))
    return "refused" if not answered else f"{answered} answered"


@scenario(46, "bomb_4000_refs", "refused", grow=24, limit=40, up=0)
async def bomb_4000(bed):
    return await bomb(bed, 4000, 100, 30 if bed.full else 3)


@scenario(46, "bomb_60000_refs", "refused", grow=24, limit=40, up=0)
async def bomb_60000(bed):
    return await bomb(bed, 60000, 20, 30 if bed.full else 1)


@scenario(46, "bomb_short_names", "refused", grow=24, limit=40, up=0)
async def bomb_short(bed):
    """Empty values: nothing but the overhead of a header."""
    peer = await bed.h2("L", settings={"initial_window_size": 0}, window=False)
    for i in range(50):
        peer.send(f.frame(f.HEADERS, 5, 2 * i + 1, (B + b"\x40\x01a\x00" if i == 0 else B) + f.integer(62, 7, 0x80) * 15000))
        await asyncio.sleep(0)
    await peer.closed(1)
    return "refused" if not any((peer.status(2 * i + 1) or "").startswith("2") for i in range(50)) else "answered"


# 47-48: windows.
@scenario(47, "window_0_100_answers", "held", grow=48, limit=15)
async def window_0(bed):
    """100 answers of 1 MB that nobody lets flow: they wait upstream, not in the proxy's memory."""
    peer = await bed.h2("L", settings={"initial_window_size": 0}, window=False)
    for i in range(100):
        peer.send(req(i, "/big/1000000"))
    await peer.wait(lambda: sum(bool(peer.status(2 * i + 1)) for i in range(100)) == 100, 5)
    await asyncio.sleep(0.5)
    n, body = sum(bool(peer.status(2 * i + 1)) for i in range(100)), sum(len(peer.stream(2 * i + 1)["body"]) for i in range(100))
    return "held" if n == 100 and not body and peer.conn.state == "open" else f"{n} answered, {body} bytes, {peer.conn.state}"


@scenario(47, "window_0_times_out", "ended", limit=15, logs=1)
async def window_0_slow(bed):
    """A stream that is never let flow is ended by the stream's idle timeout."""
    peer = await bed.h2("SLOW", settings={"initial_window_size": 0}, window=False)
    peer.send(req(0, "/big/1000000"))
    return "ended" if await ended(bed, "http.SLOW.downstream_rq_active", 4) else "still there"


@scenario(47, "window_1_byte_drip", "ended", ["moves"], limit=15, grow=24)
async def window_drip(bed):
    peer = await bed.h2("L", settings={"initial_window_size": 0}, window=False)
    for i in range(50):
        peer.send(req(i, "/big/100000"))
    for _ in range(20):
        peer.send(b"".join(f.frame(f.WINDOW_UPDATE, 0, 2 * i + 1, struct.pack(">I", 1)) for i in range(50)))
        await asyncio.sleep(0.05)
        peer.pump()
    return "moves" if sum(len(peer.stream(2 * i + 1)["body"]) for i in range(50)) > 500 else verdict(peer)


CASES[-1].envoy = ["moves"]
h2(48, "window_zero_conn", [{"window": 0, "stream": 0}], also=REFUSED, until="close", up=0, logs=0)
h2(48, "window_zero_stream", [head([*G[:3], [":path", "/delay/300"]]), {"window": 0, "stream": 1}], also=[*REFUSED, "1:rst*"], until="close", up={0, 1})
h2(48, "window_overflow_conn", [{"window": 0x7FFFFFFF}, {"window": 0x7FFFFFFF}], also=REFUSED, until="close", up=0, logs=0)
h2(48, "window_overflow_stream", [head([*G[:3], [":path", "/delay/300"]]), {"window": 0x7FFFFFFF, "stream": 1}], also=[*REFUSED, "1:rst*"], until="close", up={0, 1})
h2(48, "window_idle_stream", [{"window": 5, "stream": 7}], also=REFUSED, until="close", up=0, logs=0)
h2(48, "window_bad_length", [{"frame": [8, 0, "abc"]}], also=REFUSED, until="close", up=0, logs=0)
h2(48, "data_beyond_window", [head(P, False), *[{"data": {"rep": "x", "n": 16384}, "stream": 1}] * 200], also=["*"], until="close", up={0}, timeout=0.5)

# 49-50: storms of frames that cost the peer nothing.
LOADS = 20000
flooding(49, "settings_storm", lambda i: f.settings({}), LOADS, also=["open"], up=0, full=200000)
flooding(49, "settings_unread_acks", lambda i: f.settings({"initial_window_size": 65535}), LOADS, also=["open"], up=0)
flooding(49, "settings_big", lambda i: f.frame(f.SETTINGS, 0, 0, struct.pack(">HI", 99, 1) * 2700), 500, also=["open"], up=0)
flooding(49, "settings_ack_storm", lambda i: f.settings(ack=True), LOADS, also=["open"], up=0)
flooding(49, "settings_table_size_flips", lambda i: f.settings({"header_table_size": 0 if i % 2 else 4096}), LOADS, also=["open"], up=0)
h2(49, "settings_table_size_max", [{"settings": {"header_table_size": 0xFFFFFFFF}}, head(G)], "1:200 open", also=REFUSED)
h2(49, "settings_bad_length", [{"frame": [4, 0, "abcde"]}], also=REFUSED, until="close", up=0, logs=0)
h2(49, "settings_window_2pow31", [{"settings": {"initial_window_size": 0x80000000}}], also=REFUSED, until="close", up=0, logs=0)
h2(49, "settings_frame_size_0", [{"settings": {"max_frame_size": 0}}], also=REFUSED, until="close", up=0, logs=0)
h2(49, "settings_on_stream", [{"frame": [4, 0, ""], "stream": 1}], also=REFUSED, until="close", up=0, logs=0)
h2(49, "settings_ack_with_payload", [{"frame": [4, 1, "abcdef"]}], also=REFUSED, until="close", up=0, logs=0)


@scenario(49, "settings_window_flips", "finished", ["goaway:* closed", "closed"], limit=15)
async def window_flips(bed):
    """Negative windows: data under way, and INITIAL_WINDOW_SIZE up and down 400 times; at the end all of it has come."""
    peer = await bed.h2("L", settings={"initial_window_size": 100}, window=False)
    peer.send(f.frame(f.WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 24)) + req(0, "/big/100000"))
    await peer.wait(lambda: peer.status(1))
    for i in range(400):
        peer.send(f.settings({"initial_window_size": 0 if i % 2 else 5000}))
        if i % 20 == 0:
            await asyncio.sleep(0.005)
            peer.pump()
    peer.send(f.settings({"initial_window_size": 200000}))
    await peer.wait(lambda: peer.ended(1), 3)
    if len(peer.stream(1)["body"]) == 100000 and peer.stream(1)["end"] == "fin":
        return "finished"
    return verdict(peer) + ("" if peer.conn.state != "open" else f" {len(peer.stream(1)['body'])} bytes")


flooding(50, "ping_storm", lambda i: f.frame(f.PING, 0, 0, b"12345678"), LOADS, also=["open"], up=0, full=1000000)
flooding(50, "ping_ack_storm", lambda i: f.frame(f.PING, 1, 0, b"12345678"), LOADS, also=["open"], up=0)
flooding(50, "priority_storm", lambda i: f.frame(f.PRIORITY, 0, 2 * i + 1, b"\0\0\0\0\x10"), LOADS, also=["open"], up=0)
flooding(50, "priority_storm_one", lambda i: f.frame(f.PRIORITY, 0, 1, b"\0\0\0\0\x10"), LOADS, also=["open"], up=0)
flooding(50, "empty_data_storm", first_then(req(0, "/", "POST", end=False), f.frame(f.DATA, 0, 1)), LOADS, also=["open"], up=0)
flooding(50, "empty_data_padded_storm", first_then(req(0, "/", "POST", end=False), f.frame(f.DATA, 8, 1, b"\x01\0")), LOADS, also=["open"], up=0)
flooding(50, "unknown_storm", lambda i: f.frame(0xEE, 0, 0, b"x" * 100), LOADS, also=["open"], up=0)
flooding(50, "unknown_on_stream_storm", lambda i: f.frame(0xEE, 0, 2 * i + 1, b"x"), LOADS, also=["open"], up=0)
flooding(50, "window_storm", lambda i: f.frame(f.WINDOW_UPDATE, 0, 0, struct.pack(">I", 1)), LOADS, also=["open"], up=0)
flooding(50, "empty_headers_storm", lambda i: f.frame(f.HEADERS, 5, 2 * i + 1), 5000, up=0)
flooding(50, "rst_closed_storm", first_then(req(0, "/direct200"), rst(0)), LOADS, also=["open"], up=0)
flooding(50, "goaway_storm", lambda i: f.frame(f.GOAWAY, 0, 0, struct.pack(">II", 0, 0)), LOADS, also=["open"], up=0)
flooding(50, "altsvc_storm", lambda i: f.frame(10, 0, 0, b"\0\0"), LOADS, also=["open"], up=0)


@scenario(50, "ping_unread", "?", ["goaway:* closed", "closed", "open"], grow=16, limit=12, up=0)
async def ping_unread(bed):
    """Pings whose answers nobody reads: the proxy must not queue them for ever."""
    peer = await bed.h2("L")
    peer.conn.transport.pause_reading()
    end = time.monotonic() + 5
    for _ in range(400):
        if peer.conn.state != "open" or time.monotonic() > end:
            break
        peer.send(f.frame(f.PING, 0, 0, b"12345678") * 1000)
        while peer.conn.transport.get_write_buffer_size() > 1 << 20 and time.monotonic() < end and peer.conn.state == "open":
            await asyncio.sleep(0.01)
    peer.conn.transport.resume_reading()
    await peer.conn.wait_for(lambda: False, 1)
    return "closed" if peer.conn.state != "open" else "open"


@scenario(51, "streams_one_after_the_other", "all answered", ["goaway and all answered"], grow=24, limit=400)
async def sequential(bed):
    """20 000 streams (1 000 000 with --full) on one connection, 50 at a time; a GOAWAY that lets those under way finish is followed by a new connection."""
    total, done, connections = 1_000_000 if bed.full else 20_000, 0, 0
    while done < total and connections < 50:
        peer, sid = await bed.h2("L"), 1
        connections += 1
        while done < total and peer.conn.state == "open" and not peer.reader.goaway:
            ids = range(sid, sid + 100, 2)
            peer.send(b"".join(f.headers(i, [[":method", "GET"], [":scheme", "http"], [":authority", "x.com"], [":path", "/direct200"]], True) for i in ids))
            if not await peer.wait(lambda: peer.ended(ids[-1]) and all(peer.ended(i) for i in ids), 5):
                return f"after {done}: {verdict(peer)}"
            good = sum(peer.status(i) == "200" for i in ids)
            done += good
            if good < 50 and not peer.reader.goaway:
                return f"after {done}: only {good} of 50 answered"
            peer.reader.streams.clear()
            del peer.conn.buf[:peer.reader.used]
            peer.reader.used = 0
            sid += 100
        peer.conn.close()
    return "all answered" if connections == 1 else "goaway and all answered"


# 52-55.
h2(52, "padding_max_empty", [head(P, False), {"data": "", "stream": 1, "pad": 255}, {"data": "", "stream": 1, "pad": 255, "end": True}], also=["1:200 open", *REFUSED], up={0, 1})
flooding(52, "padding_max_storm", first_then(req(0, "/", "POST", end=False), f.frame(f.DATA, 8, 1, b"\xff" + b"\0" * 255)), 2000, also=["open"], up=0, full=100000)
h2(52, "padding_beyond", [head(P, False), {"frame": [0, 8, "\xff"], "stream": 1}], also=REFUSED, until="close", up=0)
h2(52, "padding_headers_beyond", [{"frame": [1, 13, "\xff\x82"], "stream": 1}], also=REFUSED, until="close", up=0)
h2(52, "padding_not_zero", [head(P, False), {"bytes": f.frame(f.DATA, 9, 1, b"\x05ab" + S[:5].encode()).decode("latin-1")}], also=["1:200 open", *REFUSED], up={0, 1})
h2(53, "goaway_then_stream", [{"goaway": 0}, head(G)], also=["1:200 open", "1:200 closed", "1:200 goaway:0 closed", *REFUSED, "open"], up={0, 1})
h2(53, "goaway_error_then_stream", [{"goaway": 2}, head(G)], also=["1:200 open", "1:200 closed", "1:200 goaway:0 closed", *REFUSED, "open"], up={0, 1})
h2(53, "goaway_then_100_streams", [{"goaway": 0}, {"repeat": 100, "step": 2, "frames": [head(G)]}], also=["*"], up=set(range(101)), logs=set(range(101)), only_streams=[])
h2(53, "goaway_while_waiting", [head([*G[:3], [":path", "/delay/100"]]), {"goaway": 0}], also=["1:200 open", "1:200 closed", "1:200 goaway:0 closed"], up=1)
h2(54, "stream_last", [head(G, True, 0x7FFFFFFF)], also=["2147483647:200 open", *REFUSED], up={0, 1})
h2(54, "stream_last_then_more", [head(G, True, 0x7FFFFFFF), {"wait": {"stream": 0x7FFFFFFF}}, head(G, True, 1)], also=["2147483647:200 *", *REFUSED], up={0, 1})
h2(54, "stream_decrease", [head(G, True, 5), {"wait": {"stream": 5}}, head(G, True, 3)], also=["5:200 *", *REFUSED], up={1}, only_streams=[5], until="close")
h2(54, "stream_even", [head(G, True, 2)], also=["2:rst:*", *REFUSED], up=0, until="close")
h2(54, "stream_zero", [{"frame": [1, 5, "\x82\x84\x86"], "stream": 0}], also=REFUSED, up=0, until="close")
h2(54, "stream_again", [head(G), {"wait": {"stream": 1}}, head(G)], also=["1:200 *", "1:200+*", *REFUSED], up={1, 2}, until="close", timeout=0.5)
h2(54, "data_idle", [{"data": "x", "stream": 1}], also=REFUSED, until="close", up=0, logs=0)
h2(54, "rst_idle", [{"rst": 8, "stream": 1}], also=REFUSED, until="close", up=0, logs=0)
h2(54, "push_promise", [{"frame": [5, 4, "\0\0\0\x02"], "stream": 1}], also=REFUSED, until="close", up=0, logs=0)
h2(54, "frame_too_large", [{"bytes": (f.frame(f.DATA, 0, 0, b"")[0:0] + b"\xff\xff\xff" + b"\0\0\0\0\0\x01").decode("latin-1")}], also=[*REFUSED, "open"], until="close", up=0, logs=0, timeout=0.5)
h2(54, "frame_70000", [head(P, False), {"frame": [0, 0, {"rep": "x", "n": 70000}], "stream": 1}], also=REFUSED, until="close", up=0)
h2(54, "ping_bad_length", [{"frame": [6, 0, "abc"]}], also=REFUSED, until="close", up=0, logs=0)
h2(54, "rst_bad_length", [head([*G[:3], [":path", "/delay/100"]]), {"frame": [3, 0, "abc"], "stream": 1}], also=REFUSED, until="close", up={0, 1})
h2(54, "preface_only", [], also=["open"], until="settings", up=0, logs=0)
h2(54, "preface_bad", [{"bytes": "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"}], also=["closed", "goaway:* closed", "open"], until="close", up=0, preface=False, timeout=0.5, logs={0, 1})
h2(54, "preface_without_settings", [{"bytes": f.PREFACE.decode("latin-1")}, head(G)], also=["1:200 open", *REFUSED], preface=False, up={0, 1}, until="close", timeout=0.5)


@scenario(54, "half_close", "?", ["1:200 closed", "1:200 open", "closed"], up={0, 1})
async def half_close(bed):
    peer = await bed.h2("L")
    peer.send(req(0, "/delay/100"))
    peer.conn.half_close()
    peer.ack = False
    await peer.wait(lambda: peer.ended(1), 1)
    return peer.say()




def h2c(name, text, envoy, also, **options):
    CASES.append(Case(55, name, {"to": options.pop("to", "L"), "raw": text, "timeout": 1.0, **options.pop("step", {})}, envoy, also, **options))


UPGRADE = "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
h2c("h2c_upgrade", UPGRADE + "\r\n", "200 open |", ["400 closed |", "403 closed |"], show=["upgrade", "http2-settings", "connection"])
h2c("h2c_upgrade_listener", UPGRADE + "\r\n", "?", ["200 open |", "400 closed |", "403 closed |"], to="UP", show=["upgrade", "http2-settings", "connection"])
h2c("h2c_upgrade_body", UPGRADE.replace("GET", "POST") + f"Content-Length: {len(S)}\r\n\r\n{S}", "?", ["200 open", "400 closed", "403 closed"])
h2c("h2c_upgrade_only", "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", "?", ["200 open |", "400 closed |", "403 closed |"], show=["upgrade", "connection"])
h2c("h2c_upgrade_smuggled", UPGRADE + "\r\n" + f.PREFACE.decode("latin-1") + "x", "?", ["*closed", "200 open", "200,400 open"], up={0, 1}, logs={1, 2}, step={"methods": ["GET"]})

SCRIPTS = {}
