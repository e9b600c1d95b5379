"""Changes under traffic: what serves on, what ends, and when."""
import http.client
import socket
import threading

from cases import case, same, true
from cases.conversation import live
from cases.together import active
from resources import address, cluster, endpoints, listener, manager, routes

from bed import Held, ask, body, rig


def two_chains(port, first, second, **more):
    """A listener whose chain is chosen by the source's address: 127.0.0.1 or any other."""
    out = listener("two", port, first, **more)
    out["filter_chains"] = [
        {"name": "near", "filter_chain_match": {"source_prefix_ranges": [{"address_prefix": "127.0.0.1", "prefix_len": 32}]}, "filters": [manager(first)]},
        {"name": "far", "filters": [manager(second)]}]
    return out


class From(Held):
    """A kept connection from a source address of choice."""

    def __init__(self, port, source):
        self.c = http.client.HTTPConnection("127.0.0.1", port, timeout=5, source_address=(source, 0))
        self.c.connect()
        self.name = self.c.sock.getsockname()


@case("new routes count for the next request on a connection that is open")
def new_routes(b):
    live(b)
    held = Held(10001)
    same(held.ask(), "A")
    b.plane.set(routes("r", "b"))
    b.plane.ack(b.plane.push("rds")[0])
    rig.until("the new routes", 5, lambda: held.ask() == "B")


@case("changed endpoints count for the next request on a connection that is open")
def new_endpoints(b):
    live(b)
    held = Held(10001)
    b.plane.set(endpoints("a", "127.0.0.1:20002"))
    b.plane.ack(b.plane.push("eds")[0])
    rig.until("the new endpoint", 5, lambda: held.ask() == "B")


@case("two endpoints take turns")
def turns(b):
    live(b)
    b.plane.set(endpoints("a", "127.0.0.1:20001", "127.0.0.1:20002"))
    b.plane.ack(b.plane.push("eds")[0])
    rig.until("both", 5, lambda: {body(10001), body(10001)} == {"A", "B"})
    got = [body(10001) for _ in range(10)]
    same((got.count("A"), got.count("B")), (5, 5), "the answers of A and B")


@case("the weight of an endpoint changes without a new host: its connections stay")
def weights(b):
    live(b)
    body(10001)
    made = b.proxy.stat("cluster.a.upstream_cx_total")
    e = endpoints("a", "127.0.0.1:20001")
    e["endpoints"][0]["lb_endpoints"][0]["load_balancing_weight"] = 7
    b.plane.set(e)
    b.plane.ack(b.plane.push("eds")[0])
    same(body(10001), "A")
    same(b.proxy.stat("cluster.a.upstream_cx_total"), made, "connections made")


def in_flight(b, change):
    """The answer to a request that waits at its backend while `change` happens."""
    a = b.backends["A"]
    a.held.clear()
    a.release.clear()
    got = []
    t = threading.Thread(target=lambda: got.append(ask(10001, "/hold", timeout=10)[:2]))
    t.start()
    true(a.held.wait(5), "the request did not reach its backend")
    change()
    a.release.set()
    t.join(10)
    return got[0]


@case("a request in flight to an endpoint that goes away is finished")
def endpoint_in_flight(b):
    live(b)

    def change():
        b.plane.set(endpoints("a", "127.0.0.1:20002"))
        b.plane.ack(b.plane.push("eds")[0])
        rig.until("the new endpoint", 5, lambda: body(10001) == "B")
    same(in_flight(b, change), (200, "A"), "the answer")


@case("a request in flight on routes that change is finished")
def routes_in_flight(b):
    live(b)

    def change():
        b.plane.set(routes("r", "b"))
        b.plane.ack(b.plane.push("rds")[0])
        rig.until("the new routes", 5, lambda: body(10001) == "B")
    same(in_flight(b, change), (200, "A"), "the answer")


@case("a request in flight on a listener that is changed is finished")
def listener_in_flight(b):
    live(b)

    def change():
        b.plane.set(listener("one", 10001, routes("own", "b")))
        b.plane.ack(b.plane.push("lds")[0])
        rig.until("the new listener", 5, lambda: body(10001) == "B")
    same(in_flight(b, change), (200, "A"), "the answer")


