"""A control plane under the command of a test: ADS and SDS, incremental and state of the world, over TCP or a Unix socket.

It holds resources by type and name. A request is answered with what it newly wants and is there (`held` types are not answered); after that
nothing is sent until `push`. Every request and response is kept, in order, so that a test can say what the conversation was to be."""
import concurrent.futures
import queue
import threading
import time

import grpc

from proto import SHORT, Request, Resource, response, url

PATIENCE = 10  # seconds for anything that is to happen at once
METHODS = {
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources": ("ads", "delta"),
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources": ("ads", "sotw"),
    "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets": ("sds", "delta"),
    "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets": ("sds", "sotw"),
}
WHOLE = ("cds", "lds", "scoped", "vhds")  # without names these mean everything


class Late(Exception):
    """What was waited for did not come."""


class Sent:
    """A response on a stream."""

    def __init__(self, stream, kind, nonce, version, names, removed):
        self.stream, self.type, self.nonce, self.version, self.names, self.removed = stream, kind, nonce, version, names, removed

    def __repr__(self):
        return f"sent {self.type} {self.nonce}: {','.join(self.names)}" + (f" removed {','.join(self.removed)}" if self.removed else "")


class Want:
    """What a stream wants of a type, and what it has."""

    def __init__(self):
        self.everything, self.names, self.has, self.answered = False, set(), {}, False


class Stream:
    """One stream of a client. `log` is the conversation; `asked` its requests alone."""

    def __init__(self, plane, number, service, dialect):
        self.plane, self.number, self.service, self.dialect = plane, number, service, dialect
        self.log, self.wants, self.out, self.open, self.since = [], {}, queue.SimpleQueue(), True, time.monotonic()

    @property
    def asked(self):
        return [x for x in self.log if isinstance(x, Request)]

    def want(self, kind):
        return self.wants.setdefault(kind, Want())

    def send(self, kind, resources, removed=(), nonce=None, version=None):
        """One response with exactly these resources."""
        nonce = self.plane.next_nonce(kind) if nonce is None else nonce
        version = self.plane.version(kind) if version is None else version
        sent = Sent(self, kind, nonce, version, [r.name for r in resources], list(removed))
        self.log.append(sent)
        self.out.put(response(self.dialect, url(kind), nonce, version, resources, removed))
        return sent

    def raw(self, data):
        """Any bytes in the place of a response."""
        self.out.put(data)

    def cut(self, code=grpc.StatusCode.UNAVAILABLE, detail="cut by the test"):
        """Ends the stream with a status; `OK` ends it in order."""
        self.out.put((code, detail))


