"""HTTP/1: items 1 to 33 of the bad-input list."""
import asyncio
import base64
import time

from bed import Case, outcome
from difft import h1 as reader

CASES = []
# A request that must never arrive as one.
S = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
REFUSED = ["400 closed", "400 open", "closed"]


def h1(item, name, raw, envoy, also=(), to="L", show=(), up=None, logs=None, only=False, why="", grow=48, **step):
    CASES.append(Case(item, name, {"to": to, "raw": raw, "timeout": 1.0, **step}, envoy, also, only, up, logs, show, grow, why=why, needs="buffer" if to == "BUF" else None))


def scenario(item, name, envoy, also=(), **options):
    def take(play):
        CASES.append(Case(item, name, play, envoy, also, **options))
        return play
    return take


def post(headers, body="", path="/", version="1.1"):
    return f"POST {path} HTTP/{version}\r\nHost: x\r\n{headers}\r\n\r\n{body}"


def get(headers="", path="/", host="x"):
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n"


def raw(answer, close=False):
    """The path that makes the backend send exactly this."""
    return "/raw/" + base64.urlsafe_b64encode(answer.encode("latin-1")).decode().rstrip("=") + ("/close" if close else "")


CH = "Transfer-Encoding: chunked"

# 1-3: two lengths.
h1(1, "cl_te", post(f"Content-Length: {len(S) + 5}\r\n{CH}", "0\r\n\r\n" + S), "400 closed", "closed", up=0)
h1(1, "te_cl", post(f"{CH}\r\nContent-Length: 5", "0\r\n\r\n" + S), "400 closed", "closed", up=0)
h1(1, "te_cl_zero", post(f"{CH}\r\nContent-Length: 0", "3\r\nabc\r\n0\r\n\r\n" + S), "400 closed", "closed", up=0)
h1(1, "te_cl_twice", post(f"Content-Length: 5\r\n{CH}\r\nContent-Length: 5", "0\r\n\r\n" + S), "400 closed", "closed", up=0)
h1(1, "te_identity_cl", post("Transfer-Encoding: identity\r\nContent-Length: 3", "abc"), ["501 closed", "400 closed"], "closed", up=0)
h1(2, "cl_cl_equal", post("Content-Length: 3\r\nContent-Length: 3", "abc" + S), "400 closed", "closed", up=0)
h1(2, "cl_cl_longer", post(f"Content-Length: 3\r\nContent-Length: {3 + len(S)}", "abc" + S), "400 closed", "closed", up=0)
h1(2, "cl_cl_zero", post("Content-Length: 0\r\nContent-Length: 3", "abc" + S), "400 closed", "closed", up=0)
h1(3, "cl_list_equal", post("Content-Length: 3,3", "abc" + S), "400 closed", "closed", up=0)
h1(3, "cl_list_space", post("Content-Length: 3, 3", "abc" + S), "400 closed", "closed", up=0)
h1(3, "cl_list_differ", post(f"Content-Length: 3,{3 + len(S)}", "abc" + S), "400 closed", "closed", up=0)

# 4: numbers that are none.
for name, value in {"plus": "+3", "minus": "-3", "minus_zero": "-0", "hex": "0x3", "empty": "", "2pow64": "18446744073709551616", "2pow64_plus_3": "18446744073709551619",
                    "space_inside": "1 2", "tab_inside": "1\t2", "underscore": "1_0", "float": "3.0", "exponent": "3e0", "fullwidth": "\xef\xbc\x93",
                    "quoted": '"3"', "semicolon": "3;3", "vtab": "\x0b3", "nul": "3\0"}.items():
    h1(4, f"cl_{name}", post(f"Content-Length: {value}", "abc" + S), "400 closed", "closed", up=0)
h1(4, "cl_leading_zero", post("Content-Length: 03", "abc"), "200 open", REFUSED)
h1(4, "cl_10000_zeros", post("Content-Length: " + "0" * 10000 + "3", "abc"), "200 open", REFUSED)
h1(4, "cl_2pow63", post("Content-Length: 9223372036854775808", "abc"), "open", REFUSED, up=0, timeout=0.3)
h1(4, "cl_max_i64", post("Content-Length: 9223372036854775807", "abc"), "open", REFUSED, up=0, timeout=0.3)

# 5-8: transfer codings.
for name, value in {"twice": "chunked, chunked", "list": "gzip, chunked", "list_after": "chunked, gzip", "identity": "identity", "chunked_identity": "chunked, identity", "xchunked": "xchunked",
                    "chunkedx": "chunkedx", "param": "chunked;q=1", "quoted": '"chunked"', "comma_before": ",chunked", "comma_after": "chunked,", "empty": "", "single_quoted": "'chunked'",
                    "space_inside": "chunk ed", "tab_inside": "chu\tnked"}.items():
    h1(5, f"te_{name}", post(f"Transfer-Encoding: {value}", "0\r\n\r\n" + S), ["501 closed", "400 closed"], ["closed"], up=0)
