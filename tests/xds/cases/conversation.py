"""What is said, in what order, and how often."""
import time

import grpc
from cases import case, same, true
from control import Sent
from proto import Any, Request, field, response, url
from resources import cluster, endpoints, listener, routes

from bed import body, rig


def mesh(b):
    b.plane.set(cluster("a"), cluster("b"), endpoints("a", "127.0.0.1:20001"), endpoints("b", "127.0.0.1:20002"), listener("one", 10001, "r"), routes("r", "a"))


def live(b):
    mesh(b)
    b.start().until_live()
    b.plane.wait("everything acknowledged", lambda: all_acknowledged(b))
    return b.plane.stream()


def all_acknowledged(b):
    return all(any(isinstance(r, Request) and r.nonce == x.nonce for r in s.log) for s in b.plane.streams if s.open for x in s.log if isinstance(x, Sent))


@case("clusters are asked for first, then endpoints, listeners and routes")
def order(b):
    s = live(b)
    first = list(dict.fromkeys(r.type for r in s.asked))
    same(first, ["cds", "eds", "lds", "rds"], "the order")
    same(body(10001), "A")


@case("everything goes over one stream")
def one_stream(b):
    live(b)
    same(len(b.plane.streams), 1, "the number of streams")


@case("the node is told once for each stream")
def node(b):
    s = live(b)
    same(s.asked[0].node.id, "waypoint~127.3.0.1~test.default~default.svc.cluster.local", "the id")
    same(s.asked[0].node.cluster, "waypoint.default", "the cluster")
    same([r for r in s.asked[1:] if r.node], [], "later requests with a node")


@case("all endpoints are asked for in one request, sorted or not, each once")
def names(b):
    s = live(b)
    asks = [r for r in s.asked if r.type == "eds" and not r.nonce]
    same([sorted(r.subscribe) for r in asks], [["a", "b"]], "requests for endpoints")


@case("clusters and listeners are wanted as a whole, without names", ("delta",))
def wildcard(b):
    s = live(b)
    for kind in ("cds", "lds"):
        first = next(r for r in s.asked if r.type == kind)
        same((first.subscribe, first.unsubscribe, first.initial, first.nonce), ([], [], {}, ""), f"the first request for {kind}")


@case("the name * is not used for clusters and listeners; everything is wanted all the same", ("sotw",))
def wildcard_sotw(b):
    s = live(b)
    for kind in ("cds", "lds"):
        first = next(r for r in s.asked if r.type == kind)
        same((first.subscribe, first.version, first.nonce), ([], "", ""), f"the first request for {kind}")


@case("every good response is acknowledged exactly once and counted")
def acks(b):
    s = live(b)
    for x in s.log:
        if isinstance(x, Sent):
            same(len([r for r in s.asked if r.nonce == x.nonce and not r.error]), 1, f"the number of ACKs of {x}")
    for stat in ("cluster_manager.cds", "listener_manager.lds", "cluster.a", "http.in.rds.r"):
        same(b.proxy.stat(f"{stat}.update_success"), 1, f"{stat}.update_success")
        same(b.proxy.stat(f"{stat}.update_rejected"), 0, f"{stat}.update_rejected")


@case("an ACK tells the version that was accepted", ("sotw",))
def versions(b):
    s = live(b)
    for x in s.log:
        if isinstance(x, Sent):
            same(b.plane.ack(x).version, x.version, f"the version in the ACK of {x}")


@case("nonces are opaque: one of the server's choosing comes back as it was")
def nonce(b):
    s = live(b)
    have = list(b.plane.resources["eds"].values())
    sent = s.send("eds", have, nonce="~ any Text/ü 1 ~" * 20)
    b.plane.ack(sent)


@case("a NACK repeats the last version that was accepted", ("sotw",))
def nack_version(b):
    live(b)
    before = b.plane.sent("lds").version
    b.plane.set(listener("two", 10002, "r", filters=[{"name": "x", "typed_config": {"@type": url("envoy.config.core.v3.Address")}}]))
    same(b.plane.nack(b.plane.push("lds")[0]).version, before, "the version")


@case("a NACK has a code, and a text that names the resource")
def nack_text(b):
    live(b)
    b.plane.set(listener("two", 10002, "r", filters=[{"name": "x", "typed_config": {"@type": url("envoy.config.core.v3.Address")}}]))
    code, text = b.plane.nack(b.plane.push("lds")[0]).error
    same(code, grpc.StatusCode.INTERNAL.value[0], "the code")
    true("two" in text, f"the text does not name it: {text}")
    same(b.proxy.stat("listener_manager.lds.update_rejected"), 1, "update_rejected")


