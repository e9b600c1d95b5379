"""HTTP/2 over any stream of bytes, both sides, with threads: the mesh around a waypoint. A stream of HTTP/2 is itself a stream of bytes (`sendall`,
`recv`, `close_write`), so a tunnel carries HTTP/1, HTTP/2 or anything else as a socket does."""
import hashlib
import pathlib
import queue
import socket
import ssl
import struct
import sys
import threading

import hpack

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "parity"))
from difft import h2frames as f

PATIENCE = 10  # seconds for anything that is to happen at once
WINDOW = 1 << 20


class Gone(Exception):
    """The other side ended a stream or connection by force; the text says how."""


class Socket:
    """A socket as a stream of bytes."""

    def __init__(self, sock):
        self.sock = sock
        sock.settimeout(PATIENCE)

    def sendall(self, data):
        try:
            self.sock.sendall(data)
        except OSError as e:
            raise Gone("closed") from e

    def recv(self, n=65536):
        try:
            return self.sock.recv(n)
        except TimeoutError as e:
            raise Gone("silence") from e
        except OSError as e:
            raise Gone("closed") from e

    def close_write(self):
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError as e:
            raise Gone("closed") from e

    def close(self):
        self.sock.close()


class Tls:
    """TLS over a socket as a stream of bytes. Python's own TLS sockets may not be read and written at the same time."""

    def __init__(self, sock, context, server):
        self.raw, self.lock = Socket(sock), threading.Lock()
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=server)
        while True:
            try:
                self.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.flush()
                if not self.feed():
                    raise Gone("closed in the handshake") from None
            except ssl.SSLError as e:
                raise Gone("handshake failed") from e
        self.flush()

    def feed(self):
        data = self.raw.recv()
        with self.lock:
            self.incoming.write(data)
        return data

    def flush(self):
        if data := self.outgoing.read():
            self.raw.sendall(data)

    def sendall(self, data):
        with self.lock:
            self.tls.write(data)
            self.flush()

    def recv(self, n=65536):
        while True:
            try:
                with self.lock:
                    return self.tls.read(n)
            except ssl.SSLWantReadError:
                if not self.feed():
                    return b""
            except ssl.SSLZeroReturnError:
                return b""
            except ssl.SSLError as e:
                raise Gone("closed") from e

    def close(self):
        self.raw.close()


class Stream:
    """One stream of a connection."""

    def __init__(self, connection, number):
        self.connection, self.number = connection, number
        self.heads, self.data = queue.Queue(), queue.Queue()
        self.trailers, self.window, self.rest, self.ended, self.failure = None, connection.initial_window, b"", False, None

    def head(self):
        """The next block of header fields; raises Gone where the stream ends without."""
        try:
            fields = self.heads.get(timeout=PATIENCE)
        except queue.Empty as e:
            raise Gone("silence") from e
        if isinstance(fields, Gone):
            raise fields
        return fields

    def send_head(self, fields, end=False):
        self.connection.write(f.headers(self.number, fields, end))

    def sendall(self, data):
        while data:
            data = data[self.connection.send_data(self, data):]

    def recv(self, n=65536):
        """Some bytes, or none at the end."""
        if not self.rest and not self.ended:
            try:
                piece = self.data.get(timeout=PATIENCE)
            except queue.Empty as e:
                raise Gone("silence") from e
            if isinstance(piece, Gone):
                self.ended, self.failure = True, piece
            elif piece is None:
                self.ended = True
            else:
                self.rest = piece
        if self.failure and not self.rest:
            raise self.failure
        out, self.rest = self.rest[:n], self.rest[n:]
        return out

    def close_write(self):
        self.connection.write(f.frame(f.DATA, f.END_STREAM, self.number))

    def reset(self, code=8):
        self.connection.write(f.frame(f.RST, 0, self.number, struct.pack(">I", code)))

    def close(self):
        if not self.ended:
            self.reset()


