"""What istiod, the agent, istioctl and the proxy say of each other must agree."""
import json
import re

from istio import fetch, names

STATIC_CLUSTERS = {"prometheus_stats", "agent", "sds-grpc", "xds-grpc"}
TYPES = {"cds": "envoy.config.cluster.v3.Cluster", "eds": "envoy.config.endpoint.v3.ClusterLoadAssignment", "lds": "envoy.config.listener.v3.Listener",
         "rds": "envoy.config.route.v3.RouteConfiguration", "sds": "envoy.extensions.transport_sockets.tls.v3.Secret",
         "ecds": "envoy.config.core.v3.TypedExtensionConfig", "wds": "istio.workload.Workload"}
NOT_IN_STOCK = {"wds"}


def nothing_refused(world):
    """By istiod's log and book, by the proxy's stats, and by the proxy's log, where each warning may stand once."""
    mesh = world.mesh
    nacks = mesh.nacks()
    assert not nacks, f"istiod was told {len(nacks)} times that something is wrong: {nacks[0][:2000]}"
    assert not (r := mesh.rejected()), f"refused by the proxy's stats: {r}"
    open_ = {what: pair for what, pair in (mesh.synced() or {}).items() if pair[0] != pair[1]}
    assert not open_, f"sent and not acknowledged: {open_}"
    assert "panicked" not in mesh.log(), "a panic: " + next(l for l in mesh.log().splitlines() if "panicked" in l)
    if not world.stock:
        said = [w for l in mesh.log().splitlines() if (w := warning(l)) and "config stream" not in w]  # as often as istiod dies
        twice = sorted({w for w in said if said.count(w) > 1})
        assert not twice, f"{len(twice)} warnings came more than once, such as ({said.count(twice[0])} times) {twice[0]}"


def warning(line):
    """The text of the proxy's warning; nothing for other lines and for the agent's. The bootstrap file gives the format."""
    parts = line.split("\t")
    return parts[3] if len(parts) >= 4 and parts[1] in ("warning", "error", "critical") and parts[2].startswith("envoy ") else None


def recorded(world, step, kind):
    path = world.mesh.scenario / "recorded/state" / step / f"{kind}.json"
    return json.loads(path.read_text()) if path.exists() else []


def agree(world, step):
    """istiod's book, its recorded push of the step, and istioctl's reading of the proxy."""
    nothing_refused(world)
    book = world.mesh.synced()
    for kind, url in TYPES.items():
        if recorded(world, step, kind) and not (world.stock and kind in NOT_IN_STOCK):
            assert f"type.googleapis.com/{url}" in book, f"istiod knows of no {kind}: {sorted(book)}"
    istioctl(world, step)
    assert (status := fetch(15090, "/stats/prometheus")[0]) == 200, f"15090 answered {status}"
    merged = fetch(15020, "/stats/prometheus")
    assert merged[0] == 200 and "envoy_server_" in merged[1], f"the agent's merged metrics: {merged[0]} {merged[1][:200]}"


def istioctl(world, step):
    dump, clusters = world.mesh.dump(), world.mesh.work / "clusters.json"
    clusters.write_text(world.mesh.admin("/clusters?format=json"))

    def read(what, file=dump):
        world.mesh.tool.istioctl("proxy-config", what, "--file", file)  # the table has code of its own
        return json.loads(world.mesh.tool.istioctl("proxy-config", what, "--file", file, "-o", "json") or "null") or []

    same("clusters", names(read("clusters")), set(names(recorded(world, step, "cds"))) | STATIC_CLUSTERS)
    listeners = {n for n in names(read("listeners")) if not re.fullmatch(r"(0\.0\.0\.0_)?(15090|15021)|", n)}
    same("listeners", listeners, names(recorded(world, step, "lds")))
    routes = {r.get("name", "") for r in read("routes")}
    missing = set(names(recorded(world, step, "rds"))) - routes
    assert not missing, f"istioctl sees no routes {missing}, but {routes}"
    with_hosts = {e["cluster_name"] for e in recorded(world, step, "eds") if any(l.get("lb_endpoints") for l in e.get("endpoints", []))}
    seen = {e["name"] for e in read("endpoints", clusters) if e.get("hostStatuses") or e.get("host_statuses")}
    assert with_hosts <= seen, f"istioctl sees no endpoints of {with_hosts - seen}"
    secrets = read("secret")
    active = {s["name"] for s in secrets.get("dynamicActiveSecrets", [])}
    expected = {"default", "ROOTCA"} | set(names(recorded(world, step, "sds")))
    if not any("tls" in json.dumps(recorded(world, step, k)) for k in ("lds", "cds")):
        expected = set()
    assert expected <= active, f"istioctl sees no secrets {expected - active}, but {active}"
    world.mesh.tool.istioctl("proxy-config", "all", "--file", dump)
    world.mesh.tool.istioctl("proxy-config", "all", "--file", dump, "-o", "json")
    boot = json.loads(world.mesh.tool.istioctl("proxy-config", "bootstrap", "--file", dump, "-o", "json"))
    assert boot["bootstrap"]["node"]["id"] == world.mesh.node["id"], boot["bootstrap"]["node"]["id"]


def same(what, seen, expected):
    seen, expected = set(seen), set(expected)
    assert seen == expected, f"istioctl's {what} are not what istiod pushed: missing {sorted(expected - seen)}, unknown {sorted(seen - expected)}"
