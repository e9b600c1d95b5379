"""TLS: item 75 of the bad-input list. Hellos are made by Python's ssl, cut and changed as bytes, and the handshake goes on where it can."""
import asyncio
import os
import ssl
import struct
import subprocess
import time

from bed import Case
from difft.conn import error_text, tls_context

CASES = []
REFUSED = ["refused*", "alert:* closed", "closed"]
H1 = {"alpn": ["http/1.1"]}


def scenario(name, envoy, also=(), item=75, **options):
    def take(play):
        CASES.append(Case(item, name, play, envoy, also, **{"limit": 15, **options}))
        return play
    return take


# --- hellos
def records(data, size, kind=22):
    """Handshake bytes as TLS records of `size` bytes each."""
    return b"".join(struct.pack(">BHH", kind, 0x0301, len(data[i:i + size])) + data[i:i + size] for i in range(0, len(data), size))


def message(hello):
    """The handshake message in a hello's records."""
    out, pos = b"", 0
    while pos < len(hello):
        size = struct.unpack(">H", hello[pos + 3:pos + 5])[0]
        out += hello[pos + 5:pos + 5 + size]
        pos += 5 + size
    return out


def client_hello(spec=H1, sni="server.test", certs=None):
    """(SSLObject, in, out, hello) of a fresh client."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    obj = tls_context(spec, certs).wrap_bio(incoming, outgoing, server_hostname=sni)
    try:
        obj.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return obj, incoming, outgoing, outgoing.read()


def edited(change, version=None, **options):
    """A ClientHello whose extensions `change` ({number: bytes}, None takes one out) replaces."""
    msg = message(client_hello(**options)[3])[4:]
    pos = 34
    pos += 1 + msg[pos]
    pos += 2 + struct.unpack(">H", msg[pos:pos + 2])[0]
    pos += 1 + msg[pos]
    found, p = [], pos + 2
    while p < len(msg):
        kind, size = struct.unpack(">HH", msg[p:p + 4])
        found.append((kind, msg[p + 4:p + 4 + size]))
        p += 4 + size
    kept = [(k, change.get(k, v)) for k, v in found] + [(k, v) for k, v in change.items() if k not in dict(found)]
    ext = b"".join(struct.pack(">HH", k, len(v)) + v for k, v in kept if v is not None)
    body = (version or msg[:2]) + msg[2:pos] + struct.pack(">H", len(ext)) + ext
    return b"\x01" + len(body).to_bytes(3, "big") + body


def names(*hosts, kind=0):
    """server_name of RFC 6066."""
    entries = b"".join(struct.pack(">BH", kind, len(h)) + h for h in hosts)
    return struct.pack(">H", len(entries)) + entries


def protocols(*values):
    entries = b"".join(bytes([len(v)]) + v for v in values)
    return struct.pack(">H", len(entries)) + entries


# --- what comes back
def said(conn):
    """The first thing the server says: its hello, an alert, or nothing."""
    if len(conn.buf) >= 7 and conn.buf[0] == 21:
        word = f"alert:{conn.buf[6]} "
    elif conn.buf[:1] == b"\x16":
        word = "hello "
    else:
        word = f"{len(conn.buf)} bytes " if conn.buf else ""
    return word + ("open" if conn.state == "open" else "closed")


async def send_raw(bed, listener, *pieces, seconds=1.5):
    conn = await bed.open(listener)
    for piece in pieces:
        conn.send(piece)
        await asyncio.sleep(0)
    await conn.wait_for(lambda: len(conn.buf) > 6, seconds)
    await conn.wait_for(lambda: False, 0.3)
    return said(conn)


async def handshake(bed, listener, spec=H1, sni="server.test", cut=None, request=b"GET /s/200 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", enough=1 << 30):
    """A whole handshake and a request; `cut` turns the hello into what goes on the wire. The status, or `refused` and why."""
    conn = await bed.open(listener)
    obj, incoming, outgoing, hello = client_hello(spec, sni, bed.certs)
    for piece in cut(hello) if cut else [hello]:
        conn.send(piece)
        await asyncio.sleep(0)
    taken, done, text = 0, False, b""
    end = time.monotonic() + 4
    while time.monotonic() < end:
        try:
            if not done:
                obj.do_handshake()
                done = True
                obj.write(request)
            while len(text) < enough and (chunk := obj.read(65536)):
                text += chunk
            break
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLError, OSError) as e:
            conn.send(outgoing.read())
            return text[9:12].decode() or f"refused {error_text(e)}"
        if out := outgoing.read():
            conn.send(out)
        if not await conn.wait_for(lambda: len(conn.buf) > taken, 3):
            break
        incoming.write(bytes(conn.buf[taken:]))
        taken = len(conn.buf)
    return text[9:12].decode() or ("refused" if conn.state != "open" else "open")


def shake(name, envoy, also=(), listener="TLS", **options):
    flags = {k: options.pop(k) for k in ("spec", "sni", "cut") if k in options}
    CASES.append(Case(75, name, lambda bed: handshake(bed, listener, **flags), envoy, also, limit=10, **{"up": {0, 1}, **options}))


def raw(name, make, envoy="?", also=(), listener="TLS", **options):
    async def play(bed):
        pieces = make() if callable(make) else make
        return await send_raw(bed, listener, *(pieces if isinstance(pieces, list) else [pieces]))
    CASES.append(Case(75, name, play, envoy, [*REFUSED, *also], limit=10, **{"up": 0, "logs": {0, 1}, **options}))


for to in ("TLS", "SNI"):
    tag = to.lower()
    shake(f"hello_tcp_bytes_{tag}", "200", listener=to, cut=lambda h: [h[i:i + 1] for i in range(len(h))])
    shake(f"hello_1_byte_records_{tag}", "?", ["200", *REFUSED], listener=to, cut=lambda h: [records(message(h), 1)])
    shake(f"hello_two_records_{tag}", "?", ["200", *REFUSED], listener=to, cut=lambda h: [records(message(h), 100)])
    shake(f"hello_empty_records_{tag}", "?", ["200", *REFUSED], listener=to, cut=lambda h: [records(message(h)[:50], 50) + b"\x16\x03\x01\0\0" * 40 + records(message(h)[50:], 1000)])
    raw(f"record_17k_{tag}", b"\x16\x03\x01" + struct.pack(">H", 17408) + b"\x01" + b"a" * 17407, listener=to)
    raw(f"record_64k_{tag}", b"\x16\x03\x01\xff\xff" + b"\x01" + b"a" * 65534, listener=to)
    raw(f"handshake_16m_{tag}", lambda: [b"\x16\x03\x01\x40\x00\x01\xff\xff\xff" + b"a" * 16380, *[b"\x16\x03\x01\x40\x00" + b"a" * 16384] * 64], listener=to, grow=16)
    raw(f"plaintext_{tag}", b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n", listener=to)
    raw(f"zeros_{tag}", b"\0" * 4096, listener=to)
    raw(f"sslv2_{tag}", bytes.fromhex("802e0100020015000000100100800200800600400400800700c0") + b"\x05\0\x80" + b"a" * 16, listener=to)
    raw(f"stall_{tag}", lambda: [client_hello()[3][:60]], listener=to)
    raw(f"nothing_{tag}", [], listener=to)
    raw(f"empty_records_{tag}", b"\x16\x03\x01\0\0" * 20000, listener=to)
    raw(f"warnings_{tag}", b"\x15\x03\x01\0\x02\x01\x64" * 20000, listener=to)
    raw(f"ccs_{tag}", b"\x14\x03\x03\0\x01\x01" * 20000, listener=to)
    raw(f"heartbeat_{tag}", b"\x18\x03\x02\0\x03\x01\x40\0", listener=to)
    raw(f"data_first_{tag}", b"\x17\x03\x03\0\x05hello", listener=to)
    raw(f"hello_cut_length_{tag}", lambda: [records(message(client_hello()[3])[:-3], 16384)], listener=to)
    raw(f"hello_trailing_{tag}", lambda: [records(edited({})[:1] + (len(edited({})) + 5 - 4).to_bytes(3, "big") + edited({})[4:] + b"xxxxx", 16384)], also=["hello *"], listener=to)
    raw(f"server_hello_{tag}", lambda: [records(b"\x02" + edited({})[1:], 16384)], listener=to)
    raw(f"hello_version_ssl3_{tag}", lambda: [records(edited({43: None}, version=b"\x03\x00"), 16384)], listener=to)
    raw(f"hello_version_tls10_{tag}", lambda: [records(edited({43: None}, version=b"\x03\x01"), 16384)], listener=to)
    raw(f"hello_extension_twice_{tag}", lambda: [records(edited({0: names(b"server.test")}), 16384).replace(b"\x00\x17\x00\x00", b"\x00\x0b\x00\x00")], also=["hello *"], listener=to)
    for name, value in {"10k": names(b"a" * 10240), "nul": names(b"server.test\0.evil"), "empty": names(b""), "none_in_list": b"\0\0", "ip": names(b"127.0.0.1"), "two": names(b"server.test", b"evil.test"), "upper": names(b"SERVER.TEST"),
                        "dot": names(b"server.test."), "crlf": names(b"server.test\r\nx: y"), "8bit": names(b"\xff\xfe"), "list_length": b"\xff\xff" + names(b"server.test")[2:], "kind": names(b"server.test", kind=7), "space": names(b" "),
                        "star": names(b"*.test"), "256": names(b"a" * 256)}.items():
        raw(f"sni_{name}_{tag}", (lambda v: lambda: [records(edited({0: v}), 16384)])(value), also=["hello *"], listener=to)
    raw(f"sni_absent_{tag}", lambda: [records(edited({0: None}), 16384)], also=["hello *"], listener=to)
    for name, value in {"junk": protocols(b"\xff\0\x01"), "unknown": protocols(b"foo"), "empty_name": protocols(b""), "empty_list": b"\0\0", "list_length": b"\xff\xff\x02h2", "1000": protocols(*[b"p%d" % i for i in range(1000)]),
                        "60k": protocols(*[b"x" * 255] * 235), "nul": protocols(b"h2\0"), "http09": protocols(b"http/0.9")}.items():
        raw(f"alpn_{name}_{tag}", (lambda v: lambda: [records(edited({16: v}), 16384)])(value), also=["hello *"], listener=to)

shake("good", "200")
shake("no_alpn", "200", spec={})
shake("alpn_unknown_goes_on", "?", ["200", *REFUSED], spec={"alpn": ["foo"]})
shake("no_sni", "200", sni=None)
shake("no_sni_no_chain", "?", REFUSED, listener="SNI", sni=None, up=0)
shake("other_sni_no_chain", "?", REFUSED, listener="SNI", sni="evil.test", up=0)
shake("tls12", "200", spec={**H1, "max": "1.2"})

# Client certificates; the listener wants exactly spiffe://cluster.local/ns/default/sa/client.
shake("cert_good", "200", listener="MTLS", spec={**H1, "cert": "client"})
for name in ["expired", "selfsigned", "wrongeku", "foreign", "nosan", "dnssan", "nulsan", "nuldomain", "crlfsan", "manysans", "strange", "looped", "other", "server"]:
    for version in ("1.3", "1.2"):
        shake(f"cert_{name}_{version}", "?", REFUSED, listener="MTLS", spec={**H1, "cert": name, **({"max": "1.2"} if version == "1.2" else {})}, up=0, logs=0)
shake("cert_none_1.3", "?", REFUSED, listener="MTLS", up=0, logs=0)
shake("cert_none_1.2", "?", REFUSED, listener="MTLS", spec={**H1, "max": "1.2"}, up=0, logs=0)


@scenario("handshakes_cut", "served", up=0, logs=0, grow=32)
async def handshakes_cut(bed):
    """300 handshakes that end with RST after the hello, in the middle of it, or when the answer comes."""
    for i in range(300):
        conn = await bed.open("MTLS")
        hello = client_hello()[3]
        conn.send(hello[:len(hello) // 2] if i % 3 == 0 else hello)
        await (conn.wait_for(lambda: conn.buf, 1) if i % 3 == 1 else asyncio.sleep(0))
        conn.close(reset=True)
    return "served"


@scenario("handshakes_stalled", "closed", up=0, logs=0, grow=48)
async def handshakes_stalled(bed):
    """200 half hellos at a time: all of them closed by the time-out of the handshake (1 s)."""
    conns = [await bed.open("TLS") for _ in range(200)]
    for conn in conns:
        conn.send(client_hello()[3][:100])
    end = time.monotonic() + 4
    while any(x.state == "open" for x in conns) and time.monotonic() < end:
        await asyncio.sleep(0.05)
    return "closed" if all(x.state != "open" for x in conns) else f"{sum(x.state == 'open' for x in conns)} open"


async def s_client(bed, listener, args, text, seconds=4.0):
    """openssl s_client with commands on its standard input (R renegotiates, K updates keys)."""
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{bed.names[listener]}", "-servername", "server.test", "-alpn", "http/1.1", *args]
    child = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        for part in text:
            child.stdin.write(part)
            await child.stdin.drain()
            await asyncio.sleep(0.15)
        return (await asyncio.wait_for(child.communicate(), seconds))[0]
    except (asyncio.TimeoutError, ConnectionError):
        return b"timeout"
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


GET = b"GET /s/200 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@scenario("renegotiation", "?", ["refused"], up=0)
async def renegotiation(bed):
    out = await s_client(bed, "TLS", ["-tls1_2"], [b"R\n", GET])
    return "answered" if b"HTTP/1.1 200" in out else "refused"


@scenario("early_data", "early data refused", up={0, 1, 2})
async def early_data(bed):
    """0-RTT: a replayable request must not be taken as early data (Envoy offers none)."""
    session, early = bed.work / "session", bed.work / "early"
    early.write_bytes(b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n")
    await s_client(bed, "TLS", ["-tls1_3", "-sess_out", str(session)], [GET])
    if not session.exists():
        return "no session"
    out = await s_client(bed, "TLS", ["-tls1_3", "-sess_in", str(session), "-early_data", str(early)], [GET])
    return "EARLY DATA TAKEN" if b"Early data was accepted" in out else "early data refused"


CASES[-1].also = ["no session"]


@scenario("key_updates", "?", ["answered", "refused"], up={0, 1}, grow=16)
async def key_updates(bed):
    out = await s_client(bed, "TLS", ["-tls1_3"], [b"K\n"] * 5 + [GET])
    return "answered" if b"HTTP/1.1 200" in out else "refused"


@scenario("garbage_after_handshake", "?", REFUSED, up=0, logs={0, 1})
async def garbage_after(bed):
    """A record that no key opens, after a good handshake."""
    conn = await bed.open("TLS")
    obj, incoming, outgoing, hello = client_hello(H1, "server.test", bed.certs)
    conn.send(hello)
    await conn.wait_for(lambda: len(conn.buf) > 1000, 2)
    incoming.write(bytes(conn.buf))
    try:
        obj.do_handshake()
    except ssl.SSLError as e:
        return f"no handshake: {error_text(e)}"
    conn.send(outgoing.read() + b"\x17\x03\x03\x01\x00" + os.urandom(256))
    await conn.wait_for(lambda: False, 2)
    return "open" if conn.state == "open" else "closed"