class Connection:
    """One HTTP/2 connection over a stream of bytes; `accept` is called with each stream that the other side opens."""

    def __init__(self, pipe, accept=None):
        self.pipe, self.accept = pipe, accept
        self.lock, self.room = threading.Lock(), threading.Condition()
        self.streams, self.next, self.window, self.initial_window, self.gone = {}, 1, 65535, 65535, None
        self.decoder = hpack.Decoder(max_header_list_size=1 << 20)
        ours = f.settings({"initial_window_size": WINDOW, "max_concurrent_streams": 1000}) + f.frame(f.WINDOW_UPDATE, 0, 0, struct.pack(">I", WINDOW))
        self.write((b"" if accept else f.PREFACE) + ours)

    def start(self, first=b""):
        threading.Thread(target=self.read, args=(first,), daemon=True).start()
        return self

    def open(self, fields, end=False):
        with self.lock:
            number, self.next = self.next, self.next + 2
            stream = self.streams[number] = Stream(self, number)
            self.pipe.sendall(f.headers(number, fields, end))
        return stream

    def write(self, data):
        with self.lock:
            self.pipe.sendall(data)

    def send_data(self, stream, data):
        with self.room:
            if not self.room.wait_for(lambda: min(self.window, stream.window) > 0 or self.gone or stream.failure, PATIENCE):
                raise Gone("no room")
            if self.gone or stream.failure:
                raise self.gone or stream.failure
            n = min(self.window, stream.window, len(data), 16384)
            self.window -= n
            stream.window -= n
        self.write(f.frame(f.DATA, 0, stream.number, data[:n]))
        return n

    def read(self, buffer):
        preface = self.accept is not None
        try:
            while True:
                if preface and len(buffer) >= len(f.PREFACE):
                    buffer, preface = buffer[len(f.PREFACE):], False
                if not preface:
                    frames, used = f.split_frames(buffer)
                    buffer = buffer[used:]
                    for one in frames:
                        self.frame(*one)
                data = self.pipe.recv()
                if not data:
                    return self.end(Gone("closed"))
                buffer += data
        except Gone as e:
            self.end(e)

    def end(self, why):
        with self.room:
            self.gone = why
            self.room.notify_all()
        for s in list(self.streams.values()):
            s.heads.put(why)
            s.data.put(why)

    def frame(self, kind, flags, number, payload):
        stream = self.streams.get(number)
        if kind == f.SETTINGS and not flags & f.ACK:
            for i in range(0, len(payload), 6):
                key, value = struct.unpack(">HI", payload[i:i + 6])
                if key == 4:
                    with self.room:
                        for s in self.streams.values():
                            s.window += value - self.initial_window
                        self.initial_window = value
                        self.room.notify_all()
            self.write(f.settings(ack=True))
        elif kind == f.PING and not flags & f.ACK:
            self.write(f.frame(f.PING, f.ACK, 0, payload))
        elif kind == f.WINDOW_UPDATE:
            with self.room:
                n = struct.unpack(">I", payload)[0]
                if number == 0:
                    self.window += n
                elif stream:
                    stream.window += n
                self.room.notify_all()
        elif kind == f.HEADERS:
            assert flags & f.END_HEADERS, "no CONTINUATION is expected"
            if flags & 0x20:
                payload = payload[5:]
            fields = [(n, v) for n, v in self.decoder.decode(payload)]
            if stream is None:
                stream = self.streams[number] = Stream(self, number)
                threading.Thread(target=self.accepted, args=(stream,), daemon=True).start()
            if fields and fields[0][0].startswith(":"):
                stream.heads.put(fields)
            else:
                stream.trailers = fields
            if flags & f.END_STREAM:
                stream.data.put(None)
        elif kind == f.DATA and stream:
            if payload:
                stream.data.put(payload)
                grant = struct.pack(">I", len(payload))
                self.write(f.frame(f.WINDOW_UPDATE, 0, 0, grant) + (b"" if flags & f.END_STREAM else f.frame(f.WINDOW_UPDATE, 0, number, grant)))
            if flags & f.END_STREAM:
                stream.data.put(None)
        elif kind == f.RST and stream:
            why = Gone(f"reset {struct.unpack('>I', payload)[0]}")
            with self.room:
                stream.failure = stream.failure or why
                self.room.notify_all()
            stream.heads.put(why)
            stream.data.put(why)

    def accepted(self, stream):
        try:
            self.accept(stream)
        except Gone:
            pass  # the peer broke off; what it saw is compared there


def read_all(pipe):
    """Everything to the end."""
    out = b""
    while data := pipe.recv():
        out += data
    return out


class Reader:
    """Reads HTTP/1.1 messages from a stream of bytes."""

    def __init__(self, pipe, first=b""):
        self.pipe, self.buffer = pipe, first

    def more(self):
        data = self.pipe.recv()
        if not data:
            raise Gone("closed")
        self.buffer += data

    def exactly(self, n):
        while len(self.buffer) < n:
            self.more()
        out, self.buffer = self.buffer[:n], self.buffer[n:]
        return out

    def line(self, mark=b"\r\n"):
        while mark not in self.buffer:
            self.more()
        out, self.buffer = self.buffer.split(mark, 1)
        return out

    def head(self):
        first, *lines = self.line(b"\r\n\r\n").decode("latin-1").split("\r\n")
        return first, [(n.lower(), v.strip()) for n, v in (l.split(":", 1) for l in lines)]

    def body(self, headers, request, bodiless=False):
        headers = dict(headers)
        if bodiless:
            return b""
        if headers.get("transfer-encoding") == "chunked":
            out = b""
            while n := int(self.line(), 16):
                out += self.exactly(n)
                self.exactly(2)
            self.exactly(2)
            return out
        if "content-length" in headers:
            return self.exactly(int(headers["content-length"]))
        if request:
            return b""
        out, self.buffer = self.buffer, b""
        return out + read_all(self.pipe)


def digest(body):
    return body.decode("latin-1") if len(body) < 400 else f"{len(body)} bytes {hashlib.sha256(body).hexdigest()[:16]}"


# The destinations: what captured and plain pods do. What reaches them is noted in `seen`.

