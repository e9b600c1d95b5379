"""Scoped routes: which route configuration a request has is said by a key that is made of its headers."""
from cases import case, same, true
from resources import ON_DEMAND, cluster, listener, routes, scope, scoped

from bed import body, rig


def by(key, port=10001):
    """What a request with the key is answered."""
    return body(port, headers={"x-scope": key})


def live(b, *scopes, filters=(), port=10001):
    b.plane.set(listener("one", port, scoped("x-scope"), filters=filters), *scopes, routes("r1", "<one>"), routes("r2", "<two>"))
    b.start()
    b.proxy.until_live()
    return b.plane.stream()


@case("a request has the routes of the scope that its key names, and without one it is 404")
def by_key(b):
    live(b, scope("s1", "r1", "a"), scope("s2", "r2", "b"))
    same((by("a"), by("b"), by("c"), body(10001)), ("one", "two", 404, 404), "the answers")
    b.plane.ack(b.plane.sent("scoped"))
    same(b.proxy.stat("http.in.scoped_rds.scopes.all_scopes"), 2, "all_scopes")
    same(b.proxy.stat("http.in.scoped_rds.scopes.active_scopes"), 2, "active_scopes")
    same(b.proxy.stat("http.in.scoped_rds.scopes.update_success"), 1, "update_success")
    [dump] = b.proxy.dump("ScopedRoutesConfigDump")
    [whole] = dump["dynamic_scoped_route_configs"]
    same((whole["name"], [s["name"] for s in whole["scoped_route_configs"]]), ("scopes", ["s1", "s2"]), "the dump")


@case("scopes change their routes and keys, come and go")
def changes(b):
    live(b, scope("s1", "r1", "a"), scope("s2", "r2", "b"))
    b.plane.set(scope("s1", "r2", "a"))
    b.plane.push("scoped")
    rig.until("other routes", 5, lambda: by("a") == "two")
    b.plane.set(scope("s1", "r2", "c"), scope("s3", "r1", "d"))
    b.plane.push("scoped")
    rig.until("another key", 5, lambda: by("c") == "two" and by("a") == 404 and by("d") == "one")
    b.plane.remove("scoped", "s2")
    b.plane.push("scoped")
    rig.until("no scope", 5, lambda: by("b") == 404)
    b.plane.set(routes("r1", "<changed>"))
    b.plane.push("rds")
    rig.until("changed routes", 5, lambda: by("d") == "changed")


@case("a second scope with a key is refused by name with all that came with it")
def conflict(b):
    live(b, scope("s1", "r1", "a"))
    b.plane.set(scope("s2", "r2", "a"), scope("s3", "r2", "c"))
    [sent] = b.plane.push("scoped")
    error = b.plane.nack(sent).error[1]
    true("scope key conflict found, first scope is 's1', second scope is 's2'" in error, error)
    same((by("a"), by("c")), ("one", 404), "the answers")
    same(b.proxy.stat("http.in.scoped_rds.scopes.update_rejected"), 1, "update_rejected")


@case("a listener waits for its scopes and for their routes")
def warms(b):
    b.plane.held |= {"scoped", "rds"}
    b.plane.set(cluster("a", "127.0.0.1:20001"))
    b.start()
    b.proxy.until_live()
    b.plane.set(listener("one", 10001, scoped("x-scope")), scope("s1", "r1", "a"), routes("r1", "<one>"))
    b.plane.push("lds")
    b.plane.request("scoped")
    same(b.proxy.stat("listener_manager.total_listeners_warming"), 1, "warming listeners")
    b.plane.push("scoped")
    b.plane.request("rds")
    same(b.proxy.stat("listener_manager.total_listeners_warming"), 1, "warming listeners")
    b.plane.push("rds")
    rig.until("an answer", 5, lambda: by("a") == "one")


@case("the routes of a scope on demand are asked for by the first request that needs them")
def on_demand(b):
    s = live(b, scope("s1", "r1", "a"), scope("s2", "r2", "b", on_demand=True), filters=[ON_DEMAND])
    same((by("a"), by("c")), ("one", 404), "the answers")
    true(not any("r2" in r.subscribe for r in s.asked if r.type == "rds"), "r2 was asked for")
    same(by("b"), "two")
    b.plane.request("rds", lambda r: "r2" in r.subscribe, stream=s)
    same(by("b"), "two")
    same(b.proxy.stat("http.in.scoped_rds.scopes.on_demand_scopes"), 1, "on_demand_scopes")
    same(b.proxy.stat("http.in.scoped_rds.scopes.active_scopes"), 2, "active_scopes")


@case("without the filter a scope on demand has no routes")
def no_filter(b):
    live(b, scope("s1", "r1", "a"), scope("s2", "r2", "b", on_demand=True))
    same((by("a"), by("b")), ("one", 404), "the answers")


@case("a scope of a list within the listener has its own routes, and the last one with a key is in force")
def inline(b):
    own = lambda name, text, key: {"name": name, "key": {"fragments": [{"string_key": key}]}, "route_configuration": {k: v for k, v in routes(name, text).items() if k != "@type"}}
    b.plane.set(listener("one", 10001, scoped("x-scope", [own("s1", "<one>", "a"), own("s2", "<two>", "b"), own("s3", "<three>", "a")])))
    b.start()
    b.proxy.until_live()
    same((by("a"), by("b"), by("c")), ("three", "two", 404), "the answers")


@case("a scope of a list that names its routes is refused with the listener")
def inline_name(b):
    b.plane.set(listener("one", 10001, scoped("x-scope", [scope("s1", "r1", "a")])))
    b.start()
    b.plane.nack(b.plane.sent("lds"))


@case("a scope of SRDS may have routes of its own")
def own_routes(b):
    live(b, scope("s1", "r1", "a"))
    made = scope("s2", "", "b", route_configuration={k: v for k, v in routes("x", "<x>").items() if k != "@type"})
    b.plane.set({k: v for k, v in made.items() if k != "route_configuration_name"})
    [sent] = b.plane.push("scoped")
    b.plane.ack(sent)
    rig.until("its own routes", 5, lambda: by("b") == "x")
    same(b.proxy.stat("http.in.scoped_rds.scopes.active_scopes"), 1, "active_scopes")
    b.plane.set({k: v for k, v in made.items() if k not in ("route_configuration_name", "route_configuration")})
    [sent] = b.plane.push("scoped")
    true("route_configuration_name is empty" in b.plane.nack(sent).error[1], "another reason")
    same(by("b"), "x")