@case("a request in flight on a listener that is removed is finished")
def removed_in_flight(b):
    live(b)

    def change():
        b.plane.remove("lds", "one")
        b.plane.ack(b.plane.push("lds")[0])
        rig.until("the port closed", 5, lambda: body(10001) == 0)
    same(in_flight(b, change), (200, "A"), "the answer")


@case("a request in flight to a cluster that is removed is finished; the next is answered 503 with NC")
def removed_cluster_in_flight(b):
    log = [{"name": "file", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog", "path": str(b.work / "access.log"),
            "log_format": {"text_format_source": {"inline_string": "%REQ(:PATH)% %RESPONSE_CODE% %RESPONSE_FLAGS%\n"}}}}]
    b.plane.set(cluster("a"), endpoints("a", "127.0.0.1:20001"), routes("r", "a"))
    one = listener("one", 10001, "r")
    one["filter_chains"][0]["filters"] = [manager("r", access_log=log)]
    b.plane.set(one)
    b.start().until_live()

    def change():
        b.plane.remove("cds", "a")
        b.plane.push("cds")
        rig.until("the cluster gone", 5, lambda: active(b) == [])
        rig.until("503", 5, lambda: ask(10001, "/next")[0] == 503)
    got = in_flight(b, change)
    rig.until("the log", 5, lambda: "/hold" in (b.work / "access.log").read_text())
    lines = set((b.work / "access.log").read_text().splitlines())
    true("/next 503 NC" in lines, f"the log is {lines}")
    true("/hold 200 -" in lines, f"the log is {lines}")
    same(got, (200, "A"), "the answer")


@case("a removed cluster that comes back needs its endpoints again", ("delta",))
def comes_back(b):
    s = live(b)
    b.plane.remove("cds", "a")
    b.plane.ack(b.plane.push("cds")[0])
    b.plane.request("eds", lambda r: r.unsubscribe == ["a"], s)
    b.plane.held.add("eds")
    b.plane.set(cluster("a"))
    b.plane.push("cds")
    b.plane.wait("asked for again", lambda: b.plane.subscriptions(s, "eds").get("a") == 2)
    same(ask(10001)[0], 503, "the status before")
    b.plane.push("eds", force=True)
    rig.until("its endpoints", 5, lambda: body(10001) == "A")


@case("a cluster replaced by one of another kind serves without a failed request")
def replaced(b):
    live(b)
    stop, failed = threading.Event(), []

    def load():
        while not stop.is_set():
            if (r := body(10001)) not in ("A", "B"):
                failed.append(r)
    t = threading.Thread(target=load)
    t.start()
    b.plane.set(cluster("a", "127.0.0.1:20002"))
    b.plane.push("cds")
    rig.until("the new one", 5, lambda: body(10001) == "B")
    b.plane.set(cluster("a"), endpoints("a", "127.0.0.1:20001"))
    b.plane.push("cds", "eds")
    b.plane.push("eds", force=True)
    rig.until("the third", 5, lambda: body(10001) == "A")
    stop.set()
    t.join()
    same(failed, [], "failed requests")


@case("a removed listener closes its port at once, and connections end after an answer with connection: close")
def removed(b):
    live(b)
    held = Held(10001)
    same(held.ask(), "A")
    b.plane.remove("lds", "one")
    b.plane.ack(b.plane.push("lds")[0])
    rig.until("the port closed", 5, lambda: body(10001) == 0)
    # Draining is a matter of chance until the drain time is over, so only that it still answers is certain.
    true(held.ask() in ("A", "last"), "the open connection was not answered")


@case("connections of a removed listener are closed when the drain time is over")
def drained(b):
    b.plane.set(cluster("a", "127.0.0.1:20001"), listener("one", 10001, routes("own", "a")))
    b.start(extra=("--drain-time-s", 1)).until_live()
    held = Held(10001)
    same(held.ask(), "A")
    b.plane.remove("lds", "one")
    b.plane.ack(b.plane.push("lds")[0])
    held.c.sock.settimeout(6)
    same(held.c.sock.recv(1), b"", "what comes on the connection")