h1(5, "te_two_headers", post(f"{CH}\r\n{CH}", "0\r\n\r\n"), "501 closed", REFUSED, up=0)
h1(5, "te_two_headers_identity", post(f"{CH}\r\nTransfer-Encoding: identity", "0\r\n\r\n" + S), "501 closed", REFUSED, up=0)
h1(5, "te_two_headers_identity_first", post(f"Transfer-Encoding: identity\r\n{CH}", "0\r\n\r\n" + S), "501 closed", REFUSED, up=0)
h1(5, "te_case", post("tRANSFER-eNCODING: ChUnKeD", "3\r\nabc\r\n0\r\n\r\n"), "200 open | transfer-encoding=chunked", show=["transfer-encoding"])
h1(5, "te_tabs_around", post("Transfer-Encoding: \t chunked \t", "3\r\nabc\r\n0\r\n\r\n"), "200 open", REFUSED)
h1(5, "te_vtab", post("Transfer-Encoding: \x0bchunked", "0\r\n\r\n" + S), "400 closed", "closed", up=0)
h1(5, "te_formfeed", post("Transfer-Encoding: chunked\x0c", "0\r\n\r\n" + S), "400 closed", "closed", up=0)
h1(5, "te_nul", post("Transfer-Encoding: chunked\0", "0\r\n\r\n" + S), "400 closed", "closed", up=0)
h1(5, "te_cr_before", post("Transfer-Encoding: \rchunked", "0\r\n\r\n"), "?", REFUSED)
h1(5, "te_cr_after", post("Transfer-Encoding: chunked\r", "0\r\n\r\n"), "?", REFUSED)
h1(5, "te_cr_cl", post(f"Foo: bar\r{CH}\r\nContent-Length: {5 + len(S)}", "0\r\n\r\n" + S), "?", REFUSED)
h1(5, "te_lf_cl", post(f"Foo: bar\n{CH}\r\nContent-Length: 5", "0\r\n\r\n" + S), "400 closed", REFUSED, up=0)
h1(5, "te_8bit", post("Transfer-Encoding: chunked\xff", "0\r\n\r\n" + S), "501 closed", REFUSED, up=0)
h1(5, "te_nbsp", post("Transfer-Encoding: \xa0chunked", "0\r\n\r\n" + S), "501 closed", REFUSED, up=0)
h1(6, "te_in_fold", post("Foo: bar\r\n Transfer-Encoding: chunked\r\nContent-Length: 5", "abcde"), "?", REFUSED)
h1(6, "te_folded", post("Transfer-Encoding:\r\n chunked", "0\r\n\r\n"), "?", [*REFUSED, "501 closed"])
h1(6, "te_folded_cl", post(f"Transfer-Encoding:\r\n chunked\r\nContent-Length: {5 + len(S)}", "0\r\n\r\n" + S), "?", [*REFUSED, "501 closed"], up=0)
h1(6, "cl_folded", post("Content-Length:\r\n 3", "abc"), "?", REFUSED)
h1(6, "cl_fold_digits", post("Content-Length: 1\r\n 2", "abc" + S), "?", REFUSED, up=0)
h1(7, "te_space_colon", post("Transfer-Encoding : chunked", "0\r\n\r\n" + S), "400 closed", "closed", up=0)
h1(7, "te_tab_colon", post("Transfer-Encoding\t: chunked", "0\r\n\r\n" + S), "400 closed", "closed", up=0)
h1(7, "cl_space_colon", post("Content-Length : 3", "abc" + S), "400 closed", "closed", up=0)
h1(7, "te_space_colon_cl", post(f"Transfer-Encoding : chunked\r\nContent-Length: 5", "0\r\n\r\n" + S), "400 closed", "closed", up=0)
h1(7, "te_first_line_indented", f"POST / HTTP/1.1\r\n {CH}\r\nHost: x\r\n\r\n0\r\n\r\n{S}", "400 closed", "closed", up=0)
h1(8, "te_underscore_cl", post(f"Transfer_Encoding: chunked\r\nContent-Length: {5 + len(S)}", "0\r\n\r\n" + S), "200 open | content-length=40", show=["content-length", "transfer-encoding"])
h1(8, "cl_underscore_te", post(f"Content_Length: 5\r\n{CH}", "3\r\nabc\r\n0\r\n\r\n"), "200 open | transfer-encoding=chunked", show=["content-length", "transfer-encoding"])

# 9: chunks.
for name, size in {"plus": "+3", "minus": "-3", "0x": "0x3", "space_before": " 3", "hex_word": "zz", "20_digits": "3" * 20, "17_f": "f" * 17, "17_digits_zero_top": "1" + "0" * 16,
                   "underscore": "1_0", "empty": "", "comma": "3,3", "nul": "3\0", "8bit": "3\xff", "vtab": "3\x0b", "cr_inside": "3\r3", "quote": '"3"', "semicolon_only": ";"}.items():
    h1(9, f"chunk_{name}", post(CH, f"{size}\r\nabc\r\n0\r\n\r\n{S}"), "400 closed", ["closed", "400~ closed"], up=0)
h1(9, "chunk_16_f", post(CH, "f" * 16 + "\r\nabc\r\n0\r\n\r\n" + S), "open", REFUSED, up=0, timeout=0.3)
h1(9, "chunk_space_after", post(CH, "3 \r\nabc\r\n0\r\n\r\n"), "200 open", REFUSED, why="D1")
h1(9, "chunk_tab_after", post(CH, "3\t\r\nabc\r\n0\r\n\r\n"), "?", REFUSED, why="D1")
h1(9, "chunk_10000_zeros", post(CH, "0" * 10000 + "3\r\nabc\r\n0\r\n\r\n"), "?", [*REFUSED, "200 open"], why="D1")
h1(9, "chunk_last_zeros", post(CH, "3\r\nabc\r\n00000\r\n\r\n"), "200 open", REFUSED)
h1(9, "chunk_missing_crlf", post(CH, f"3\r\nabc0\r\n\r\n{S}"), "?", [*REFUSED], up=0, why="D1")
h1(9, "chunk_wrong_crlf", post(CH, f"3\r\nabcXX0\r\n\r\n{S}"), "?", [*REFUSED], up=0, why="D1")
h1(9, "chunk_data_lf", post(CH, "3\r\nabc\n0\r\n\r\n"), "?", REFUSED, why="D1, D4")
h1(9, "chunk_size_lf", post(CH, "3\nabc\r\n0\r\n\r\n"), "?", REFUSED, why="D4")
h1(9, "chunk_all_lf", post(CH, "3\nabc\n0\n\n"), "?", REFUSED, why="D4", timeout=0.4)
h1(9, "chunk_size_cr", post(CH, f"3\rabc\r\n0\r\n\r\n{S}"), "400 closed", REFUSED, up=0)
h1(9, "chunk_ext", post(CH, "3;a=b;c=\"d e\"\r\nabc\r\n0;x\r\n\r\n"), "200 open", REFUSED)
h1(9, "chunk_ext_64k", [post(CH), "3;", {"rep": "a", "n": 65536}, "\r\nabc\r\n0\r\n\r\n"], "?", [*REFUSED, "413 closed", "431 closed", "200 open"])
h1(9, "chunk_ext_cr", post(CH, f"3;a\rb\r\nabc\r\n0\r\n\r\n"), "?", REFUSED)
h1(9, "chunk_ext_lf", post(CH, f"3;a\n0\r\n\r\n{S}"), "?", REFUSED, up=0, only=True)
h1(9, "chunk_ext_nul", post(CH, "3;a=\0\r\nabc\r\n0\r\n\r\n"), "?", REFUSED)
h1(9, "chunk_beyond_cl_end", post(CH, f"5\r\nabc\r\n\r\n0\r\n\r\n"), "200 open", REFUSED)

