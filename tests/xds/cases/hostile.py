"""What no control plane should send. The old configuration serves, the process lives, and memory does not grow."""
import time

from cases import case, same, true
from cases.conversation import live
from cases.together import BAD_CLUSTER, UNKNOWN, active
from control import Late
from proto import Any, Resource, field, repeated, response, url
from resources import cluster, endpoints, listener, routes

from bed import body, rig

DEPTH = 20_000


def still_good(b):
    """The old configuration serves, and a good change is taken on the stream there is."""
    b.proxy.alive()
    same(body(10001), "A")
    b.plane.set(cluster("proof", "127.0.0.1:20002"))
    b.plane.push("cds")
    rig.until("a good change", 10, lambda: "proof" in active(b))


def resource(b, kind, name, any_):
    return b.plane.stream().send(kind, [Resource(name, "1", any_)])


def answered(b, sent, seconds=5):
    """`NACK`, `ACK`, or that the stream ended or nothing was said."""
    try:
        b.plane.wait("an answer", lambda: not sent.stream.open or any(r.nonce == sent.nonce for r in sent.stream.asked), seconds)
    except Late:
        return "nothing"
    r = next((r for r in sent.stream.asked if r.nonce == sent.nonce), None)
    return "stream ended" if r is None else "NACK" if r.error else "ACK"


@case("an Any within an Any, thousands deep, is refused or ends the stream", ("delta",))
def deep_any(b):
    live(b)
    inner = b""
    for _ in range(2000):
        inner = Any(url("google.protobuf.Any"), inner).encode()
    b.note(answered(b, resource(b, "cds", "deep", Any(url("cds"), inner).encode())))
    b.note(answered(b, resource(b, "cds", "deep", inner)))
    still_good(b)


@case("a filter's configuration of TypedStructs within each other is refused", ("delta",))
def deep_struct(b):
    live(b)
    value = {"x": 1}
    for _ in range(40):
        value = {"x": value}
    v = listener("deep", 10002, "r", filters=[{"name": "f", "typed_config": {"@type": "type.googleapis.com/udpa.type.v1.TypedStruct", "type_url": "type.googleapis.com/udpa.type.v1.TypedStruct",
                                                                            "value": {"type_url": "type.googleapis.com/udpa.type.v1.TypedStruct", "value": value}}}])
    b.plane.set(v)
    b.plane.nack(b.plane.push("lds")[0])
    b.plane.remove("lds", "deep")
    b.plane.push("lds")
    still_good(b)


@case("a struct nested thousands deep in wire form is refused or ends the stream", ("delta",))
def deep_wire(b):
    live(b)
    # google.protobuf.Struct {fields: {key: "x", value: {struct_value: ...}}}
    inner = b""
    for _ in range(DEPTH):
        inner = repeated(1, [field(1, "x") + repeated(2, [field(5, inner)])])
    wire = field(1, "deep") + field(25, repeated(1, [field(1, "n") + field(2, inner)]))  # Cluster.metadata.filter_metadata
    b.note(answered(b, resource(b, "cds", "deep", Any(url("cds"), wire).encode())))
    still_good(b)


