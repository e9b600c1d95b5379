"""A TCP/TLS client connection that keeps every byte and tells FIN from RST.

asyncio's StreamReader throws buffered data away when a RST follows it; here the data stays readable.
"""
import asyncio
import itertools
import os
import socket
import ssl
import struct


# Client ports come from a block of their own and each is used once: the kernel would soon give the same port to
# another step, and the access-log line could not be told from that step's.
FIRST_CLIENT, LAST_CLIENT = 12000, 19999
_clients = itertools.cycle(range(FIRST_CLIENT, LAST_CLIENT + 1))
for _ in range(os.getpid() * 37 % (LAST_CLIENT - FIRST_CLIENT)):
    next(_clients)


def client_socket():
    """A socket bound to the next free client port."""
    for _ in range(LAST_CLIENT - FIRST_CLIENT):
        sock = socket.socket()
        sock.setblocking(False)
        try:
            sock.bind(("127.0.0.1", next(_clients)))
            return sock
        except OSError:
            sock.close()
    raise OSError("no free client port in the block of the run")


class Conn(asyncio.Protocol):
    def __init__(self):
        self.buf = bytearray()
        self.state = "open"  # open | fin | rst
        self.error = None
        self.transport = None
        self._news = asyncio.Event()

    def connection_made(self, transport):
        self.transport = transport
        self.local_port = transport.get_extra_info("sockname")[1]
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data):
        self.buf += data
        self._news.set()

    def eof_received(self):
        if self.state == "open":
            self.state = "fin"
        self._news.set()
        # Keep our half open, the step decides when to close; TLS has no half-open state.
        return self.transport.get_extra_info("ssl_object") is None

    def connection_lost(self, exc):
        if self.state == "open":
            self.state = "rst" if isinstance(exc, (ConnectionResetError, BrokenPipeError)) else "fin"
        if exc is not None:
            self.error = exc
            if isinstance(exc, ConnectionResetError):
                self.state = "rst"
        self._news.set()

    def send(self, data):
        if not self.transport.is_closing():
            self.transport.write(data)

    def half_close(self):
        if self.transport.can_write_eof():
            self.transport.write_eof()

    async def wait_for(self, predicate, timeout):
        """True as soon as predicate() holds; False when time is up or the peer has closed without it."""
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        while True:
            if predicate():
                return True
            if self.state != "open":
                return False
            left = end - loop.time()
            if left <= 0:
                return False
            self._news.clear()
            try:
                await asyncio.wait_for(self._news.wait(), left)
            except asyncio.TimeoutError:
                return bool(predicate())

    def close(self, reset=False):
        if self.transport is None:
            return
        if reset:
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()
        else:
            self.transport.close()


def tls_context(spec, certs):
    """Client context of a step's `tls: {sni, alpn, cert, max, ca}`; the peer is not verified unless `ca` is given."""
    ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ctx.check_hostname = False
    ctx.verify_mode = ssl.CERT_NONE
    if spec.get("alpn"):
        ctx.set_alpn_protocols(list(spec["alpn"]))
    if spec.get("cert"):
        ctx.load_cert_chain(f"{certs}/{spec['cert']}.pem", f"{certs}/{spec['cert']}.key")
    if spec.get("max") == "1.2":
        ctx.maximum_version = ssl.TLSVersion.TLSv1_2
    if spec.get("ciphers"):
        ctx.set_ciphers(spec["ciphers"])
    return ctx


async def connect(port, tls=None, certs=None, timeout=3.0):
    """Open a loopback connection; a TLS failure is returned as a closed Conn with .error set."""
    loop = asyncio.get_running_loop()
    sock = client_socket()
    try:
        await asyncio.wait_for(loop.sock_connect(sock, ("127.0.0.1", port)), timeout)
    except (OSError, asyncio.TimeoutError) as exc:
        sock.close()
        conn = Conn()
        conn.local_port, conn.state, conn.error = 0, "refused", exc
        return conn
    local = sock.getsockname()[1]
    kwargs = {}
    if tls is not None:
        kwargs = {"ssl": tls_context(tls, certs), "server_hostname": tls.get("sni") or "", "ssl_handshake_timeout": timeout}
    conn = Conn()
    try:
        await loop.create_connection(lambda: conn, sock=sock, **kwargs)
    except (OSError, ssl.SSLError, ConnectionError) as exc:
        conn.state, conn.error, conn.local_port = "tls-failed", exc, local
    return conn


def error_text(exc):
    """A short, stable name of a connection error (OpenSSL's reason, or the class)."""
    if exc is None:
        return None
    if isinstance(exc, ssl.SSLError) and exc.reason:
        return exc.reason
    return type(exc).__name__
