#!/usr/bin/env python3
"""updates.py --bin BINARY [--tools WAYPOST] [--seconds S] [--rate N] [--restarts N] [--services N]

A waypoint under load while its configuration changes and its control plane dies. 64 tunnels on one HBONE connection ask back to back:

  quiet     nothing changes
  updates   N updates a second: endpoints, of which some are the loaded service's, clusters, the listener with all chains, routes, and secrets
  restarts  the control plane is killed and started again, N times: each time everything is subscribed once, and told by version

No request may fail, no update may be refused, and the 99th percentile may be at most twice the quiet one (the worse of before and after)."""
import argparse
import itertools
import json
import pathlib
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
sys.dont_write_bytecode = True
import rig  # noqa: E402
from mesh import FIRST_PORT, Mesh, vip  # noqa: E402
from proto import Request, Wire  # noqa: E402
from resources import cluster, listener, routes, secret  # noqa: E402
from waypoint import POD, Waypoint  # noqa: E402

TIMES = 2.0  # how much longer the slowest hundredth may take
LISTENERS = 10  # every so many updates is one of the listener with all chains


class Load:
    """`hbone load` for some seconds; `said` is what it counted."""

    def __init__(self, w, seconds):
        command = w.command("load", "--connections", 1, "--streams", 64, "--duration", f"{seconds}s", f"http://{vip(0)}:{FIRST_PORT}/")
        self.child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def running(self):
        return self.child.poll() is None

    def end(self):
        out, err = self.child.communicate(timeout=120)
        lines = [x for x in out.splitlines() if x.startswith("{")]
        self.said = json.loads(lines[-1]) if lines else {"requests": 0, "errors": 1, "rps": 0, "p50_us": 0, "p99_us": 0}
        self.failure = err.strip()
        return self.said


def line(what, said, more=""):
    print(f"{what:9} {said['requests']} requests, {said['errors']} failed, {said['rps']:.0f}/s, p50 {said['p50_us'] / 1000:.2f} ms, p99 {said['p99_us'] / 1000:.2f} ms{more}", flush=True)