class Destinations:
    def __init__(self, certs):
        self.seen, self.lock = [], threading.Lock()
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(certs / "server.pem", certs / "server.key")
        self.tls.load_verify_locations(certs / "ca.pem")
        self.tls.verify_mode = ssl.CERT_REQUIRED
        self.tls.set_alpn_protocols(["h2"])

    def note(self, *what):
        with self.lock:
            self.seen.append(what)

    def taken(self):
        with self.lock:
            out, self.seen = self.seen, []
            return out

    def listen(self, address, handle):
        host, port = address.rsplit(":", 1)
        server = socket.socket()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        server.bind((host, int(port)))
        server.listen(64)

        def accept():
            while True:
                sock, _ = server.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=handle, args=(sock, address), daemon=True).start()
        threading.Thread(target=accept, daemon=True).start()

    def captured(self, sock, address):
        """HBONE: mutual TLS, HTTP/2, CONNECT."""
        try:
            pipe = Tls(sock, self.tls, True)
        except Gone:
            return
        sock.settimeout(None)

        def tunnel(stream):
            # Shown with what comes through it: whether a tunnel is made or used again is the proxy's affair.
            fields = stream.head()
            stream.send_head([(":status", "200")])
            self.inner(stream, f"{address} through " + ", ".join(f"{n}: {v}" for n, v in sorted(fields)))
        Connection(pipe, tunnel).read(b"")

    def plain(self, sock, address):
        pipe = Socket(sock)
        sock.settimeout(None)
        try:
            self.inner(pipe, address)
        except Gone:
            pass

    def inner(self, pipe, address):
        """HTTP/1.1, HTTP/2 with prior knowledge, or other bytes, which are echoed; a tunnel may carry any."""
        first = pipe.recv()
        if first.startswith(b"PRI "):
            Connection(pipe, lambda s: self.http2(s, address)).read(first)
        elif b" HTTP/1.1\r\n" in first:
            reader = Reader(pipe, first)
            while self.http1(reader, pipe, address):
                pass
            pipe.close()
        else:
            total = 0
            while first:
                total += len(first)
                if not first.startswith(b"quiet"):
                    pipe.sendall(b"echo:" + first)
                first = pipe.recv()
            self.note("bytes at", address, total)
            pipe.sendall(b"|bye")
            pipe.close_write()

    def http1(self, reader, pipe, address):
        try:
            line, headers = reader.head()
        except Gone:
            return False
        method, path, _ = line.split(" ")
        if path == "/ws":
            self.note("request at", address, line, headers)
            pipe.sendall(b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: x\r\n\r\n")
            data = reader.buffer or pipe.recv()
            while data:
                pipe.sendall(b"ws:" + data)
                data = pipe.recv()
            return False
        body = reader.body(headers, True)
        self.note("request at", address, line, headers, digest(body))
        kind, _, argument = path[1:].partition("?")[0].partition("/")
        reply = lambda status, body, *more: "".join([f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n", *(m + "\r\n" for m in more), "\r\n"]).encode() + (b"" if method == "HEAD" else body)
        if kind == "status":
            pipe.sendall(reply(f"{argument} Whatever", b"status", "x-envoy-secret: 1"))
        elif kind == "big":
            pipe.sendall(reply("200 OK", b"0123456789abcdef" * (int(argument) // 16)))
        elif kind == "chunked":
            pipe.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n")
        elif kind == "cut":
            pipe.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this")
            return False
        elif kind == "close":
            return False
        else:
            pipe.sendall(reply("200 OK", b"hello " + digest(body).encode(), "server: destination", "x-one: 1", "x-one: 2", "set-cookie: a=b"))
        return True

    def http2(self, stream, address):
        fields = stream.head()
        path = dict(fields)[":path"]
        grpc = [(":status", "200"), ("content-type", "application/grpc")]
        message = lambda text: b"\0" + struct.pack(">I", len(text)) + text
        if path == "/svc/Chat":
            self.note("request at", address, fields)
            stream.send_head(grpc)
            while data := stream.recv():
                stream.sendall(data)
            return stream.send_head([("grpc-status", "0")], True)
        body = read_all(stream)
        self.note("request at", address, fields, digest(body), stream.trailers)
        if path == "/svc/Unary":
            stream.send_head(grpc)
            stream.sendall(message(b"one"))
            stream.send_head([("grpc-status", "0"), ("x-trailer", "t")], True)
        elif path == "/svc/Stream":
            stream.send_head(grpc)
            for text in (b"one", b"two", b"three" * 10000):
                stream.sendall(message(text))
            stream.send_head([("grpc-status", "0")], True)
        elif path == "/svc/Late":
            stream.send_head(grpc)
            stream.sendall(message(b"one"))
            stream.send_head([("grpc-status", "7"), ("grpc-message", "no more")], True)
        elif path == "/svc/Error":
            stream.send_head(grpc + [("grpc-status", "5"), ("grpc-message", "not found")], True)
        elif path == "/svc/Reset":
            stream.reset(2)
        else:
            stream.send_head([(":status", "200"), ("x-one", "1")])
            stream.sendall(b"hello " + digest(body).encode())
            stream.close_write()