# 10-11: trailers.
for name, trailer in {"cl": "Content-Length: 5", "te": CH, "host": "Host: evil", "authorization": "Authorization: evil", "connection": "Connection: close"}.items():
    h1(10, f"trailer_{name}", post(CH, f"3\r\nabc\r\n0\r\n{trailer}\r\n\r\n"), "200 open |", [f"{r} |" for r in REFUSED], show=["content-length", "authorization", ":path"])
h1(10, "trailer_pseudo", post(CH, "3\r\nabc\r\n0\r\n:path: /smuggled\r\n\r\n"), "400 closed", REFUSED, up=0)
h1(10, "trailer_bad_name", post(CH, f"3\r\nabc\r\n0\r\na b: c\r\n\r\n{S}"), "?", REFUSED, up=0)
h1(10, "trailer_no_colon", post(CH, f"3\r\nabc\r\n0\r\nabc\r\n\r\n{S}"), "?", REFUSED, up=0)
h1(10, "trailer_fold", post(CH, "3\r\nabc\r\n0\r\na: b\r\n c\r\n\r\n"), "?", REFUSED)
h1(10, "trailer_nul", post(CH, f"3\r\nabc\r\n0\r\na: b\0\r\n\r\n"), "?", [*REFUSED, "200 open"])


async def pour(bed, conn, first, piece, total, seconds=4.0):
    """Sends `piece` again and again until the peer closes, `total` bytes are out, or time is over; says how it ended and whether it was stopped."""
    conn.send(first)
    sent, end = 0, time.monotonic() + seconds
    while sent < total and conn.state == "open" and time.monotonic() < end:
        conn.send(piece)
        sent += len(piece)
        # Without back-pressure from the peer this would only fill our own memory.
        while conn.transport.get_write_buffer_size() > 1 << 20 and conn.state == "open" and time.monotonic() < end:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0)
    await conn.wait_for(lambda: False, 0.5)
    return said(conn, ["POST"])


def said(conn, methods):
    interim, final, rest = reader.read_all(conn.buf, methods, conn.state != "open")
    return outcome({"responses": final, "rest": rest, "conn": conn.state})


@scenario(11, "trailers_endless", ["400 closed", "431 closed", "413 closed"], ["closed"], up={0, 1})
async def trailers_endless(bed):
    return await pour(bed, await bed.open("L"), (post(CH) + "3\r\nabc\r\n0\r\n").encode(), b"x-trailer: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n" * 400, 16 << 20)


@scenario(11, "trailers_endless_one", ["400 closed", "431 closed", "413 closed"], ["closed"], up={0, 1})
async def trailers_endless_one(bed):
    return await pour(bed, await bed.open("L"), (post(CH) + "3\r\nabc\r\n0\r\nx: ").encode(), b"y" * 16384, 16 << 20)


# 12-14: sizes.
h1(12, "line_70k", ["GET /", {"rep": "a", "n": 70000}, " HTTP/1.1\r\nHost: x\r\n\r\n"], ["431 closed", "414 closed"], "closed", up=0)
h1(12, "query_70k", ["GET /?", {"rep": "a", "n": 70000}, " HTTP/1.1\r\nHost: x\r\n\r\n"], ["431 closed", "414 closed"], "closed", up=0)
h1(12, "method_70k", [{"rep": "A", "n": 70000}, " / HTTP/1.1\r\nHost: x\r\n\r\n"], "431 closed", ["400 closed", "closed", "501 closed"], up=0)


@scenario(12, "line_10m_no_newline", ["431 closed", "414 closed"], ["closed"], up=0)
async def line_10m(bed):
    return await pour(bed, await bed.open("L"), b"GET /", b"a" * 16384, 10 << 20)


@scenario(13, "headers_100000", "431 closed", ["closed", "400 closed"], up=0)
async def headers_100000(bed):
    return await pour(bed, await bed.open("L"), b"GET / HTTP/1.1\r\nHost: x\r\n", b"".join(b"h%d: v\r\n" % i for i in range(1000)), 10 << 20)


@scenario(13, "headers_empty_100000", "431 closed", ["closed", "400 closed"], up=0)
async def headers_empty(bed):
    return await pour(bed, await bed.open("L"), b"GET / HTTP/1.1\r\nHost: x\r\n", b"a:\r\n" * 4000, 10 << 20)


h1(13, "headers_150", ["GET / HTTP/1.1\r\nHost: x\r\n", {"lines": "h%d: v\r\n", "n": 150}, "\r\n"], "431 closed", ["closed", "400 closed"], up=0)
h1(14, "header_1m", ["GET / HTTP/1.1\r\nHost: x\r\na: ", {"rep": "a", "n": 1 << 20}, "\r\n\r\n"], "431 closed", ["closed"], up=0)
h1(14, "header_name_1m", ["GET / HTTP/1.1\r\nHost: x\r\n", {"rep": "a", "n": 1 << 20}, ": b\r\n\r\n"], "431 closed", ["closed", "400 closed"], up=0)