@case("after a NACK a good response is acknowledged as ever")
def after_nack(b):
    live(b)
    b.plane.set(listener("two", 10002, "r", filters=[{"name": "x", "typed_config": {"@type": url("envoy.config.core.v3.Address")}}]))
    b.plane.nack(b.plane.push("lds")[0])
    b.plane.set(listener("two", 10002, "r"))
    b.plane.ack(b.plane.push("lds")[0])
    rig.until("the second listener", 5, lambda: body(10002) == "A")


@case("endpoints of a removed cluster are no longer wanted", ("delta",))
def unsubscribe(b):
    s = live(b)
    b.plane.remove("cds", "b")
    b.plane.ack(b.plane.push("cds")[0])
    b.plane.request("eds", lambda r: r.unsubscribe == ["b"], s)


@case("endpoints of a removed cluster are left out of the names", ("sotw",))
def unsubscribe_sotw(b):
    s = live(b)
    b.plane.remove("cds", "b")
    b.plane.ack(b.plane.push("cds")[0])
    b.plane.request("eds", lambda r: r.subscribe == ["a"], s)


@case("a new cluster asks for its own endpoints and no others again", ("delta",))
def subscribe(b):
    s = live(b)
    b.plane.set(cluster("c"), endpoints("c", "127.0.0.1:20002"))
    b.plane.push("cds")
    b.plane.request("eds", lambda r: r.subscribe == ["c"], s)
    b.plane.ack(b.plane.sent("eds", "c"))
    same(b.plane.subscriptions(s, "eds"), {"a": 1, "b": 1, "c": 1}, "the subscriptions")


@case("routes of a removed listener are no longer wanted", ("delta",))
def unsubscribe_routes(b):
    mesh(b)
    b.start(extra=("--drain-time-s", 1)).until_live()  # a draining listener still has its routes
    s = b.plane.stream()
    b.plane.remove("lds", "one")
    b.plane.ack(b.plane.push("lds")[0])
    b.plane.request("rds", lambda r: r.unsubscribe == ["r"], s)


@case("two listeners with the same routes ask for them once")
def shared_routes(b):
    b.plane.set(cluster("a", "127.0.0.1:20001"), listener("one", 10001, "r"), listener("two", 10002, "r"), routes("r", "a"))
    b.start().until_live()
    s = b.plane.stream()
    same([r.subscribe for r in s.asked if r.type == "rds" and not r.nonce], [["r"]], "the requests for routes")
    same((body(10001), body(10002)), ("A", "A"))


@case("the same resource again, under a new version, is acknowledged and changes nothing")
def identical(b):
    live(b)
    same_listener, same_cluster = listener("one", 10001, "r"), cluster("a", "127.0.0.1:20001")
    b.plane.set(same_cluster)
    b.plane.ack(b.plane.push("cds")[0])
    b.proxy.until_stat("cluster_manager.cluster_modified", 1)
    b.plane.set(same_listener, same_cluster)
    for sent in b.plane.push("cds", "lds"):
        b.plane.ack(sent)
    same(b.proxy.stat("listener_manager.listener_modified"), 0, "listener_modified")
    same(b.proxy.stat("cluster_manager.cluster_modified"), 1, "cluster_modified")


@case("an empty response is acknowledged and changes nothing", ("delta",))
def empty(b):
    s = live(b)
    for kind in ("cds", "eds", "lds", "rds"):
        b.plane.ack(s.send(kind, []))
    same(body(10001), "A")


@case("an empty response removes all clusters and listeners", ("sotw",))
def empty_sotw(b):
    s = live(b)
    b.plane.ack(s.send("lds", []))
    b.plane.ack(s.send("cds", []))
    rig.until("the listener gone", 5, lambda: body(10001) == 0)
    b.proxy.until_stat("cluster_manager.active_clusters", 2)


@case("removing what is not there is acknowledged", ("delta",))
def remove_nothing(b):
    s = live(b)
    for kind in ("cds", "eds", "lds", "rds"):
        b.plane.ack(s.send(kind, [], ["nobody", "a thing with | signs"]))
    same(body(10001), "A")


@case("a response of a type that was never asked for does not end the stream")
def never_asked(b):
    s = live(b)
    b.plane.set({"@type": url("scoped"), "name": "s", "route_configuration_name": "r", "key": {"fragments": [{"string_key": "k"}]}})
    s.send("scoped", list(b.plane.resources["scoped"].values()))
    b.plane.set(endpoints("a", "127.0.0.1:20002"))
    b.plane.ack(b.plane.push("eds")[0])
    true(s.open, "the stream ended")
    same(body(10001), "B")