def variants(mesh, wire, certs):
    """{kind: endless iterator of (type, name, encoded Any)}: made before, so that the updates cost the machine little."""
    encode = lambda kind, values: [(kind, v.get("name") or v["cluster_name"], a) for v, a in zip(values, wire.encode(values))]
    pairs = mesh.pairs()
    ends = []
    for n, (i, port) in enumerate(pairs[:40]):
        two = mesh.made(mesh.endpoint_text, i, port)
        hosts = two["endpoints"][0]["lb_endpoints"]
        hosts.append(json.loads(json.dumps(hosts[0]).replace(POD, "127.1.0.2")))
        ends.append([two, mesh.made(mesh.endpoint_text, i, port)])
    # Every fourth is the loaded cluster's: it gains and loses its second pod.
    order = [ends[0][n % 2] if n % 4 == 0 else ends[1 + n % 39][n // 39 % 2] for n in range(4 * 39 * 2)]
    clusters = []
    for n in range(40):
        c = mesh.made(mesh.cluster_text, *pairs[1 + n % 20])
        clusters.append(c | {"connect_timeout": f"{5 + n // 20}s"})
    mains = []
    for n in range(4):
        main = mesh.main_internal()
        chain = main["filter_chains"][1 + n]  # never the loaded one, which is the first
        main["filter_chains"][1 + n] = json.loads(json.dumps(chain).replace('"stat_prefix": "inbound', f'"stat_prefix": "changed{n}'))
        mains.append(main)
    pem = lambda name: ((certs / f"{name}.pem").read_text(), (certs / f"{name}.key").read_text())
    out = {"eds": encode("eds", order), "cds": encode("cds", clusters), "lds": encode("lds", mains), "rds": encode("rds", [routes("r", f"<{n}>") for n in range(8)]),
           "sds": encode("sds", [secret("default", *pem(n)) for n in ("waypoint", "server")])}
    return {k: itertools.cycle(v) for k, v in out.items()}


def update(w, kind, made):
    """One update, sent; a changed cluster comes with its endpoints, as istiod sends it."""
    plane = w.sds if kind == "sds" else w.plane
    _, name, any_ = next(made[kind])
    plane.set_wire(kind, name, any_)
    sent = plane.push(kind)
    if kind == "cds":
        with plane.lock:
            for stream in plane.streams:
                if stream.open and "eds" in stream.wants:
                    stream.send("eds", [plane.resources["eds"][name]])
    return sent


def refused(*planes):
    return [r for p in planes for s in p.streams for r in s.asked if isinstance(r, Request) and r.error]


def updates(w, made, seconds, rate):
    """Load with updates; (what the load said, updates sent, seconds behind)."""
    load, begin, count, late = Load(w, seconds), time.monotonic(), 0, 0.0
    while load.running():
        kind = "lds" if count % LISTENERS == 9 else "sds" if count % 20 == 3 else "rds" if count % 5 == 2 else "cds" if count % 10 == 6 else "eds"
        update(w, kind, made)
        count += 1
        ahead = begin + count / rate - time.monotonic()
        if ahead > 0:
            time.sleep(ahead)  # the pace, not a wait for something to happen
        else:
            late = max(late, -ahead)
    return load.end(), count, late, load.failure


def restarts(w, seconds, times):
    """Load while the control plane dies and comes back; (what the load said, problems)."""
    load, problems = Load(w, seconds), []
    want = {k: {r.name: r.version for r in v.values()} for k, v in w.plane.resources.items() if k != "sds"}
    for n in range(times):
        before = w.plane.stream()
        w.plane.stop()
        w.proxy.until_stat("control_plane.connected_state", 0)
        w.plane.start()
        s = w.plane.stream(after=before, seconds=30)
        for kind in ("cds", "eds", "lds", "rds"):
            first = w.plane.request(kind, stream=s, seconds=30)
            if first.initial != want[kind]:
                differ = {k for k in first.initial.keys() | want[kind].keys() if first.initial.get(k) != want[kind].get(k)}
                problems.append(f"restart {n + 1}: versions of {kind} are not what was accepted: {sorted(differ)[:5]}")
            if kind in ("eds", "rds") and w.plane.subscriptions(s, kind) != dict.fromkeys(want[kind], 1):
                problems.append(f"restart {n + 1}: names of {kind} are not subscribed once each")
        if more := [x for x in s.log if not isinstance(x, Request) and x.names]:
            problems.append(f"restart {n + 1}: had to be sent again: {more[0]}")
        w.proxy.until_stat("control_plane.connected_state", 1)
    outlived = load.running()
    said = load.end()
    return said, problems + ([] if outlived else ["the load ended before the last restart: give more --seconds"]), load.failure


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bin", required=True)
    p.add_argument("--tools")
    p.add_argument("--seconds", type=int, default=60)
    p.add_argument("--rate", type=int, default=100)
    p.add_argument("--restarts", type=int, default=10)
    p.add_argument("--services", type=int, default=20)
    p.add_argument("--concurrency", type=int, default=2)
    p.add_argument("--only-errors", action="store_true", help="do not judge latency (a busy machine)")
    a = p.parse_args()
    rig.isolate()
    binary = rig.find("proxy", a.bin) or sys.exit(f"cannot run {a.bin}")
    tools = a.tools or (binary if "envoy" not in pathlib.Path(binary).name else rig.find("waypost")) or sys.exit("no binary with `waypost wire`: name one with --tools")
    wire, problems = Wire(tools), []
    mesh = Mesh(wire, a.services, filtered=True)
    with tempfile.TemporaryDirectory() as d:
        work = pathlib.Path(d)
        certs = rig.certificates(work)
        made = variants(mesh, wire, certs)
        w = Waypoint(binary, tools, wire, work, certs)
        with w.running(a.concurrency, mesh.resources()), rig.Sink(tools, work / "sink2.log", hbone=["127.1.0.2:15008"], certs=certs):
            w.plane.set(listener("edge", 10001, "r"), routes("r", "<first>"), cluster("edge", "127.0.0.1:20001"))
            w.plane.push("cds", "lds")
            rig.until("the first request", 20, lambda: w.passes(0, FIRST_PORT))
            quiet = Load(w, min(a.seconds, 10))
            line("quiet", quiet.end())
            rss = w.proxy.rss_kib()
            said, count, late, failure = updates(w, made, a.seconds, a.rate)
            line("updates", said, f"; {count} updates ({count / a.seconds:.0f}/s), at most {late * 1000:.0f} ms behind, memory {rss / 1024:.0f} to {w.proxy.rss_kib() / 1024:.0f} MiB")
            if said["errors"] or failure:
                problems.append(f"{said['errors']} requests failed during updates: {failure}")
            if count < a.rate * a.seconds * 0.9:
                problems.append(f"only {count} updates in {a.seconds} s")
            # The last of everything must have been taken.
            for kind in ("cds", "eds", "lds", "rds"):
                for sent in w.plane.push(kind, force=True):
                    if kind == "cds":
                        w.plane.push("eds", force=True)
                    w.plane.reply(sent, 30)
            again = Load(w, min(a.seconds, 10))
            line("quiet", again.end())
            allowed = TIMES * max(quiet.said["p99_us"], again.said["p99_us"])
            if said["p99_us"] > allowed and not a.only_errors:
                problems.append(f"p99 {said['p99_us'] / 1000:.2f} ms during updates, {allowed / 1000:.2f} are allowed")
            said, found, failure = restarts(w, max(10, a.restarts * 2), a.restarts)
            line("restarts", said, f"; {a.restarts} restarts")
            problems += found
            if said["errors"] or failure:
                problems.append(f"{said['errors']} requests failed during restarts: {failure}")
            if bad := refused(w.plane, w.sds):
                problems.append(f"{len(bad)} updates were refused, the first with {bad[0].error}")
            w.proxy.alive()
    wire.close()
    for problem in problems:
        print(f"FAIL {problem}")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