# 15: bytes that have no place, everywhere.
BYTES = {"nul": "\0", "soh": "\x01", "vt": "\x0b", "esc": "\x1b", "del": "\x7f", "x80": "\x80", "xff": "\xff"}
PLACES = {"method": "GE{}T / HTTP/1.1\r\nHost: x\r\n\r\n", "path": "GET /a{}b HTTP/1.1\r\nHost: x\r\n\r\n", "query": "GET /?a{}b HTTP/1.1\r\nHost: x\r\n\r\n", "version": "GET / HTTP/1{}.1\r\nHost: x\r\n\r\n",
          "name": "GET / HTTP/1.1\r\nHost: x\r\na{}b: c\r\n\r\n", "value": "GET / HTTP/1.1\r\nHost: x\r\na: b{}c\r\n\r\n", "host": "GET / HTTP/1.1\r\nHost: a{}b\r\n\r\n",
          "chunk_ext": f"POST / HTTP/1.1\r\nHost: x\r\n{CH}\r\n\r\n3;a{{}}\r\nabc\r\n0\r\n\r\n", "trailer": f"POST / HTTP/1.1\r\nHost: x\r\n{CH}\r\n\r\n3\r\nabc\r\n0\r\na: {{}}\r\n\r\n"}
for place, text in PLACES.items():
    for name, char in BYTES.items():
        free = place in ("chunk_ext", "trailer") or (place == "value" and name in ("x80", "xff", "del"))
        h1(15, f"{name}_in_{place}", text.format(char), "?", [*REFUSED, *(["200 open"] if free else [])])

# 16: line ends.
h1(16, "cr_in_value", get("a: b\rc\r\n"), "200 open | a=bc", [f"{r} |" for r in REFUSED], show=["a"], why="D2")
h1(16, "cr_header_split", get("a: b\rHost: evil\r\n"), "?", [f"{r} |" for r in REFUSED], show=["a", "host"], why="D2")
h1(16, "cr_in_name", get("a\rb: c\r\n"), "400 closed", REFUSED, up=0)
h1(16, "cr_in_line", "GET /a\rb HTTP/1.1\r\nHost: x\r\n\r\n", "400 closed", REFUSED, up=0)
h1(16, "cr_only", "GET / HTTP/1.1\rHost: x\r\r", "?", REFUSED, up=0, timeout=0.4)
h1(16, "lf_only", "GET / HTTP/1.1\nHost: x\n\n", "200 open", REFUSED, why="D4")
h1(16, "lf_in_value_smuggles", get("a: b\nContent-Length: 5\r\n"), "?", REFUSED, up=0, timeout=0.4)
h1(16, "crcrlf", "GET / HTTP/1.1\r\r\nHost: x\r\r\n\r\r\n", "?", REFUSED, timeout=0.4)
h1(16, "crcrlf_end", "GET / HTTP/1.1\r\nHost: x\r\n\r\r\n" + S.replace("smuggled", "next"), "?", REFUSED, up={0, 1, 2}, timeout=0.4)
h1(16, "lfcr", "GET / HTTP/1.1\n\rHost: x\n\r\n\r", "400 closed", REFUSED, up=0)
h1(16, "leading_crlf_1000", "\r\n" * 1000 + get(), "?", [*REFUSED, "200 open"])
h1(16, "end_lf_crlf", "GET / HTTP/1.1\r\nHost: x\r\n\n", "200 open", REFUSED, why="D4")
h1(16, "nel", get("a: b\x85Foo: c\r\n"), "200 open", REFUSED)

# 17: versions.
h1(17, "09", "GET /\r\n\r\n", "426 closed", [*REFUSED, "505 closed"], up=0)
h1(17, "09_bare", "GET /\r\n", "?", [*REFUSED, "426 closed", "open"], up=0, timeout=0.4)
h1(17, "10_te", post(CH, f"0\r\n\r\n{S}", version="1.0"), ["426 closed", "400 closed"], "closed", up=0)
h1(17, "10", "GET / HTTP/1.0\r\nHost: x\r\n\r\n", "426 closed", REFUSED, up=0)
h1(17, "20", "GET / HTTP/2.0\r\nHost: x\r\n\r\n", "426 closed", [*REFUSED, "505 closed"], up=0)
h1(17, "30", "GET / HTTP/3.0\r\nHost: x\r\n\r\n", "426 closed", [*REFUSED, "505 closed"], up=0)
h1(17, "nul", "GET / HTTP/1.1\0\r\nHost: x\r\n\r\n", "400 closed", REFUSED, up=0)
h1(17, "99999", "GET / HTTP/99999.1\r\nHost: x\r\n\r\n", "400 closed", [*REFUSED, "426 closed", "505 closed"], up=0)
h1(17, "trailing_word", "GET / HTTP/1.1 x\r\nHost: x\r\n\r\n", "400 closed", REFUSED, up=0)
h1(17, "two_requests_in_line", "GET / HTTP/1.1 GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n", "400 closed", REFUSED, up=0)
h1(17, "lower", "GET / http/1.1\r\nHost: x\r\n\r\n", "400 closed", REFUSED, up=0)
h1(17, "rtsp", "GET / RTSP/1.0\r\nHost: x\r\n\r\n", "400 closed", REFUSED, up=0)
h1(17, "h2_preface_cut", "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", "?", [*REFUSED, "426 closed", "goaway*", "rest closed"], up=0, methods=["GET"], timeout=0.5)

# 18: absolute URIs.
SHOW = dict(show=[":request", "host"])
NO = [f"{r} |" for r in [*REFUSED, "404 open", "404 closed"]]
for name, target in {"other_host": "http://other/p", "userinfo": "http://u:p@other/p", "userinfo_host": "http://x@other@x/p", "slashes": "http:///p", "empty_path": "http://other", "query_no_path": "http://other?q",
                     "zone": "http://[fe80::1%25eth0]/p", "zone_raw": "http://[fe80::1%eth0]:80/p", "double_slash": "//other/p", "port_empty": "http://other:/p", "port_big": "http://other:99999/p",
                     "ftp": "ftp://other/p", "upper": "HTTP://other/p", "scheme_only": "http:", "scheme_nothing": "http://", "backslash": "http:\\\\other/p", "fragment": "http://other/p#f",
                     "at_path": "@other/p", "host_space": "http://o ther/p", "file": "file:///etc/passwd", "dots": "http://other/../../p", "no_slash": "other/p", "ipv6_open": "http://[::1/p"}.items():
    h1(18, f"abs_{name}", get(path=target), "?", NO, **SHOW)

