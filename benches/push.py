#!/usr/bin/env python3
"""push.py [--bin WAYPOST] [--envoy ENVOY] [--tools WAYPOST] [--services N] [--rounds R] [--only envoy|waypost]

What a push of istiod costs a waypoint: N services with four HTTP ports each, made of the recording of waypoint-basic, to Envoy and to Waypost in
turn. Istio's own filters are left out for both. Each push is measured from the moment it is sent to an idle proxy:

  first     4 N clusters with their endpoints and one listener with 4 N chains, to a proxy that has nothing
  again     the same resources again under new versions, as istiod does with every change of anything
  service   one service more: its clusters and endpoints, and the listener with four chains more
  endpoint  one endpoint more in one cluster

`acks` is until all of it is acknowledged, `works` until a request through the last (new) service passes; CPU is the whole process, until it has
passed and the proxy is idle; RSS is what it has grown by since it had nothing. What the control plane itself needs on the same machine is shown
beside it. The ratio is Waypost to Envoy."""
import argparse
import json
import pathlib
import statistics
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/xds")]
import rig  # noqa: E402
from control import Sent  # noqa: E402
from mesh import FIRST_PORT, Mesh  # noqa: E402
from proto import Request, Resource, Wire  # noqa: E402
from waypoint import POD, Waypoint  # noqa: E402

FIGURES = [("acks s", "acks", 2), ("works s", "works", 2), ("CPU s", "cpu", 2), ("RSS MiB", "rss", 0), ("control plane CPU s", "plane", 2)]
PATIENCE = 300


class Push:
    """Sends something and measures what it costs."""

    def __init__(self, w, base):
        self.w, self.base = w, base

    def acknowledged(self, since):
        """Whether every response since then is, and none was refused."""
        log = self.w.plane.stream().log[since:]
        answers = {r.nonce: r for r in log if isinstance(r, Request) and r.nonce}
        if bad := [r.error for r in answers.values() if r.error]:
            sys.exit(f"refused: {str(bad)[:2000]}")
        sent = [x for x in log if isinstance(x, Sent)]
        return bool(sent) and all(x.nonce in answers for x in sent)

    def idle(self):
        """Waits until the proxy has not worked for half a second."""
        last, at = -1, time.monotonic()
        while time.monotonic() - at < 0.5:
            now = self.w.proxy.run_us()
            if now - last > 5000:
                last, at = now, time.monotonic()
            time.sleep(0.05)

    def measure(self, kinds, service, port):
        w, plane = self.w, self.w.plane
        self.idle()
        cpu, own, since, begin = sum(w.proxy.cpu_us()), time.process_time(), len(plane.stream().log), time.monotonic()
        for kind in kinds:
            plane.push(kind)
        plane.wait("acknowledged", lambda: self.acknowledged(since), PATIENCE)
        acks, own = time.monotonic() - begin, time.process_time() - own
        rig.until("a request through the last service", PATIENCE, lambda: w.proxy.alive() and w.passes(service, port))
        done = time.monotonic() - begin
        self.idle()
        return {"acks": acks, "works": done, "cpu": (sum(w.proxy.cpu_us()) - cpu) / 1e6, "rss": w.proxy.rss_kib() / 1024 - self.base, "plane": own}


def renewed(resources, version):
    return [Resource(r.name, version, r.any) for r in resources]


def run(binary, tools, wire, small, large, services, concurrency):
    """{push: figures}; `small` are the resources of the mesh, `large` those with one service more."""
    out = {}
    last = FIRST_PORT + 3
    with tempfile.TemporaryDirectory() as d:
        work = pathlib.Path(d)
        w = Waypoint(binary, tools, wire, work, rig.certificates(work))
        with w.running(concurrency):
            push = Push(w, w.proxy.rss_kib() / 1024)

            def become(resources):
                for kind, made in resources.items():
                    w.plane.resources[kind] = {r.name: r for r in made}
            become(small)
            out["first"] = push.measure(["cds", "lds"], services - 1, last)
            become({k: renewed(v, "2") for k, v in small.items()})
            out["again"] = push.measure(["cds", "eds", "lds"], services - 1, last)
            become({k: renewed(v, "2") if k != "lds" else v for k, v in large.items()})
            out["service"] = push.measure(["cds", "eds", "lds"], services, last)
            name, r = next(iter(w.plane.resources["eds"].items()))
            value = wire.decode([r.any])[0]
            hosts = value["endpoints"][0]["lb_endpoints"]
            hosts.append(json.loads(json.dumps(hosts[0]).replace(POD, "127.1.0.2")))
            w.plane.resources["eds"][name] = Resource(name, "3", wire.encode([value])[0])
            out["endpoint"] = push.measure(["eds"], services, last)
            w.proxy.alive()
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bin", help="Waypost")
    p.add_argument("--envoy")
    p.add_argument("--tools", help="the binary with `wire`, `sink` and `hbone` (Waypost unless given)")
    p.add_argument("--services", type=int, default=1000)
    p.add_argument("--rounds", type=int, default=1)
    p.add_argument("--concurrency", type=int, default=2)
    p.add_argument("--only", choices=("envoy", "waypost"))
    a = p.parse_args()
    rig.isolate()
    binaries = {n: b for n, b in (("Envoy", rig.find("envoy", a.envoy)), ("Waypost", rig.find("waypost", a.bin))) if b and a.only in (None, n.lower())}
    tools = a.tools or rig.find("waypost", a.bin)
    if not binaries or not tools:
        sys.exit("name the binaries with --bin, --envoy, --tools")
    wire = Wire(tools)
    small, large = (Mesh(wire, n).resources() for n in (a.services, a.services + 1))
    sizes = {k: (len(v), sum(len(r.any) for r in v) / 1e6) for k, v in small.items()}
    print(f"{a.services} services: " + ", ".join(f"{n} of {k} ({mb:.1f} MB)" for k, (n, mb) in sizes.items()) + f"; {rig.machine()}", flush=True)
    results = {n: [] for n in binaries}
    for i in range(a.rounds):
        for name in list(binaries) if i % 2 == 0 else reversed(binaries):
            figures = run(binaries[name], tools, wire, small, large, a.services, a.concurrency)
            results[name].append(figures)
            for push, f in figures.items():
                print(f"{name:8} {push:9} " + "  ".join(f"{title} {f[key]:.{digits}f}" for title, key, digits in FIGURES), flush=True)
    if len(results) == 2:
        for push in next(iter(results.values()))[0]:
            ratios = []
            for title, key, _ in FIGURES[:4]:
                envoy, ours = (statistics.median(r[push][key] for r in results[n]) for n in ("Envoy", "Waypost"))
                ratios.append(f"{title.split()[0]} {ours / envoy:.2f}" if envoy > 0 else f"{title.split()[0]} -")
            print(f"ratio    {push:9} " + "  ".join(ratios))


if __name__ == "__main__":
    main()
