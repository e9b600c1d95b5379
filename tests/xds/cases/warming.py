"""Nothing is used before what it needs is there, and what is there serves on until then."""
import time

from cases import case, same, true
from cases.conversation import live
from cases.together import active, names
from resources import adds_header, cluster, endpoints, later_filter, listener, routes, sds_source, secret, source, tls

from bed import ask, body, peer_certificate, rig


def pem(b, name="server"):
    return (b.certs / f"{name}.pem").read_text(), (b.certs / f"{name}.key").read_text()


def warming(b):
    return names(b, "ClustersConfigDump", "dynamic_warming_clusters")


@case("listeners are not asked for until the first clusters have their endpoints")
def clusters_first(b):
    b.plane.held.add("eds")
    b.plane.set(cluster("a"), endpoints("a", "127.0.0.1:20001"), listener("one", 10001, routes("own", "a")))
    b.start()
    s = b.plane.stream()
    b.plane.request("eds", stream=s)
    same(b.proxy.get("/ready")[1].strip(), "PRE_INITIALIZING", "the state")
    true("lds" not in {r.type for r in s.asked}, "listeners were asked for")
    b.plane.push("eds")
    b.plane.request("lds", stream=s)
    b.proxy.until_live()
    same(body(10001), "A")


@case("the proxy is not LIVE until the first listeners are there")
def not_live(b):
    b.plane.held.add("lds")
    b.plane.set(cluster("a", "127.0.0.1:20001"), listener("one", 10001, routes("own", "a")))
    b.start()
    b.plane.request("lds")
    same(b.proxy.get("/ready"), (503, "INITIALIZING\n"), "/ready")
    b.plane.push("lds")
    b.proxy.until_live()
    same(body(10001), "A")


@case("without a control plane the proxy is LIVE when the initial fetch timeouts are over, and connects later")
def no_plane(b):
    b.plane.stop()
    b.start(timeout="0.2s").until_live()
    b.plane.set(cluster("a", "127.0.0.1:20001"), listener("one", 10001, routes("own", "a")))
    b.plane.start()
    rig.until("the listener", 10, lambda: body(10001) == "A")


@case("nothing at all is a configuration: with empty answers the proxy is LIVE")
def nothing(b):
    b.start().until_live()
    same(b.proxy.stat("listener_manager.total_listeners_active"), 0, "listeners")


@case("a refused first response counts as an answer: the proxy is LIVE")
def refused_first(b):
    b.plane.set(cluster("bad", "127.0.0.1:20001", lb_policy="RING_HASH", ring_hash_lb_config={"minimum_ring_size": 10, "maximum_ring_size": 5}))
    b.start().until_live()
    b.plane.nack(b.plane.sent("cds"))


@case("a new cluster is not used before its endpoints are there")
def new_cluster(b):
    live(b)
    b.plane.set(cluster("c"), routes("r", "c"))
    b.plane.push("cds", "rds")
    b.proxy.until_stat("cluster_manager.warming_clusters", 1)
    same(warming(b), ["c"], "the warming clusters")
    rig.until("the route", 5, lambda: body(10001) == 503)
    b.plane.set(endpoints("c", "127.0.0.1:20002"))
    b.plane.push("eds")
    rig.until("its endpoint", 5, lambda: body(10001) == "B")
    same(warming(b), [], "the warming clusters")


@case("an empty assignment ends the waiting; requests are answered 503 with UH")
def empty_assignment(b):
    live(b)
    b.plane.set(cluster("c"), endpoints("c"), routes("r", "c"))
    b.plane.push("cds", "rds")
    b.proxy.until_stat("cluster_manager.warming_clusters", 0)
    rig.until("no healthy upstream", 5, lambda: ask(10001)[:2] == (503, "no healthy upstream"))
    same(active(b), ["a", "b", "c"], "the clusters")


@case("an assignment that becomes empty: requests are answered 503 with UH, and are good again with an endpoint")
def becomes_empty(b):
    live(b)
    b.plane.set(endpoints("a"))
    b.plane.ack(b.plane.push("eds")[0])
    rig.until("no healthy upstream", 5, lambda: ask(10001)[:2] == (503, "no healthy upstream"))
    same(b.proxy.stat("cluster.a.update_empty"), 0, "update_empty")
    b.plane.set(endpoints("a", "127.0.0.1:20002"))
    b.plane.ack(b.plane.push("eds")[0])
    rig.until("an endpoint", 5, lambda: body(10001) == "B")