@case("a matcher nested deep in a listener is taken or refused; the process lives", ("delta",))
def deep_matcher(b):
    live(b)
    matcher = {"on_no_match": {"action": {"name": "only", "typed_config": {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": "only"}}}}
    for _ in range(20):
        matcher = {"on_no_match": {"matcher": matcher}}
    b.plane.set(listener("deep", 10002, "r", filter_chain_matcher=matcher))
    b.note(answered(b, b.plane.push("lds")[0]))
    b.plane.remove("lds", "deep")
    b.plane.push("lds")
    still_good(b)


@case("a resource cut short at any byte refuses the response", ("delta",))
def cut_short(b):
    live(b)
    any_ = Any.parse(b.plane.resources["lds"]["one"].any)
    said = set()
    for at in range(1, len(any_.value), 7):
        said.add(answered(b, resource(b, "lds", "one", Any(any_.type, any_.value[:at]).encode())))
    b.note(f"answers: {sorted(said)}")
    true("nothing" not in said, "some were not answered")
    still_good(b)


@case("a response cut short at any byte ends the stream or is answered; the next stream is good", ("delta",))
def response_cut_short(b):
    live(b)
    whole = response(b.dialect, url("eds"), "n-1", "1", list(b.plane.resources["eds"].values()))
    for at in range(1, len(whole), 11):
        s = b.plane.wait("a stream", lambda: next((x for x in reversed(b.plane.streams) if x.open and x.asked), None))
        count = len(s.asked)
        s.raw(whole[:at])
        b.plane.wait("an end or an answer", lambda: not s.open or len(s.asked) > count or len(b.plane.streams) > s.number + 1)
        b.plane.wait("a stream", lambda: any(x.open for x in b.plane.streams))
    rig.until("it serves", 10, lambda: body(10001) == "A")
    b.proxy.alive()


@case("a name of a million bytes is taken or refused", ("delta",))
def long_name(b):
    live(b)
    b.plane.set(cluster("n" * 1_000_000, "127.0.0.1:20001"))
    b.note(answered(b, b.plane.push("cds")[0]))
    b.plane.remove("cds", "n" * 1_000_000)
    b.plane.push("cds")
    still_good(b)


@case("names of odd bytes are taken or refused", ("delta",))
def odd_names(b):
    s = live(b)
    for name in ("", "a\0b", "line\nline", "\u202e\U0001f600", "%s%n", "../../x", "a;b|c.d"):
        b.plane.set(cluster("x", "127.0.0.1:20001"))
        parsed = Any.parse(b.plane.resources["cds"].pop("x").any)
        wire = field(1, name) + parsed.value[len(field(1, "x")):]
        b.note(f"{name!r}: " + answered(b, s.send("cds", [Resource(name, "1", Any(parsed.type, wire).encode())])))
        true(b.proxy.get("/clusters")[0] == 200 and b.proxy.get("/stats/prometheus")[0] == 200, "the admin port does not answer")
    still_good(b)


@case("a name that is no UTF-8 is refused", ("delta",))
def no_utf8(b):
    live(b)
    b.note(answered(b, resource(b, "cds", "x", Any(url("cds"), b"\x0a\x03\xff\xfe\xfd").encode())))
    still_good(b)


@case("a response of 64 MiB of noise is refused or ends the stream", ("delta",))
def large(b):
    live(b)
    b.note(answered(b, resource(b, "cds", "large", Any(url("cds"), b"\xff" * (64 << 20)).encode()), 20))
    rig.until("it serves", 10, lambda: body(10001) == "A")
    still_good(b)


@case("a hundred thousand endpoints in one cluster are taken", ("delta",))
def many_endpoints(b):
    live(b)
    b.plane.set(endpoints("b", *[f"127.{i >> 16}.{i >> 8 & 255}.{i & 255}:20002" for i in range(1, 100_001)]))
    b.plane.ack(b.plane.push("eds")[0], 60)
    b.proxy.until_stat("cluster.b.membership_total", 100_000, 20)
    b.plane.set(endpoints("b", "127.0.0.1:20002"))
    b.plane.ack(b.plane.push("eds")[0], 60)
    still_good(b)


@case("weights that add up to more than 32 bits are taken or refused", ("delta",))
def weights(b):
    live(b)
    e = endpoints("a", "127.0.0.1:20001", "127.0.0.1:20002")
    for x in e["endpoints"][0]["lb_endpoints"]:
        x["load_balancing_weight"] = 4294967295
    b.plane.set(e)
    b.note(answered(b, b.plane.push("eds")[0]))
    true(body(10001) in ("A", "B"), "no answer")
    b.plane.set(endpoints("a", "127.0.0.1:20001"))
    b.plane.ack(b.plane.push("eds")[0])
    rig.until("the old endpoint", 5, lambda: {body(10001) for _ in range(4)} == {"A"})
    still_good(b)


@case("a listener that uses a type with no content for everything is refused", ("delta",))
def hollow(b):
    live(b)
    for kind in ("cds", "lds", "rds", "eds"):
        said = answered(b, resource(b, kind, "hollow", Any(url(kind), b"").encode()))
        b.note(f"{kind}: {said}")
    b.note(f"an empty Any: {answered(b, resource(b, 'lds', 'hollow', b''))}")
    still_good(b)


@case("every nonce the same, and versions that go back, do no harm")
def odd_versions(b):
    s = live(b)
    for i in range(20):
        s.send("eds", list(b.plane.resources["eds"].values()), nonce="same", version=str(100 - i))
    b.plane.wait("twenty answers", lambda: sum(r.nonce == "same" for r in s.asked) >= 20)
    still_good(b)


@case("a route configuration with ten thousand domains and a bad regular expression at its end is refused", ("delta",))
def late_error(b):
    live(b)
    r = routes("r", "b")
    r["virtual_hosts"] = [{"name": f"h{i}", "domains": [f"h{i}.example"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "b"}}]} for i in range(10_000)]
    r["virtual_hosts"].append({"name": "last", "domains": ["*"], "routes": [{"match": {"safe_regex": {"regex": "(a"}}, "route": {"cluster": "b"}}]})
    b.plane.set(r)
    b.plane.nack(b.plane.push("rds")[0])
    still_good(b)


@case("an expensive regular expression is taken or refused, in no time", ("delta",))
def expensive(b):
    live(b)
    for regex in ("(((a{100}){100}){100})", "(a*)*b" * 50, "(x+x+)+y", "[" + "a-z" * 1000 + "]"):
        r = routes("r", "a")
        r["virtual_hosts"][0]["routes"].insert(0, {"match": {"safe_regex": {"regex": regex}}, "route": {"cluster": "b"}})
        b.plane.set(r)
        begin = time.monotonic()
        said = answered(b, b.plane.push("rds")[0])
        b.note(f"{regex[:24]}: {said}")
        true(time.monotonic() - begin < 3, f"{regex[:24]} took too long")
        same(body(10001, "/" + "a" * 5000), "A")
    still_good(b)


def repeated_bad(b, what, kind, value, bound):
    """A thousand times the same trouble; memory may grow by `bound` MiB after the first hundred."""
    live(b)
    after = 0
    for i in range(1000):
        b.plane.set(value(i))
        for sent in b.plane.push(kind):
            b.plane.nack(sent)
        if i == 100:
            after = b.proxy.rss_kib()
    grown = (b.proxy.rss_kib() - after) / 1024
    b.note(f"{what}: memory grew by {grown:.1f} MiB")
    true(grown < bound, f"memory grew by {grown:.1f} MiB")
    same(body(10001), "A")


@case("a bad cluster, each time another, a thousand times leaves memory as it is", ("delta",))
def bad_clusters(b):
    repeated_bad(b, "clusters", "cds", lambda i: cluster("senseless", "127.0.0.1:20001", **{**BAD_CLUSTER, "connect_timeout": f"{i + 1}s"}), 8)


@case("a bad listener a thousand times leaves memory as it is", ("delta",))
def bad_listeners(b):
    repeated_bad(b, "listeners", "lds", lambda _: listener("senseless", 10003, "r", filters=UNKNOWN), 8)


@case("bad endpoints a thousand times leave memory as it is", ("delta",))
def bad_endpoints(b):
    repeated_bad(b, "endpoints", "eds", lambda _: endpoints("a", "no-address:1"), 8)


@case("a thousand changes of clusters, endpoints, listeners and routes leave memory as it is", ("delta",))
def good_changes(b):
    b.plane.set(cluster("a"), endpoints("a", "127.0.0.1:20001"), listener("one", 10001, "r"), routes("r", "a"))
    b.start(extra=("--drain-time-s", 1)).until_live()
    after = 0
    for i in range(1000):
        b.plane.set(cluster("a", connect_timeout=f"{2 + i % 7}s"), endpoints("a", f"127.0.0.1:{20001 + i % 2}"), listener("one", 10001, "r", per_connection_buffer_limit_bytes=4096 + i % 9),
                    routes("r", "a", most_specific_header_mutations_wins=bool(i % 2)))
        for sent in b.plane.push("cds", "eds", "lds", "rds"):
            b.plane.ack(sent)
        if i == 200:
            b.proxy.until_stat("listener_manager.total_listeners_draining", 0, 10)
            after = b.proxy.rss_kib()
    b.proxy.until_stat("listener_manager.total_listeners_draining", 0, 10)
    grown = (b.proxy.rss_kib() - after) / 1024
    b.note(f"memory grew by {grown:.1f} MiB")
    true(grown < 12, f"memory grew by {grown:.1f} MiB")
    true(body(10001) in ("A", "B"), "no answer")


@case("a stream that is cut a hundred times leaves memory and file descriptors as they are")
def many_cuts(b):
    s = live(b)
    after = files = 0
    for i in range(100):
        s.cut()
        s = b.plane.stream(after=s)
        b.plane.request("rds", stream=s)
        if i == 20:
            after, files = b.proxy.rss_kib(), b.proxy.fds()
    grown = (b.proxy.rss_kib() - after) / 1024
    b.note(f"memory grew by {grown:.1f} MiB")
    true(grown < 8, f"memory grew by {grown:.1f} MiB")
    true(b.proxy.fds() <= files + 2, f"{b.proxy.fds()} files, {files} before")
    same(body(10001), "A")