# 19: Host.
for name, host in {"list": "a, b", "port_99999": "a:99999", "at": "a@b", "open_bracket": "[::1", "trailing_dot": "a.", "slash": "a/b", "question": "a?b", "hash": "a#b", "space": "a b", "tab": "a\tb", "empty": "",
                   "port_only": ":80", "port_word": "a:b", "port_minus": "a:-1", "two_ports": "a:80:80", "percent": "a%00b", "quote": 'a"b', "angle": "<script>", "backslash": "a\\b", "ipv6_zone": "[fe80::1%eth0]",
                   "crlf_encoded": "a%0d%0ab", "star": "*", "comma": "a,b", "8bit": "a\xffb"}.items():
    h1(19, f"host_{name}", get(host=host), "?", NO, **SHOW)
h1(19, "host_none", "GET / HTTP/1.1\r\n\r\n", "400 closed |", NO, **SHOW)
h1(19, "host_twice", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "?", NO, why="D3", **SHOW)
h1(19, "host_twice_same", "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "?", NO, why="D3", **SHOW)
h1(19, "host_1000", "GET / HTTP/1.1\r\n" + "Host: a\r\n" * 1000 + "\r\n", "200 open", [*REFUSED, "431 closed"], why="D3")
h1(19, "host_10k", get(host="a" * 10240), ["200 open", "400 closed"], REFUSED)
h1(19, "host_underscore_name", "GET / HTTP/1.1\r\nHo_st: a\r\n\r\n", "400 closed |", NO, **SHOW)
h1(19, "host_space_colon", "GET / HTTP/1.1\r\nHost : a\r\n\r\n", "400 closed |", NO, **SHOW)
h1(19, "host_obs_fold", "GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", "400 closed |", NO, **SHOW)
h1(19, "pseudo_authority", get(":authority: evil\r\n"), "400 closed |", NO, **SHOW)

# 20: Connection naming what it must not take away.
for name, token, extra in [("host", "host", ""), ("authorization", "authorization", "Authorization: secret\r\n"), ("xff", "x-forwarded-for", "X-Forwarded-For: 1.2.3.4\r\n"), ("cookie", "cookie", "Cookie: a\r\n"),
                           ("path", ":path", ""), ("authority", ":authority", ""), ("te_header", "te", "TE: trailers\r\n"), ("proto", "x-forwarded-proto", "X-Forwarded-Proto: https\r\n"), ("itself", "connection", ""),
                           ("empty", ",,,", ""), ("request_id", "x-request-id", ""), ("bad", "a b", "")]:
    h1(20, f"connection_{name}", get(f"Connection: {token}\r\n{extra}"), "?", [f"{r} |" for r in REFUSED], show=[":request", "host", "authorization", "x-forwarded-for", "cookie", "te", "x-forwarded-proto", "connection"])
h1(20, "connection_cl", post("Connection: content-length\r\nContent-Length: 3", "abc"), "?", [f"{r} |" for r in REFUSED] + ["200 open | content-length=3"], show=["content-length", "transfer-encoding"])
h1(20, "connection_cl_smuggles", post(f"Connection: content-length\r\nContent-Length: {len(S)}", S), ["200 open", "400 closed"], REFUSED)
h1(20, "connection_te", post(f"Connection: transfer-encoding\r\n{CH}", "3\r\nabc\r\n0\r\n\r\n"), "?", [f"{r} |" for r in REFUSED] + ["200 open | transfer-encoding=chunked"], show=["content-length", "transfer-encoding"])
h1(20, "connection_1000", get("Connection: " + ",".join(f"t{i}" for i in range(1000)) + "\r\n"), "?", [*REFUSED, "200 open"])
h1(20, "connection_close_smuggled", get("Connection: close\r\n") + S, "200 closed", up={1})


# 21: pipelines.
@scenario(21, "pipeline_1000_bad_500th", "200*499,400 closed", ["200*499 closed"], up=499, logs={499, 500})
async def pipeline_bad(bed):
    conn = await bed.open("L")
    conn.send((get() * 499 + "G@T / HTTP/1.1\r\nHost: x\r\n\r\n" + S * 500).encode())
    await conn.wait_for(lambda: False, 6)
    return said(conn, ["GET"])


@scenario(21, "pipeline_1000", "200*1000 open", up=1000, logs=1000)
async def pipeline_1000(bed):
    conn = await bed.open("L")
    conn.send((get() * 1000).encode())
    await conn.wait_for(lambda: conn.buf.count(b"HTTP/1.1 200") >= 1000 and conn.buf.endswith(b"ok\n"), 8)
    return said(conn, ["GET"])


@scenario(21, "pipeline_early_400", ["400 closed"], ["closed"], up=0, logs={0, 1})
async def pipeline_early(bed):
    conn = await bed.open("L")
    conn.send(("GET / HTTP/9\r\nHost: x\r\n\r\n" + S * 999).encode())
    await conn.wait_for(lambda: False, 3)
    return said(conn, ["GET"])


@scenario(21, "pipeline_unread_answers", ["stopped", "done"], up=None, grow=24)
async def pipeline_unread(bed):
    """Pipelines 1 000 requests for 100 kB each and reads nothing: the proxy has to stop, not to keep 100 MB."""
    conn = await bed.open("L")
    conn.transport.pause_reading()
    conn.send((get(path="/big/100000") * 1000).encode())
    start = len(bed.records())
    await asyncio.sleep(1.5)
    return "stopped" if len(bed.records()) - start < 500 else "took everything"


# 22: what follows an answer given before the body was read.
for name, path, to, status in [("direct200", "/direct200", "L", 200), ("401", "/direct401", "L", 401), ("403", "/direct403", "L", 403), ("redirect", "/redirect", "L", 301)]:
    h1(22, f"{name}_cl_body", post(f"Content-Length: {len(S)}", S, path), f"{status} closed", f"{status} open", to=to, up=0, logs=1)
    h1(22, f"{name}_chunked_body", post(CH, f"{len(S):x}\r\n{S}\r\n0\r\n\r\n", path), f"{status} closed", f"{status} open", to=to, up=0, logs=1)
    h1(22, f"{name}_body_after", [post(f"Content-Length: {len(S)}", "", path), {"wait": 1}, S], f"{status} closed", f"{status} open", to=to, up=0, logs=1)
    h1(22, f"{name}_body_missing", [post("Content-Length: 100000", S, path), {"wait": 1}, S], f"{status} closed", f"{status} open", to=to, up=0, logs=1)
    h1(22, f"{name}_bad_chunk", post(CH, f"zz\r\n{S}", path), f"{status} closed", [f"{status} open", *REFUSED], to=to, up=0)
    h1(22, f"{name}_then_next", post("Content-Length: 3", "abc" + get(path="/next"), path), f"{status} closed", f"{status},200 open", to=to, up={0, 1}, methods=["POST", "GET"], responses=2)
h1(22, "413_cl", post("Content-Length: 5000", S + "a" * (5000 - len(S))), "413 closed", ["413 open"], to="BUF", up=0, logs=1)
h1(22, "413_chunked", post(CH, "800\r\n" + "a" * 2048 + "\r\n" + f"{len(S):x}\r\n{S}\r\n0\r\n\r\n"), "413 closed", ["413 open"], to="BUF", up=0, logs=1)
h1(22, "413_then_smuggled", [post("Content-Length: 5000", "a" * 2000), {"wait": 1}, S], "413 closed", ["413 open"], to="BUF", up=0, logs=1)

# 23: bodies where none belongs.
h1(23, "get_body", get(f"Content-Length: {len(S)}\r\n") + S, "200 open")
h1(23, "get_body_chunked", get(f"{CH}\r\n") + f"{len(S):x}\r\n{S}\r\n0\r\n\r\n", "200 open")
h1(23, "head_body", "HEAD / HTTP/1.1\r\nHost: x\r\n" + f"Content-Length: {len(S)}\r\n\r\n{S}", "200 open")
h1(23, "delete_body", "DELETE / HTTP/1.1\r\nHost: x\r\n" + f"Content-Length: {len(S)}\r\n\r\n{S}", "200 open")
h1(23, "trace_body", "TRACE / HTTP/1.1\r\nHost: x\r\n" + f"Content-Length: {len(S)}\r\n\r\n{S}", "200 open", [*REFUSED, "405 closed", "405 open"])
EVIL = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"
h1(23, "head_answer_with_body", f"HEAD {raw('HTTP/1.1 200 OK' + chr(13) + chr(10) + 'content-length: ' + str(len(EVIL)) + chr(13) + chr(10) * 1 + chr(13) + chr(10) + EVIL)} HTTP/1.1\r\nHost: x\r\n\r\n", "200 open", ["200 closed", "502 open"])
h1(23, "204_answer_with_body", get(path=raw("HTTP/1.1 204 No\r\ncontent-length: 57\r\n\r\n" + EVIL)), "502 open", ["204 closed", "204 open"])
h1(23, "204_answer_chunked", get(path=raw("HTTP/1.1 204 No\r\ntransfer-encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n")), "?", ["204 open", "204 closed", "502 open"])
h1(23, "304_answer_with_body", get(path=raw("HTTP/1.1 304 No\r\ncontent-length: 57\r\n\r\n" + EVIL)), "304 open", ["304 closed", "502 open"])
h1(23, "205_answer_with_body", get(path=raw("HTTP/1.1 205 No\r\ncontent-length: 4\r\n\r\nevil")), "205 open", ["205 closed", "502 open"])

# 24-28: an upstream that misbehaves.
for name, head in {"cr_in_value": "x: a\rb", "cr_set_cookie": "x: a\rSet-Cookie: evil=1", "nul_in_value": "x: a\0b", "bad_name": "x y: a", "no_colon": "evil", "fold": "x: a\r\n Set-Cookie: evil=1", "ctl": "x: a\x01b",
                   "cl_cl": "content-length: 3\r\ncontent-length: 2", "cl_te": "transfer-encoding: chunked", "cl_list": "content-length: 2,2", "cl_minus": "content-length: -1", "cl_plus": "content-length: +2",
                   "te_unknown": "transfer-encoding: evil", "te_twice": "transfer-encoding: chunked\r\ntransfer-encoding: chunked", "lf": "x: a\nSet-Cookie: evil=1", "space_colon": "content-length : 5"}.items():
    h1(24, f"answer_{name}", get(path=raw(f"HTTP/1.1 200 OK\r\n{head}\r\ncontent-length: 2\r\n\r\nhi", True)), "?", ["502 open", "503 open", "502 closed", "503 closed"])
for name, text in {"garbage": "garbage\r\n\r\n", "nothing": "", "status_word": "HTTP/1.1 abc X\r\ncontent-length: 0\r\n\r\n",
                   "status_minus": "HTTP/1.1 -20 X\r\ncontent-length: 0\r\n\r\n", "h2_preface": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "reason_nul": "HTTP/1.1 200 O\0K\r\ncontent-length: 0\r\n\r\n", "status_999": "HTTP/1.1 999 X\r\ncontent-length: 0\r\n\r\n",
                   "09": "hello", "10_no_length": "HTTP/1.0 200 OK\r\n\r\nhi", "bad_chunk": "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", "cut_chunk": "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab",
                   "cut_body": "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nab", "cut_head": "HTTP/1.1 200 OK\r\nx: a"}.items():
    h1(24, f"answer_{name}", get(path=raw(text, True)), "?", ["502 open", "503 open", "502 closed", "503 closed"])
# Envoy makes 34463 of 99999 and sends the client 0: not to be imitated.
for name, code in {"99999": "99999", "0": "000"}.items():
    h1(24, f"answer_status_{name}", get(path=raw(f"HTTP/1.1 {code} X\r\ncontent-length: 0\r\n\r\n", True)), "?", ["502 open", "503 open", "502 closed", "503 closed"], only=True, up={0, 1})
h1(25, "1xx_1000", get(path="/script/103"), "?", ["200 open", "502 open", "503 open"], logs=1)
h1(25, "100_1000", get(path="/script/100"), "?", ["200 open", "502 open", "503 open"], logs=1)


@scenario(26, "answer_headers_endless", ["502 open", "503 open"], ["502 closed", "503 closed"], logs=1)
async def answer_endless(bed):
    return await via_script(bed, "endless")


@scenario(26, "answer_header_endless", ["502 open", "503 open"], ["502 closed", "503 closed"], logs=1)
async def answer_endless_one(bed):
    return await via_script(bed, "endless_one")


@scenario(26, "answer_chunk_ext_endless", "200~ closed", ["502 open", "503 open", "closed"], logs=1)
async def answer_ext_endless(bed):
    return await via_script(bed, "endless_ext")


@scenario(26, "answer_trailers_endless", "200~ closed", ["502 open", "503 open", "closed"], logs=1)
async def answer_trailers_endless(bed):
    return await via_script(bed, "endless_trailers")


async def endless(writer, head, piece):
    writer.write(head)
    end = time.monotonic() + 4
    for _ in range(1600):
        writer.write(piece)
        await writer.drain()
        if writer.is_closing() or time.monotonic() > end:
            break
    return False


async def flood_1xx(writer, code):
    writer.write(b"HTTP/1.1 %d X\r\nlink: a\r\n\r\n" % code * 1000 + b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")
    await writer.drain()
    return True


SCRIPTS = {
    "endless": lambda w, _: endless(w, b"HTTP/1.1 200 OK\r\n", b"x: yyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n" * 500),
    "endless_one": lambda w, _: endless(w, b"HTTP/1.1 200 OK\r\nx: ", b"y" * 16384),
    "endless_ext": lambda w, _: endless(w, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3;", b"y" * 16384),
    "endless_trailers": lambda w, _: endless(w, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n", b"x: yyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n" * 500),
    "103": lambda w, _: flood_1xx(w, 103),
    "100": lambda w, _: flood_1xx(w, 100),
}


async def via_script(bed, name):
    conn = await bed.open("L")
    conn.send(get(path=f"/script/{name}").encode())
    await conn.wait_for(lambda: b"HTTP/1.1 5" in conn.buf, 5)
    return said(conn, ["GET"])


h1(27, "answer_extra", get(path=raw("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi" + EVIL)), "200 open", ["200 closed", "502 open"])
h1(27, "answer_extra_pipelined", get(path=raw("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi" + EVIL)) + get(path="/s/201"), "200,201 open", ["200 closed", "200,502 open"], methods=["GET", "GET"], responses=2)
h1(27, "answer_cl_zero_extra", get(path=raw("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n" + EVIL)), "200 open", ["200 closed", "502 open"])
h1(27, "answer_chunked_extra", get(path=raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n" + EVIL)), "200 open", ["200 closed", "502 open", "200~ closed"])
h1(27, "answer_before_request", post("x-be-early: 1\r\nContent-Length: 100", "abc", raw("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")), "200 closed", ["200 open"], up=0)
h1(27, "answer_twice", get(path=raw(EVIL + EVIL + EVIL)), "200 open", ["200 closed", "502 open"])
h1(28, "101_unasked", get(path=raw("HTTP/1.1 101 Switching\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n" + EVIL)) + S.replace("smuggled", "next"), "?", ["502 open", "503 open", "502,200 open", "503,200 open", "502 closed", "503 closed"], up={1, 2}, logs={1, 2})
h1(28, "101_unasked_upgrade_listener", get(path=raw("HTTP/1.1 101 Switching\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n" + EVIL)), "?", ["502 open", "503 open", "502 closed", "503 closed"], to="UP", up={1, 2})
h1(28, "101_other_protocol", "GET " + raw("HTTP/1.1 101 Switching\r\nupgrade: evil\r\nconnection: upgrade\r\n\r\n" + EVIL) + " HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", "?", ["502 open", "503 open", "502 closed", "503 closed"], to="UP", up={0, 1})

# 29-30: upgrades and CONNECT.
WS = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
h1(29, "upgrade_refused_then_smuggled", [get(WS, "/s/200"), S], "?", [*REFUSED, "200 closed", "200 open"], to="UP", up={0, 1})
h1(29, "upgrade_body_200", get(f"{WS}Content-Length: {len(S)}\r\n", "/s/200") + S, "?", [*REFUSED, "200 closed", "200 open"], to="UP", up={0, 1})
h1(29, "upgrade_chunked_200", get(f"{WS}{CH}\r\n", "/s/200") + f"{len(S):x}\r\n{S}\r\n0\r\n\r\n", "?", [*REFUSED, "200 closed", "200 open"], to="UP", up={0, 1})
h1(29, "upgrade_403_then_smuggled", [get(WS, "/s/403"), S], "?", [*REFUSED, "403 closed", "403 open"], to="UP", up={0, 1})
h1(29, "upgrade_delayed_200_then_smuggled", [get(WS, "/delay/200"), {"sleep": 0.05}, S], "?", [*REFUSED, "200 closed", "200 open"], to="UP", up={0, 1})
h1(29, "upgrade_101_early_bytes", get(WS, "/ws101") + "early", "101 open", [*REFUSED, "101 closed"], to="UP", up={0, 1}, until="early")
h1(29, "upgrade_unconfigured", get(WS) + S, "403 closed", [*REFUSED, "403 open"], up=0)
h1(29, "upgrade_two", get("Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n"), "?", [*REFUSED, "403 closed", "403 open", "200 open"], to="UP")
h1(29, "upgrade_post", post(f"{WS}Content-Length: 3", "abc" + S), "?", [*REFUSED, "200 closed", "403 closed"], to="UP", up={0, 1})
for name, text in {"plain": "CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n" + S, "cl": f"CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\nContent-Length: {len(S)}\r\n\r\n{S}", "te": f"CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n{CH}\r\n\r\n0\r\n\r\n{S}",
                   "path": "CONNECT /p HTTP/1.1\r\nHost: h:80\r\n\r\n" + S, "absolute": "CONNECT http://h:80/ HTTP/1.1\r\nHost: h:80\r\n\r\n" + S, "no_port": "CONNECT h HTTP/1.1\r\nHost: h\r\n\r\n" + S, "empty": "CONNECT  HTTP/1.1\r\nHost: h\r\n\r\n" + S,
                   "star": "CONNECT * HTTP/1.1\r\nHost: h\r\n\r\n" + S, "userinfo": "CONNECT u@h:80 HTTP/1.1\r\nHost: h\r\n\r\n" + S}.items():
    h1(30, f"connect_{name}", text, "?", [*REFUSED, "403 closed", "404 closed", "501 closed", "405 closed"], up=0, methods=["POST"])
h1(30, "connect_tunnel_cl", f"CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\nContent-Length: 5\r\n\r\nhello", "?", [*REFUSED, "501 closed"], to="CON", until="hello", linger=0.05, timeout=0.5)
h1(30, "connect_tunnel_te", f"CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n{CH}\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "501 closed", REFUSED, to="CON", methods=["POST"], up=0)
h1(30, "connect_tunnel_early", "CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n\r\nhello", "200 open", [*REFUSED], to="CON", until="hello")

# 31-33: slow, half, gone.


@scenario(31, "slowloris_header", "408 closed", ["closed"], logs={0, 1}, up=0)
async def slowloris_header(bed):
    conn = await bed.open("SLOW")
    start = time.monotonic()
    for ch in get("a: b\r\n" * 100):
        conn.send(ch.encode())
        if await conn.wait_for(lambda: False, 0.02) or conn.state != "open" or time.monotonic() - start > 3:
            break
    return said(conn, ["GET"])


@scenario(31, "slowloris_50", "408 closed", ["closed"], up=0, grow=24)
async def slowloris_50(bed):
    conns = [await bed.open("SLOW") for _ in range(50)]
    for conn in conns:
        conn.send(b"GET / HTTP/1.1\r\nHost: x\r\n")
    start = time.monotonic()
    while any(x.state == "open" for x in conns) and time.monotonic() - start < 4:
        for conn in conns:
            conn.send(b"a: b\r\n")
        await asyncio.sleep(0.05)
    return " ".join(sorted({said(x, ["GET"]) for x in conns}))


@scenario(31, "nothing_sent", "closed", logs=0, up=0)
async def nothing_sent(bed):
    conn = await bed.open("SLOW")
    await conn.wait_for(lambda: False, 3)
    return said(conn, ["GET"])


@scenario(31, "slow_body", "408 closed", ["closed"], logs=1, up=0)
async def slow_body(bed):
    conn = await bed.open("SLOW")
    conn.send(post("Content-Length: 1000").encode())
    start = time.monotonic()
    while conn.state == "open" and time.monotonic() - start < 4:
        conn.send(b"a")
        await asyncio.sleep(0.1)
    return said(conn, ["POST"])


@scenario(31, "body_stops", ["408 closed"], ["closed"], logs=1, up=0)
async def body_stops(bed):
    conn = await bed.open("SLOW")
    conn.send(post("Content-Length: 1000", "abc").encode())
    await conn.wait_for(lambda: False, 4)
    return said(conn, ["POST"])


@scenario(31, "slow_reader", "cut", logs=1, grow=24)
async def slow_reader(bed):
    """10 MB that nobody reads: bounded in memory, and the stream's idle timeout ends it."""
    conn = await bed.open("SLOW")
    conn.transport.pause_reading()
    conn.send(get(path="/big/10000000").encode())
    gone = await ended(bed, "http.SLOW.downstream_rq_active", 4)
    return "cut" if gone else "still open"


async def ended(bed, gauge, seconds):
    end = time.monotonic() + seconds
    seen = False
    while time.monotonic() < end:
        value = (await bed.active(gauge.replace(".", r"\."))).get(gauge, 0)
        seen = seen or value > 0
        if seen and not value:
            return True
        await asyncio.sleep(0.05)
    return False


h1(32, "half_close_after_request", [get(path="/delay/100"), {"eof": True}], "?", ["200 closed", "closed", "200 open"], logs=1, up={0, 1}, timeout=2.0)
h1(32, "half_close_after_body", [post("Content-Length: 3", "abc"), {"eof": True}], "?", ["200 closed", "closed", "200 open"], logs=1, up={0, 1})
h1(32, "half_close_in_body", [post("Content-Length: 9", "ab"), {"sleep": 0.05}, {"eof": True}], "?", ["400 closed", "closed"], logs=1, up=0)
h1(32, "half_close_in_chunk", [post(CH, "9\r\nab"), {"sleep": 0.05}, {"eof": True}], "?", ["400 closed", "closed"], logs=1, up=0)
h1(32, "half_close_in_head", ["GET / HTTP/1.1\r\nHo", {"sleep": 0.05}, {"eof": True}], "?", ["400 closed", "closed"], up=0)


def reset_at(name, text, up, wait=0.1):
    async def play(bed):
        conn = await bed.open("L")
        conn.send(text.encode())
        await asyncio.sleep(wait)
        conn.close(reset=True)
        end = time.monotonic() + 1
        while any(not r["done"] for r in bed.records()) and time.monotonic() < end:
            await asyncio.sleep(0.02)
        left = [r["request"] for r in bed.records() if not r["done"]]
        return f"upstream still busy with {left}" if left else "upstream told"
    CASES.append(Case(33, name, play, "upstream told", up=up, logs=1))


reset_at("rst_in_body", post("Content-Length: 100000", "abc"), 0)
reset_at("rst_in_chunk", post(CH, "ffff\r\nabc"), 0)
reset_at("rst_between_chunks", post(CH, "3\r\nabc\r\n"), 0)
reset_at("rst_in_answer", get(path="/stream/100/20"), {0, 1})
reset_at("rst_in_big_answer", get(path="/big/5000000"), {0, 1}, 0.05)