@case("endpoints removed by name stay in use as long as their cluster", ("delta",))
def endpoints_removed(b):
    live(b)
    b.plane.remove("eds", "a")
    b.plane.ack(b.plane.push("eds")[0])
    same(body(10001), "A")
    b.plane.remove("cds", "a")
    b.plane.ack(b.plane.push("cds")[0])
    rig.until("the cluster gone", 5, lambda: body(10001) == 503)


@case("endpoints that do not come in time end the waiting: the cluster goes live without")
def fetch_timeout(b):
    live(b)
    b.plane.set(cluster("c", timeout="0.2s"), routes("r", "c"))
    b.plane.push("cds", "rds")
    b.proxy.until_stat("cluster.c.init_fetch_timeout", 1)
    rig.until("it is active", 5, lambda: active(b) == ["a", "b", "c"])
    same(ask(10001)[:2], (503, "no healthy upstream"), "the answer")
    b.plane.set(endpoints("c", "127.0.0.1:20002"))
    b.plane.push("eds")
    rig.until("its endpoint", 5, lambda: body(10001) == "B")


@case("a changed cluster serves as it was until the new one has its endpoints")
def changed_cluster(b):
    live(b)
    b.plane.set(cluster("a", connect_timeout="3s"))
    b.plane.push("cds")
    b.proxy.until_stat("cluster_manager.warming_clusters", 1)
    same(body(10001), "A")
    b.plane.set(endpoints("a", "127.0.0.1:20002"))
    b.plane.push("eds")
    rig.until("the new one", 5, lambda: body(10001) == "B")
    same(warming(b), [], "the warming clusters")


@case("clusters are acknowledged when the endpoints they wait for are there", ("delta",))
def late_ack(b):
    s = live(b)
    b.plane.set(cluster("c"))
    sent = b.plane.push("cds")[0]
    b.plane.request("eds", lambda r: "c" in r.subscribe, s)
    b.proxy.until_stat("cluster_manager.warming_clusters", 1)
    b.note(f"the clusters were acknowledged before the endpoints were there: {any(r.nonce == sent.nonce for r in s.asked)}")
    b.plane.set(endpoints("c", "127.0.0.1:20002"))
    b.plane.push("eds")
    b.plane.ack(sent)


@case("a warming cluster that is removed again is gone, and asks for no more")
def removed_warming(b):
    s = live(b)
    b.plane.set(cluster("c"))
    b.plane.push("cds")
    b.proxy.until_stat("cluster_manager.warming_clusters", 1)
    b.plane.remove("cds", "c")
    b.plane.push("cds")
    b.proxy.until_stat("cluster_manager.warming_clusters", 0)
    same(active(b), ["a", "b"], "the clusters")
    b.plane.request("eds", lambda r: r.unsubscribe == ["c"] if b.dialect == "delta" else sorted(r.subscribe) == ["a", "b"] and r.nonce, s)


@case("a new listener is not bound until its routes are there")
def new_listener(b):
    live(b)
    b.plane.set(listener("two", 10002, "late"))
    b.plane.ack(b.plane.push("lds")[0])
    b.plane.request("rds", lambda r: "late" in r.subscribe)
    same(body(10002), 0, "the port")
    same(b.proxy.stat("listener_manager.total_listeners_warming"), 1, "the warming listeners")
    b.plane.set(routes("late", "b"))
    b.plane.push("rds")
    rig.until("the listener", 5, lambda: body(10002) == "B")
    same(b.proxy.stat("listener_manager.total_listeners_warming"), 0, "the warming listeners")


@case("routes that do not come in time end the waiting: the listener is bound and answers 404")
def routes_timeout(b):
    live(b)
    b.plane.set(listener("two", 10002, "late", timeout="0.2s"))
    b.plane.ack(b.plane.push("lds")[0])
    rig.until("the listener", 5, lambda: body(10002) == 404)
    b.plane.set(routes("late", "b"))
    b.plane.push("rds")
    rig.until("its routes", 5, lambda: body(10002) == "B")


@case("a changed listener serves as it was until the new one has its routes")
def changed_listener(b):
    live(b)
    b.plane.set(listener("one", 10001, "late"))
    b.plane.ack(b.plane.push("lds")[0])
    b.plane.request("rds", lambda r: "late" in r.subscribe)
    same(body(10001), "A")
    b.plane.set(routes("late", "b"))
    b.plane.push("rds")
    rig.until("the new one", 5, lambda: body(10001) == "B")


