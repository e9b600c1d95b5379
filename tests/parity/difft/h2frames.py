"""HTTP/2 frames by hand: a builder for (also illegal) frames with literal HPACK, and a reader of the peer's."""
import struct

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 0x1
END_HEADERS, PADDED = 0x4, 0x8
SETTING_IDS = {"header_table_size": 1, "enable_push": 2, "max_concurrent_streams": 3, "initial_window_size": 4,
               "max_frame_size": 5, "max_header_list_size": 6, "enable_connect_protocol": 8}
SETTING_NAMES = {v: k for k, v in SETTING_IDS.items()}


def latin(value):
    return value if isinstance(value, bytes) else str(value).encode("latin-1")


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream & 0x7FFFFFFF) + payload


def integer(value, prefix_bits, first=0):
    """RFC 7541 5.1."""
    limit = (1 << prefix_bits) - 1
    if value < limit:
        return bytes([first | value])
    out = bytearray([first | limit])
    value -= limit
    while value >= 128:
        out.append(value % 128 + 128)
        value //= 128
    out.append(value)
    return bytes(out)


def literal(name, value):
    """RFC 7541 6.2.2: literal without indexing, new name, no Huffman – any bytes go through as they are."""
    name, value = latin(name), latin(value)
    return b"\x00" + integer(len(name), 7) + name + integer(len(value), 7) + value


def block(fields):
    return b"".join(literal(n, v) for n, v in fields)


def settings(values=None, ack=False):
    payload = b""
    for key, value in (values or {}).items():
        ident = SETTING_IDS[key] if key in SETTING_IDS else int(key)
        payload += struct.pack(">HI", ident, value)
    return frame(SETTINGS, ACK if ack else 0, 0, payload)


def headers(stream, fields, end_stream=False, end_headers=True):
    flags = (END_STREAM if end_stream else 0) | (END_HEADERS if end_headers else 0)
    return frame(HEADERS, flags, stream, block(fields))


def big_headers(stream, fields, end_stream=False, chunk=16384):
    """HEADERS plus as many CONTINUATION frames as the block needs."""
    data = block(fields)
    parts = [data[i:i + chunk] for i in range(0, len(data), chunk)] or [b""]
    out = b""
    for i, part in enumerate(parts):
        last = END_HEADERS if i == len(parts) - 1 else 0
        if i == 0:
            out += frame(HEADERS, last | (END_STREAM if end_stream else 0), stream, part)
        else:
            out += frame(CONTINUATION, last, stream, part)
    return out


def split_frames(buf):
    """Whole frames at the start of buf -> ([(kind, flags, stream, payload)], bytes used)."""
    out, pos = [], 0
    while len(buf) - pos >= 9:
        size = int.from_bytes(buf[pos:pos + 3], "big")
        if len(buf) - pos - 9 < size:
            break
        kind, flags, stream = struct.unpack(">BBI", bytes(buf[pos + 3:pos + 9]))
        out.append((kind, flags, stream & 0x7FFFFFFF, bytes(buf[pos + 9:pos + 9 + size])))
        pos += 9 + size
    return out, pos


class Reader:
    """The peer's frames turned into per-stream and per-connection facts."""

    def __init__(self, auto_window=True):
        self.auto_window = auto_window
        self.decoder = hpack.Decoder(max_header_list_size=1 << 22)
        self.used = 0
        self.streams = {}
        self.settings = None
        self.settings_acks = self.pings = self.ping_acks = 0
        self.goaway = []
        self.conn_window = 0
        self.error = None
        self._open_block = None

    def stream(self, sid):
        return self.streams.setdefault(sid, {"headers": None, "interim": [], "body": b"", "trailers": None, "end": "open"})

    def feed(self, buf):
        """Consume whole frames from the connection's buffer; returns the automatic answers to send."""
        frames, used = split_frames(memoryview(bytes(buf[self.used:])))
        self.used += used
        reply = b""
        for kind, flags, sid, payload in frames:
            reply += self._one(kind, flags, sid, payload)
        return reply

    def _one(self, kind, flags, sid, payload):
        if kind == SETTINGS:
            if flags & ACK:
                self.settings_acks += 1
                return b""
            pairs = [struct.unpack(">HI", payload[i:i + 6]) for i in range(0, len(payload) - 5, 6)]
            if self.settings is None:
                self.settings = {SETTING_NAMES.get(k, str(k)): v for k, v in pairs}
            return settings(ack=True)
        if kind == PING:
            if flags & ACK:
                self.ping_acks += 1
                return b""
            self.pings += 1
            return frame(PING, ACK, 0, payload)
        if kind == GOAWAY:
            last, code = struct.unpack(">II", payload[:8])
            self.goaway.append([last & 0x7FFFFFFF, code])
        elif kind == WINDOW_UPDATE and sid == 0:
            if self.conn_window == 0:
                self.conn_window = struct.unpack(">I", payload)[0]
        elif kind == RST:
            st = self.stream(sid)
            st["end"] = f"rst:{struct.unpack('>I', payload)[0]}" if st["end"] == "open" else st["end"] + f"+rst:{struct.unpack('>I', payload)[0]}"
        elif kind == DATA:
            st = self.stream(sid)
            if flags & PADDED:
                payload = payload[1:len(payload) - payload[0]]
            st["body"] += payload
            if flags & END_STREAM:
                st["end"] = "fin"
            if payload and self.auto_window:
                grant = struct.pack(">I", len(payload))
                more = b"" if flags & END_STREAM else frame(WINDOW_UPDATE, 0, sid, grant)
                return frame(WINDOW_UPDATE, 0, 0, grant) + more
        elif kind == HEADERS:
            if flags & 0x20:
                payload = payload[5:]
            self._open_block = [sid, flags, payload]
            if flags & END_HEADERS:
                self._block()
        elif kind == CONTINUATION and self._open_block:
            self._open_block[2] += payload
            if flags & END_HEADERS:
                self._block()
        return b""

    def _block(self):
        sid, flags, payload = self._open_block
        self._open_block = None
        try:
            fields = [[n.decode("latin-1"), v.decode("latin-1")] for n, v in self.decoder.decode(payload, raw=True)]
        except hpack.HPACKError as exc:
            self.error = f"hpack:{type(exc).__name__}"
            return
        st = self.stream(sid)
        status = next((v for n, v in fields if n == ":status"), None)
        if status and status.startswith("1"):
            st["interim"].append(fields)
        elif st["headers"] is None:
            st["headers"] = fields
        else:
            st["trailers"] = fields
        if flags & END_STREAM:
            st["end"] = "fin"
