"""VHDS: virtual hosts of a route configuration that come one by one, also when a request asks for one. Only the incremental dialect has it."""
import threading

from cases import case, same, true
from proto import Resource
from resources import ON_DEMAND, cluster, listener, routes, source, virtual_host

from bed import body, rig

DELTA = ("delta",)


def table(*hosts, name="r", timeout="0s"):
    """A route configuration with virtual hosts of its own."""
    own = [{k: v for k, v in virtual_host(name, h, h).items() if k != "@type"} for h in hosts]
    return routes(name, "<unused>") | {"virtual_hosts": own, "vhds": {"config_source": source(timeout)}}


def of(host):
    return body(10001, host=host)


def live(b, *hosts, filters=(ON_DEMAND,)):
    b.plane.set(listener("one", 10001, "r", filters=filters), table("own.test"), *[virtual_host("r", h, h) for h in hosts])
    b.start()
    b.proxy.until_live()
    return b.plane.stream()


@case("virtual hosts of VHDS are beside those of the route configuration, change and go", DELTA)
def beside(b):
    s = live(b, "a.test", filters=())
    same((of("own.test"), of("a.test")), ("own.test", "a.test"), "the answers")
    first = b.plane.request("vhds", stream=s)
    same(first.subscribe, [], "what was asked for")
    b.plane.ack(b.plane.sent("vhds"))
    same(b.proxy.stat("http.in.rds.vhds.r.update_success"), 1, "update_success")
    same(b.proxy.stat("http.in.rds.vhds.r.config_reload"), 1, "config_reload")
    b.plane.set(virtual_host("r", "a.test", "changed", "a.test"), virtual_host("r", "b.test", "b"))
    b.plane.push("vhds")
    rig.until("changed", 5, lambda: (of("a.test"), of("b.test")) == ("changed", "b"))
    b.plane.remove("vhds", "r/b.test")
    b.plane.push("vhds")
    b.plane.held.add("vhds")
    b.plane.set(table("own.test", "more.test"))
    b.plane.push("rds")
    rig.until("more of RDS", 5, lambda: of("more.test") == "more.test")
    same(of("a.test"), "changed")
    [dump] = b.proxy.dump("v3.RoutesConfigDump")
    hosts = sorted(h["name"] for h in dump["dynamic_route_configs"][0]["route_config"]["virtual_hosts"])
    same(hosts, ["r/a.test", "r/more.test", "r/own.test"], "the dump")


@case("a listener waits for the virtual hosts of its routes", DELTA)
def warms(b):
    b.plane.held.add("vhds")
    b.plane.set(cluster("a", "127.0.0.1:20001"))
    b.start()
    b.proxy.until_live()
    b.plane.set(listener("one", 10001, "r"), table(), virtual_host("r", "a.test", "a"))
    b.plane.push("lds")
    b.plane.request("vhds")
    same(b.proxy.stat("listener_manager.total_listeners_warming"), 1, "warming listeners")
    b.plane.push("vhds")
    rig.until("an answer", 5, lambda: of("a.test") == "a")


def meanwhile(b, s, host, name, cluster=None):
    """What a client of HOST is answered while the control plane is asked for it by name, and sends virtual host NAME of CLUSTER, or none."""
    b.plane.held.add("vhds")
    said, alias = [], f"r/{host.lower()}"
    t = threading.Thread(target=lambda: said.append(of(host)))
    t.start()
    r = b.plane.request("vhds", lambda r: r.subscribe == [alias], stream=s)
    true(r.nonce == "" and not said, "an answer")
    [wire] = b.plane.wire.encode([virtual_host("r", name, cluster, host.lower())]) if cluster else [b""]
    b.plane.ack(s.send("vhds", [Resource(f"r/{name}", "7", wire, (alias,))]))
    t.join(10)
    return said


@case("a host that nobody knows is asked for by name, and its request goes on when it comes", DELTA)
def asked(b):
    s = live(b, "a.test")
    said = meanwhile(b, s, "New.test", "vhost_1", "new")
    same(said, ["new"], "the answer")
    same(of("new.test"), "new")


@case("a host that the control plane does not have is 404", DELTA)
def not_there(b):
    s = live(b, "a.test")
    said = meanwhile(b, s, "no.test", "no.test")
    same(said, [404], "the answer")


@case("without the filter no host is asked for", DELTA)
def no_filter(b):
    s = live(b, "a.test", filters=())
    same(of("no.test"), 404)
    same([r.subscribe for r in s.asked if r.type == "vhds" and r.subscribe], [], "requests for virtual hosts by name")


@case("virtual hosts that make no table are refused, and those that were there stay", DELTA)
def refused(b):
    live(b, "a.test")
    b.plane.set(virtual_host("r", "b.test", "b", "a.test"))
    [sent] = b.plane.push("vhds")
    b.plane.nack(sent)
    same(of("a.test"), "a.test")


@case("vhds over a stream of the state of the world is refused", ("sotw",))
def sotw(b):
    b.plane.set(listener("one", 10001, "r"), table("own.test"))
    b.start()
    error = b.plane.nack(b.plane.sent("rds")).error[1]
    true("vhds: ADS must use DELTA_GRPC api_type when used as VHDS config source." in error, error)


@case("after an outage virtual hosts are asked for as a whole, with their versions and with what was asked for by name", DELTA)
def outage(b):
    s = live(b, "a.test")
    said = meanwhile(b, s, "new.test", "vhost_1", "new")
    same(said, ["new"], "the answer")
    s.cut()
    r = b.plane.request("vhds", stream=b.plane.stream(after=s))
    same((r.subscribe, sorted(r.initial)), (["*", "r/new.test"], ["r/a.test", "r/vhost_1"]), "the first request")