@case("a change of a listener that still waits replaces what waits")
def changed_warming(b):
    live(b)
    b.plane.set(listener("one", 10001, "late"))
    b.plane.ack(b.plane.push("lds")[0])
    b.plane.request("rds", lambda r: "late" in r.subscribe)
    b.plane.set(listener("one", 10001, routes("own", "b")))
    b.plane.ack(b.plane.push("lds")[0])
    rig.until("the third", 5, lambda: body(10001) == "B")
    same(b.proxy.stat("listener_manager.total_listeners_warming"), 0, "the warming listeners")


@case("a listener that is removed while it waits is gone")
def removed_listener(b):
    live(b)
    b.plane.set(listener("two", 10002, "late"))
    b.plane.ack(b.plane.push("lds")[0])
    b.plane.remove("lds", "two")
    b.plane.ack(b.plane.push("lds")[0])
    b.proxy.until_stat("listener_manager.total_listeners_warming", 0)
    same(body(10002), 0, "the port")


@case("a listener waits for its extensions; a changed extension is taken without a new listener")
def extensions(b):
    live(b)
    b.plane.set(listener("two", 10002, "r", filters=[later_filter("f")]))
    b.plane.ack(b.plane.push("lds")[0])
    b.plane.request("ecds", lambda r: r.subscribe == ["f"])
    same(body(10002), 0, "the port")
    b.plane.set(adds_header("f", "x-f", "1"))
    b.plane.push("ecds")
    rig.until("the listener", 5, lambda: ask(10002)[2].get("x-f") == "1")
    before = b.proxy.stat("listener_manager.listener_create_success")
    b.plane.set(adds_header("f", "x-f", "2"))
    b.plane.ack(b.plane.push("ecds")[0])
    rig.until("the change", 5, lambda: ask(10002)[2].get("x-f") == "2")
    same(b.proxy.stat("listener_manager.listener_create_success"), before, "listener_create_success")


@case("an extension that does not come in time: the listener is bound and answers 500")
def extension_timeout(b):
    live(b)
    b.plane.set(listener("two", 10002, "r", filters=[later_filter("f", timeout="0.2s")]))
    b.plane.ack(b.plane.push("lds")[0])
    rig.until("the listener", 5, lambda: body(10002) == 500)
    b.plane.set(adds_header("f", "x-f", "1"))
    b.plane.push("ecds")
    rig.until("the extension", 5, lambda: ask(10002)[2].get("x-f") == "1")


@case("an extension with a default that applies without warming lets the listener serve at once")
def extension_default(b):
    live(b)
    default = adds_header("f", "x-f", "default")["typed_config"]
    f = later_filter("f", default=default)
    f["config_discovery"]["apply_default_config_without_warming"] = True
    b.plane.set(listener("two", 10002, "r", filters=[f]))
    b.plane.ack(b.plane.push("lds")[0])
    rig.until("the listener", 5, lambda: ask(10002)[2].get("x-f") == "default")
    b.plane.set(adds_header("f", "x-f", "1"))
    b.plane.push("ecds")
    rig.until("the extension", 5, lambda: ask(10002)[2].get("x-f") == "1")


@case("a listener waits for its certificate")
def certificate(b):
    live(b)
    b.plane.set(listener("two", 10002, "r", chain=tls("cert", source())))
    b.plane.ack(b.plane.push("lds")[0])
    b.plane.request("sds", lambda r: r.subscribe == ["cert"])
    same(peer_certificate(10002), None, "a handshake")
    same(b.proxy.stat("listener_manager.total_listeners_warming"), 1, "the warming listeners")
    b.plane.set(secret("cert", *pem(b)))
    b.plane.push("sds")
    rig.until("a handshake", 5, lambda: peer_certificate(10002))


@case("a cluster waits for the certificate of its connections")
def cluster_certificate(b):
    live(b)
    b.sds.start()
    upstream = {"transport_socket": {"name": "tls", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "common_tls_context": {"tls_certificate_sds_secret_configs": [{"name": "cert", "sds_config": sds_source(b.dialect)}]}}}}
    b.plane.set(cluster("c", "127.0.0.1:20001", **upstream))
    b.plane.push("cds")
    b.sds.request("sds", lambda r: r.subscribe == ["cert"])
    same(warming(b), ["c"], "the warming clusters")
    b.sds.set(secret("cert", *pem(b)))
    b.sds.push("sds")
    rig.until("it is active", 5, lambda: active(b) == ["a", "b", "c"])


