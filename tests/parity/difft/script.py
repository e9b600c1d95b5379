"""The scripted behaviour that a request names in its path (or in `x-be:`), shared by the h1 and h2 backends."""
import base64


def b64(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class Action:
    """One answer: what to wait for, what to send, how to end."""

    def __init__(self, status=200, body=b"ok\n", headers=(), delay=0.0, body_delay=0.0, kind="reply", raw=b"", close=False, length=None):
        self.status, self.body, self.headers = status, body, list(headers)
        self.delay, self.body_delay = delay, body_delay
        self.kind = kind  # reply | close | rst | raw | echo | upgrade | stream | goaway
        self.raw, self.close, self.length = raw, close, length


def _item(item):
    """One element of /seq: 503, rst, close, d600, 200:retry-after=1."""
    head, *pairs = item.split(":")
    headers = [pair.split("=", 1) for pair in pairs]
    if head in ("rst", "close", "goaway"):
        return Action(kind=head)
    if head.startswith("d"):
        return Action(delay=int(head[1:]) / 1000, body=b"late\n", headers=headers)
    return Action(int(head), f"s{head}".encode(), headers)


def parse(path, counters):
    """The Action for a path; unknown paths answer 200 "ok". counters counts the hits of /seq keys."""
    path = path.partition("?")[0]
    parts = path.split("/")[1:]
    word = parts[0] if parts else ""
    try:
        match word:
            case "s":
                return Action(int(parts[1]), f"s{parts[1]}".encode(), [p.split("=", 1) for p in parts[2:] if "=" in p])
            case "delay":
                return Action(delay=int(parts[1]) / 1000, body=b"late\n")
            case "hdrdelay":
                return Action(body_delay=int(parts[1]) / 1000, body=b"late\n")
            case "stream":
                return Action(kind="stream", length=int(parts[1]), body_delay=int(parts[2]) / 1000)
            case "close" | "rst" | "goaway":
                return Action(kind=word)
            case "partial":
                return Action(body=b"12345", length=10, close=True)
            case "raw":
                return Action(kind="raw", raw=b64(parts[1]), close=parts[2:3] == ["close"])
            case "seq":
                items = parts[2].split(",")
                hit = counters.get(parts[1], 0)
                counters[parts[1]] = hit + 1
                return _item(items[min(hit, len(items) - 1)])
            case "big":
                return Action(body=b"x" * int(parts[1]))
            case "echo":
                return Action(kind="echo")
            case "hdr":  # /hdr/name=value/name=value: 200 with those headers
                return Action(headers=[p.split("=", 1) for p in parts[1:]])
            case "ws101":
                return Action(kind="upgrade")
    except (IndexError, ValueError):
        return Action(500, b"bad script\n")
    return Action()