@case("a listener of which one chain changed keeps the connections of the other")
def one_chain(b):
    b.plane.set(cluster("a", "127.0.0.1:20001"), cluster("b", "127.0.0.1:20002"), two_chains(10002, routes("near", "a"), routes("far", "a")))
    b.start(extra=("--drain-time-s", 1)).until_live()
    near, far = From(10002, "127.0.0.1"), From(10002, "127.0.0.2")
    same((near.ask(), far.ask()), ("A", "A"))
    b.plane.set(two_chains(10002, routes("near", "a"), routes("far", "b")))
    b.plane.ack(b.plane.push("lds")[0])
    rig.until("the new chain", 5, lambda: From(10002, "127.0.0.2").ask() == "B")
    far.c.sock and far.c.sock.settimeout(6)
    true(far.ask() in ("A", "last", "closed"), "the old chain's connection gave another answer")
    b.proxy.until_stat("listener_manager.total_filter_chains_draining", 0)
    same(far.ask(), "closed", "the changed chain's connection after the drain time")
    same(near.ask(), "A", "the other chain's connection after the drain time")
    same(b.proxy.stat("listener_manager.listener_in_place_updated"), 1, "listener_in_place_updated")


@case("a listener changed beside its chains ends all its connections after the drain time")
def whole_listener(b):
    b.plane.set(cluster("a", "127.0.0.1:20001"), cluster("b", "127.0.0.1:20002"), two_chains(10002, routes("near", "a"), routes("far", "a")))
    b.start(extra=("--drain-time-s", 1)).until_live()
    near = From(10002, "127.0.0.1")
    same(near.ask(), "A")
    b.plane.set(two_chains(10002, routes("near", "b"), routes("far", "b"), per_connection_buffer_limit_bytes=4096))
    b.plane.ack(b.plane.push("lds")[0])
    rig.until("the new listener", 5, lambda: body(10002) == "B")
    near.c.sock.settimeout(6)
    same(near.c.sock.recv(1), b"", "what comes on the connection")


@case("a listener that moves to another port serves there, and the old port closes")
def moved(b):
    live(b)
    b.plane.set(listener("one", 10002, "r"))
    b.plane.ack(b.plane.push("lds")[0])
    rig.until("the new port", 5, lambda: body(10002) == "A")
    rig.until("the old port closed", 5, lambda: body(10001) == 0)


@case("a port that is taken by another program refuses the listener; when it is free, the same listener is taken")
def port_taken(b):
    live(b)
    other = socket.socket()
    other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what earlier cases left in TIME_WAIT
    other.bind(("127.0.0.1", 10002))
    other.listen()
    b.plane.set(listener("two", 10002, "r"))
    _, text = b.plane.nack(b.plane.push("lds")[0]).error
    true("two" in text, f"the text is {text}")
    other.close()
    b.plane.push("lds", force=True)
    rig.until("the listener", 5, lambda: body(10002) == "A")


@case("two listeners that swap their ports are refused both, and serve as they did")
def swapped(b):
    live(b)
    b.plane.set(listener("two", 10002, routes("own", "b")))
    b.plane.ack(b.plane.push("lds")[0])
    rig.until("the second", 5, lambda: body(10002) == "B")
    b.plane.set(listener("one", 10002, "r"), listener("two", 10001, routes("own", "b")))
    _, text = b.plane.nack(b.plane.push("lds")[0]).error
    true("one" in text and "two" in text, f"the text is {text}")
    same((body(10001), body(10002)), ("A", "B"))


@case("no request fails while a listener is changed fifty times")
def many_changes(b):
    live(b)
    stop, failed, count = threading.Event(), [], [0]

    def load():
        while not stop.is_set():
            count[0] += 1
            if (r := body(10001)) not in ("A", "B"):
                failed.append(r)
    t = threading.Thread(target=load)
    t.start()
    for i in range(50):
        asked = count[0]
        b.plane.set(listener("one", 10001, routes(f"own{i}", "ab"[i % 2])))
        b.plane.ack(b.plane.push("lds")[0])
        rig.until("a request in between", 5, lambda: count[0] > asked)
    stop.set()
    t.join()
    same(failed, [], "failed requests")
    rig.until("the last", 5, lambda: body(10001) == "B")


@case("an additional address is bound and given up with its listener")
def additional(b):
    live(b)
    b.plane.set(listener("one", 10001, "r", additional_addresses=[{"address": address("127.0.0.1:10003")}]))
    b.plane.ack(b.plane.push("lds")[0])
    rig.until("the additional port", 5, lambda: body(10003) == "A")
    same(body(10001), "A")
    b.plane.set(listener("one", 10001, "r"))
    b.plane.ack(b.plane.push("lds")[0])
    rig.until("the additional port closed", 5, lambda: body(10003) == 0)