@case("the first clusters wait for their secrets too: nothing is LIVE without")
def first_secrets(b):
    b.sds.start()
    upstream = {"transport_socket": {"name": "tls", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "common_tls_context": {"tls_certificate_sds_secret_configs": [{"name": "cert", "sds_config": sds_source(b.dialect)}]}}}}
    b.plane.set(cluster("c", "127.0.0.1:20001", **upstream))
    b.start()
    b.sds.request("sds", lambda r: r.subscribe == ["cert"])
    true("lds" not in {r.type for s in b.plane.streams for r in s.asked}, "listeners were asked for")
    b.sds.set(secret("cert", *pem(b)))
    b.sds.push("sds")
    b.proxy.until_live()


@case("a control plane that is cut while things wait: they go on waiting, and are ready when it is back")
def cut_while_warming(b):
    s = live(b)
    b.plane.set(listener("two", 10002, "late"), cluster("c"))
    b.plane.push("lds", "cds")
    b.plane.request("rds", lambda r: "late" in r.subscribe)
    b.plane.set(routes("late", "b"), endpoints("c", "127.0.0.1:20001"))
    s.cut()
    rig.until("the listener", 10, lambda: body(10002) == "B")
    rig.until("the cluster", 5, lambda: active(b) == ["a", "b", "c"])


@case("a thousand clusters without endpoints wait without holding back a good listener")
def many_warming(b):
    live(b)
    b.plane.set(*[cluster(f"w{i}") for i in range(1000)])
    b.plane.push("cds")
    b.proxy.until_stat("cluster_manager.warming_clusters", 1000, 20)
    b.plane.set(listener("two", 10002, routes("own", "b")))
    begin = time.monotonic()
    b.plane.ack(b.plane.push("lds")[0])
    rig.until("the listener", 5, lambda: body(10002) == "B")
    true(time.monotonic() - begin < 3, "it took too long")


@case("a listener whose first routes are refused does not wait for ever: it is bound and answers 404 until good ones come")
def first_routes_refused(b):
    live(b)
    bad = routes("late", "b")
    bad["virtual_hosts"][0]["routes"][0]["match"] = {"safe_regex": {"regex": "(("}}
    b.plane.set(listener("two", 10002, "late"), bad)
    b.plane.push("lds")
    b.plane.nack(b.plane.sent("rds", "late"))
    rig.until("the listener", 5, lambda: body(10002) == 404)
    b.plane.set(routes("late", "b"))
    b.plane.ack(b.plane.push("rds")[0])
    rig.until("good routes", 5, lambda: body(10002) == "B")


@case("a cluster whose first endpoints are refused does not wait for ever: requests are answered 503 until good ones come")
def first_endpoints_refused(b):
    live(b)
    b.plane.set(cluster("c"), endpoints("c", "no-address:1"), routes("r", "c"))
    b.plane.push("cds", "rds")
    b.plane.nack(b.plane.sent("eds", "c"))
    rig.until("it is active", 5, lambda: active(b) == ["a", "b", "c"])
    same(ask(10001)[:2], (503, "no healthy upstream"), "the answer")
    b.plane.set(endpoints("c", "127.0.0.1:20002"))
    b.plane.ack(b.plane.push("eds")[0])
    rig.until("good endpoints", 5, lambda: body(10001) == "B")


@case("a listener whose first certificate is refused makes no handshake until a good one comes")
def first_certificate_refused(b):
    live(b)
    b.plane.set(listener("two", 10002, "r", chain=tls("cert", source())), secret("cert", "no certificate", "no key"))
    b.plane.push("lds")
    b.plane.nack(b.plane.sent("sds", "cert"))
    same(peer_certificate(10002), None, "a handshake")
    b.plane.set(secret("cert", *pem(b)))
    b.plane.ack(b.plane.push("sds")[0])
    rig.until("a handshake", 5, lambda: peer_certificate(10002))


@case("a secret that does not come in time: the listener is bound, and handshakes fail until it is there")
def certificate_timeout(b):
    live(b)
    b.plane.set(listener("two", 10002, "r", chain=tls("cert", source("0.2s"))))
    b.plane.ack(b.plane.push("lds")[0])
    b.proxy.until_stat("listener_manager.total_listeners_warming", 0)
    same(peer_certificate(10002), None, "a handshake")
    b.plane.set(secret("cert", *pem(b)))
    b.plane.push("sds")
    rig.until("a handshake", 5, lambda: peer_certificate(10002))