@case("bytes that are no response end the stream; a new one is opened and all is told again")
def garbage(b):
    s = live(b)
    s.raw(b"\xff\xff\xff\xff this is not protobuf")
    later = b.plane.stream(after=s)
    b.plane.request("cds", stream=later)
    same(body(10001), "A")


@case("after a cut what is there is told by version, and each name is subscribed once", ("delta",))
def reconnect(b):
    s = live(b)
    had = {k: {r.name: r.version for r in v.values()} for k, v in b.plane.resources.items()}
    s.cut()
    later = b.plane.stream(after=s)
    for kind in ("cds", "eds", "lds", "rds"):
        first = b.plane.request(kind, stream=later)
        same(first.initial, had[kind], f"the versions of {kind}")
        same(first.nonce, "", "the nonce")
    b.plane.set(endpoints("a", "127.0.0.1:20002"))
    b.plane.ack(b.plane.push("eds")[0])
    same({k: b.plane.subscriptions(later, k) for k in ("cds", "eds", "lds", "rds")}, {"cds": {}, "eds": {"a": 1, "b": 1}, "lds": {}, "rds": {"r": 1}}, "the subscriptions")
    same([x.names for x in later.log if isinstance(x, Sent) and x.names], [["a"]], "what had to be sent again")
    same(body(10001), "B")


@case("after a cut the accepted versions are told and all names are in one request for each type", ("sotw",))
def reconnect_sotw(b):
    s = live(b)
    had = {k: b.plane.sent(k).version for k in ("cds", "eds", "lds", "rds")}
    s.cut()
    later = b.plane.stream(after=s)
    for kind in ("cds", "eds", "lds", "rds"):
        first = b.plane.request(kind, stream=later)
        same((first.version, first.nonce), (had[kind], ""), f"version and nonce of {kind}")
    same(sorted(b.plane.request("eds", stream=later).subscribe), ["a", "b"], "the names")
    same(body(10001), "A")


@case("a resource that was refused is not among the versions told after a cut", ("delta",))
def reconnect_refused(b):
    s = live(b)
    b.plane.set(listener("bad", 10002, "r", filters=[{"name": "x", "typed_config": {"@type": url("envoy.config.core.v3.Address")}}]))
    b.plane.nack(b.plane.push("lds")[0])
    s.cut()
    same(list(b.plane.request("lds", stream=b.plane.stream(after=s)).initial), ["one"], "the names with versions")


@case("what was removed is not among the versions told after a cut", ("delta",))
def reconnect_removed(b):
    s = live(b)
    b.plane.remove("cds", "b")
    b.plane.ack(b.plane.push("cds")[0])
    b.plane.request("eds", lambda r: r.unsubscribe == ["b"], s)
    s.cut()
    later = b.plane.stream(after=s)
    same(list(b.plane.request("cds", stream=later).initial), ["a"], "the clusters with versions")
    same(b.plane.request("eds", stream=later).subscribe, ["a"], "the endpoints asked for")


@case("the node is told again on a new stream")
def reconnect_node(b):
    s = live(b)
    s.cut()
    later = b.plane.stream(after=s)
    b.plane.request("rds", stream=later)
    same([bool(r.node) for r in later.asked[:4]], [True, False, False, False], "requests with a node")


@case("while the control plane is away traffic goes on; when it is back its state is told and new things arrive")
def away(b):
    live(b)
    b.proxy.until_stat("control_plane.connected_state", 1)
    b.plane.stop()
    b.proxy.until_stat("control_plane.connected_state", 0)
    same(body(10001), "A")
    b.plane.set(endpoints("a", "127.0.0.1:20002"))
    b.plane.start()
    rig.until("the new endpoint", 10, lambda: body(10001) == "B")
    b.proxy.until_stat("control_plane.connected_state", 1)
    true(b.proxy.live(), "not LIVE")


@case("a stream that ends in order is opened again like one that was cut")
def ended(b):
    s = live(b)
    s.cut(grpc.StatusCode.OK, "")
    b.plane.request("rds", stream=b.plane.stream(after=s))
    same(body(10001), "A")


@case("streams refused one after the other are tried again with growing gaps, and the first good one is taken")
def back_off(b):
    s = live(b)
    b.plane.refuse = (grpc.StatusCode.UNAVAILABLE, "not now")
    begin = time.monotonic()
    s.cut()
    b.plane.stream(8, after=s)
    took = time.monotonic() - begin
    true(took > 0.15, f"nine attempts in {took:.3f} s")
    b.plane.refuse = None
    b.plane.request("rds", stream=b.plane.wait("a good stream", lambda: next((x for x in b.plane.streams if len(x.asked) > 3 and x.open and x is not s), None)))