class Plane:
    """The control plane at `address`: host:port or unix:/path."""

    def __init__(self, address, wire=None, honour_versions=True):
        self.address, self.wire, self.honour_versions = address, wire, honour_versions
        self.lock = threading.Condition(threading.RLock())
        self.streams, self.resources, self.held, self.counter, self.versions, self.server = [], {}, set(), 0, {}, None
        self.refuse = None  # a (code, detail): new streams end with it

    # Life.

    def start(self):
        options = [("grpc.so_reuseport", 0), ("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1), ("grpc.http2.max_ping_strikes", 0)]
        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(64), options=options)
        self.server.add_generic_rpc_handlers((Handlers(self),))
        if not self.server.add_insecure_port(self.address):
            raise SystemExit(f"cannot listen on {self.address}")
        self.server.start()
        return self

    def stop(self):
        """Breaks every connection and is gone."""
        if self.server:
            self.server.stop(0).wait(PATIENCE)
            self.server = None

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    # Resources.

    def version(self, kind):
        return str(self.versions.get(kind, 0))

    def next_nonce(self, kind):
        self.counter += 1
        return f"{kind}-{self.counter}"

    def set(self, *values, version=None):
        """Adds or replaces resources given as JSON with @type; without `version` each gets a new one."""
        for value, any_ in zip(values, self.wire.encode(values)):
            kind = SHORT[value["@type"]]
            self.set_wire(kind, value.get("name") or value.get("cluster_name"), any_, version)

    def set_wire(self, kind, name, any_, version=None):
        """Adds or replaces a resource given as an encoded Any."""
        with self.lock:
            self.counter += 1
            self.versions[kind] = self.versions.get(kind, 0) + 1
            self.resources.setdefault(kind, {})[name] = Resource(name, str(self.counter) if version is None else version, any_)

    def remove(self, kind, *names):
        with self.lock:
            self.versions[kind] = self.versions.get(kind, 0) + 1
            for name in names:
                del self.resources[kind][name]

    def replace(self, kind, resources):
        """Makes [Resource] the whole of a type; what is the same keeps its version."""
        with self.lock:
            self.versions[kind] = self.versions.get(kind, 0) + 1
            old = self.resources.get(kind, {})
            self.resources[kind] = {r.name: old[r.name] if r.name in old and old[r.name].any == r.any else r for r in resources}

    # Sending.

    def push(self, *kinds, force=False):
        """Sends every open stream what changed of these types (all unless named); returns the responses. With `force`, all that it wants."""
        with self.lock:
            out = []
            for stream in self.streams:
                for kind in kinds or sorted(stream.wants, key=lambda k: ("cds", "eds", "lds", "rds").index(k) if k in ("cds", "eds", "lds", "rds") else 9):
                    if stream.open and kind in stream.wants and (sent := self.answer(stream, kind, force=force)):
                        out.append(sent)
            return out

    def answer(self, stream, kind, fresh=(), force=False, first=False):
        want, have = stream.want(kind), self.resources.get(kind, {})
        wanted = [r for n, r in have.items() if want.everything or n in want.names]
        changed = [r for r in wanted if force or r.name in fresh or want.has.get(r.name) != r.version]
        removed = sorted(n for n in want.has if n not in have)
        if not (changed or removed or force or (first and want.everything)):
            return None
        for r in changed:
            want.has[r.name] = r.version
        for n in removed:
            del want.has[n]
        if stream.dialect == "sotw":
            return stream.send(kind, wanted)
        return stream.send(kind, changed, removed)

    def heard(self, stream, request):
        with self.lock:
            stream.log.append(request)
            request.stream, request.time = stream, time.monotonic()
            kind, known = request.type, request.type in stream.wants
            want = stream.want(kind)
            if stream.dialect == "delta":
                names = [n for n in request.subscribe if n != "*"]
                want.everything = want.everything or "*" in request.subscribe or (not known and not names and kind in WHOLE)
                if "*" in request.unsubscribe:
                    want.everything = False
                fresh = set(names)
                want.names = (want.names | fresh) - set(request.unsubscribe)
                for n in request.unsubscribe:
                    want.has.pop(n, None)
                if self.honour_versions and not known:
                    want.has.update(request.initial)
                    fresh -= {n for n, v in request.initial.items() if n in self.resources.get(kind, {}) and self.resources[kind][n].version == v}
            else:
                fresh = set(request.subscribe) - want.names
                want.names = set(request.subscribe)
                want.everything = not want.names and kind in WHOLE
                want.has = {n: v for n, v in want.has.items() if want.everything or n in want.names}
            if kind not in self.held and (fresh or not known):
                self.answer(stream, kind, fresh, first=not known)
            self.lock.notify_all()

    # Waiting.

    def wait(self, what, probe, seconds=PATIENCE):
        """What `probe` gives as soon as it is true; it is tried again at every request, stream and end of one."""
        end = time.monotonic() + seconds
        with self.lock:
            while not (r := probe()):
                left = end - time.monotonic()
                if left <= 0 or not self.lock.wait(left) and not (r := probe()):
                    raise Late(f"{what}: not within {seconds} s; the conversation was\n" + self.transcript())
                if r:
                    break
            return r

    def stream(self, number=-1, service="ads", after=None, seconds=PATIENCE):
        """A stream of the service, the latest unless numbered; with `after`, of those opened later than that."""
        def probe():
            found = [s for s in self.streams if s.service == service and (after is None or s.number > after.number)]
            return found[number] if -len(found) <= number < len(found) else None
        return self.wait(f"stream {number} of {service}", probe, seconds)

    def reply(self, sent, seconds=PATIENCE):
        """The ACK or NACK of a response."""
        return self.wait(f"an answer to {sent}", lambda: next((r for r in sent.stream.asked if r.nonce == sent.nonce), None), seconds)

    def ack(self, sent, seconds=PATIENCE):
        r = self.reply(sent, seconds)
        if r.error:
            raise AssertionError(f"{sent} was refused: {r.error}")
        return r

    def nack(self, sent, seconds=PATIENCE):
        r = self.reply(sent, seconds)
        if not r.error:
            raise AssertionError(f"{sent} was acknowledged")
        return r

    def request(self, kind, probe=lambda r: True, stream=None, seconds=PATIENCE):
        """The first request of a type for which `probe` is true."""
        return self.wait(f"a request for {kind}", lambda: next((r for s in ([stream] if stream else self.streams) for r in s.asked if r.type == kind and probe(r)), None), seconds)

    def sent(self, kind, name=None, stream=None, seconds=PATIENCE):
        """The latest response of a type, with the resource if named."""
        return self.wait(f"a response of {kind}", lambda: next((x for s in reversed([stream] if stream else self.streams) for x in reversed(s.log)
                                                                if isinstance(x, Sent) and x.type == kind and (name is None or name in x.names)), None), seconds)

    def subscriptions(self, stream, kind):
        """{name: how often it was subscribed on the stream}."""
        out = {}
        for r in stream.asked:
            if r.type == kind:
                for n in r.subscribe:
                    out[n] = out.get(n, 0) + 1
        return out

    def transcript(self):
        with self.lock:
            return "\n".join(f"  stream {s.number} ({s.service} {s.dialect}{'' if s.open else ', over'}): {x!r}" for s in self.streams for x in s.log)


class Handlers(grpc.GenericRpcHandler):
    """Streams of raw bytes."""

    def __init__(self, plane):
        self.plane = plane

    def service(self, details):
        if details.method not in METHODS:
            return None
        service, dialect = METHODS[details.method]
        return grpc.stream_stream_rpc_method_handler(lambda requests, context: self.serve(requests, context, service, dialect))

    def serve(self, requests, context, service, dialect):
        plane = self.plane
        with plane.lock:
            stream = Stream(plane, len(plane.streams), service, dialect)
            plane.streams.append(stream)
            plane.lock.notify_all()
        if plane.refuse:
            stream.cut(*plane.refuse)

        def ended():
            with plane.lock:
                stream.open = False
                plane.lock.notify_all()
            stream.out.put(None)
        if not context.add_callback(ended):
            ended()

        def read():
            try:
                for data in requests:
                    plane.heard(stream, Request(dialect, data))
            except grpc.RpcError:
                pass  # the connection broke
            except Exception as e:
                if stream.open:
                    print(f"stream {stream.number}: {e!r}")
        threading.Thread(target=read, daemon=True).start()
        while (item := stream.out.get()) is not None:
            if isinstance(item, tuple):
                with plane.lock:
                    stream.open = False
                    plane.lock.notify_all()
                if item[0] is not grpc.StatusCode.OK:
                    context.abort(*item)
                return
            yield item