@case("responses of a stream that ended are not acknowledged on the next one")
def stale_nonce(b):
    s = live(b)
    old = {x.nonce for x in s.log if isinstance(x, Sent)}
    s.cut()
    later = b.plane.stream(after=s)
    b.plane.request("rds", stream=later)
    same([r for r in later.asked if r.nonce in old], [], "requests with an old nonce")


@case("what a response holds beyond the known fields is passed over")
def unknown_fields(b):
    s = live(b)
    r = response(b.dialect, url("eds"), "odd-1", "99", list(b.plane.resources["eds"].values())) + field(99, "from the future")
    s.raw(r)
    b.plane.request("eds", lambda r: r.nonce == "odd-1" and not r.error, s)
    b.plane.set(cluster("c", "127.0.0.1:20001"))
    b.plane.ack(b.plane.push("cds")[0])


@case("a resource with fields from the future is accepted and the fields are counted")
def unknown_resource_fields(b):
    live(b)
    any_ = b.plane.resources["cds"]["a"].any
    parsed = Any.parse(any_)
    b.plane.set_wire("cds", "a", Any(parsed.type, parsed.value + field(999, "new")).encode())
    for sent in b.plane.push("cds"):
        b.plane.push("eds", force=True)
        b.plane.ack(sent)
    same(b.proxy.stat("server.dynamic_unknown_fields") or 0, 1, "server.dynamic_unknown_fields")
    same(body(10001), "A")


@case("with --reject-unknown-dynamic-fields a resource with a field from the future is refused")
def reject_unknown(b):
    mesh(b)
    b.start(extra=("--reject-unknown-dynamic-fields",)).until_live()
    parsed = Any.parse(b.plane.resources["rds"]["r"].any)
    b.plane.set_wire("rds", "r", Any(parsed.type, parsed.value + field(999, "new")).encode())
    b.plane.nack(b.plane.push("rds")[0])
    same(body(10001), "A")


@case("endpoints are asked for before the clusters that need them are acknowledged, routes before their listeners")
def ask_before_ack(b):
    s = live(b)
    for whole, part in (("cds", "eds"), ("lds", "rds")):
        asked = next(i for i, r in enumerate(s.asked) if r.type == part)
        acknowledged = next(i for i, r in enumerate(s.asked) if r.type == whole and r.nonce)
        true(asked < acknowledged, f"{whole} was acknowledged before {part} was asked for")


@case("the control plane may be on a Unix socket")
def unix(b):
    b.plane.stop()
    b.plane.address = f"unix:{b.work / 'XDS'}"
    b.plane.start()
    mesh(b)
    b.start(ads="XDS").until_live()
    same(body(10001), "A")
    s = b.plane.stream()
    s.cut()
    b.plane.request("rds", stream=b.plane.stream(after=s))
    b.plane.stop()
    b.proxy.until_stat("control_plane.connected_state", 0)
    b.plane.set(endpoints("a", "127.0.0.1:20002"))
    b.plane.start()
    rig.until("the new endpoint", 10, lambda: body(10001) == "B")


@case("counters tell of attempts and updates, of what was added, and of reloads")
def counters(b):
    live(b)
    names = ("cluster_manager.cds", "listener_manager.lds", "cluster.a", "http.in.rds.r")
    # Envoy counts the first request and each response.
    same([b.proxy.stat(f"{n}.update_attempt") for n in names], [2] * 4, "update_attempt")
    b.plane.set(cluster("c", "127.0.0.1:20001"), listener("two", 10002, "r"), endpoints("a", "127.0.0.1:20002"), routes("r", "a", most_specific_header_mutations_wins=True))
    for sent in b.plane.push("cds", "eds", "lds", "rds"):
        b.plane.ack(sent)
    for name in names:
        b.proxy.until_stat(f"{name}.update_success", 2)
        same(b.proxy.stat(f"{name}.update_failure"), 0, f"{name}.update_failure")
        same(b.proxy.stat(f"{name}.update_attempt"), 3, f"{name}.update_attempt")
    same(b.proxy.stat("cluster_manager.cluster_added"), 5, "cluster_added")  # two are of the bootstrap
    same(b.proxy.stat("listener_manager.listener_added"), 2, "listener_added")
    same(b.proxy.stat("http.in.rds.r.config_reload"), 2, "config_reload")


@case("a cut stream is counted as a failure of each subscription")
def counted_failures(b):
    s = live(b)
    s.cut()
    b.plane.request("rds", stream=b.plane.stream(after=s))
    for name in ("cluster_manager.cds", "listener_manager.lds", "cluster.a", "http.in.rds.r"):
        b.proxy.until_stat(f"{name}.update_failure", 1)
