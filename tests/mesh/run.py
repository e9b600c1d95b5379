#!/usr/bin/env python3
"""run.py --bin PATH [--tools PATH] [--stock] [--shared DIR] [--only PATTERN] [--jobs N] [--keep DIR] [-v]

The proxy inside a live Istio: the real istiod generators and the real pilot-agent (../shared/tools/istiod/mesh.sh, built here with Go) around the binary.

Every scenario of ../shared/fixtures/istio: becomes ready, nothing is refused, no warning comes twice, traffic arrives where it must and nowhere
else, and istioctl reads from the proxy's config dump what istiod has pushed. Then the mesh changes while traffic flows: pods, services and routes
come and go, certificates are replaced, istiod is killed and comes back, the agent is told to stop. No request may fail, and no connection on a chain
that did not change may break.

--stock says that PATH is a stock Envoy; it is given what it can understand (stock_envoy.py) and is there to try the tests themselves. --keep leaves
the working folders (logs, bootstrap, dumps) in DIR. Exit status 0 when all is well, 77 with one line when the mesh tool cannot be had, otherwise 1."""
import argparse
import os
import pathlib
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import rig

import changes
import istio
import scenarios
import statements
from traffic import Client, Destinations, peers

LIMIT = 120  # seconds for one test
SKIPPED = 77


class World:
    """A running mesh with destinations around it, for one test."""

    def __init__(self, args, tool, scenario, work):
        self.stock, self.tools, self.work = args.stock, args.tools, work
        self.fixtures = args.shared / "fixtures/istio"
        binary = args.bin
        if args.stock:
            binary = work / "envoy"
            binary.write_text(f'#!/bin/sh\nexec {sys.executable} {pathlib.Path(__file__).with_name("stock_envoy.py")} {args.bin} "$@"\n')
            binary.chmod(0o755)
        self.certs = peers(tool, work)
        self.mesh = istio.Mesh(tool, binary, self.fixtures / scenario, work)
        self.client = Client(self.certs)
        self.destinations = None

    def with_destinations(self):
        d = self.destinations = Destinations(self.certs)
        for pod in scenarios.CAPTURED:
            d.listen(f"{pod}:15008", d.captured)
        for address in (*scenarios.PLAIN, "127.0.0.1:80") if self.mesh.scenario.name == "waypoint-egress" else scenarios.PLAIN:
            d.listen(address, d.plain)
        if self.mesh.scenario.name == "waypoint-egress":
            d.listen("127.0.0.1:8443", d.plain)
        if self.mesh.scenario.name == "waypoint-networks":
            d.listen("127.4.0.1:15008", d.double)
        shop = self.fixtures / "certs/shop.example"
        tls = not self.mesh.waypoint
        d.listen("127.1.0.13:8443", d.tls_plain(f"{shop}.crt", f"{shop}.key") if tls else d.plain)
        return self


def tests():
    """{name: (scenario, function of a World)}"""
    out = {f"scenario {name}": (name, of_scenario(check)) for name, check in scenarios.SCENARIOS.items()}
    return {**out, **changes.CHANGES}


def of_scenario(check):
    def run(world):
        world.with_destinations()
        with world.mesh:
            world.mesh.settled()
            statements.agree(world, "0-initial")
            check(world)
            statements.nothing_refused(world)
    return run


def one(args, tool, name):
    """A test by itself, in this process."""
    scenario, function = tests()[name]
    work = pathlib.Path(args.keep or tempfile.mkdtemp(prefix="mesh-")) / re.sub(r"\W+", "-", name)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        if scenario.endswith("-sotw"):
            os.environ["ISTIO_DELTA_XDS"] = tool.env["ISTIO_DELTA_XDS"] = "false"
        function(World(args, tool, scenario, work))
        return 0
    except (AssertionError, SystemExit, Exception) as e:
        lines = traceback.extract_tb(e.__traceback__)
        where = " ".join(f"{pathlib.Path(f.filename).name}:{f.lineno}" for f in lines[1:] if "/mesh/" in f.filename)
        print(f"{where}: {e}" if isinstance(e, (AssertionError, SystemExit)) else traceback.format_exc())
        return 1
    finally:
        if not args.keep:
            shutil.rmtree(work.parent, ignore_errors=True)


def own_room():
    """The command that gives a test a network of its own and takes all its processes down with it; nothing where that is forbidden."""
    how = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"] + ([] if os.geteuid() == 0 else ["--map-root-user"])
    return how if shutil.which("unshare") and subprocess.run([*how, "true"], capture_output=True).returncode == 0 else []


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bin", required=True)
    p.add_argument("--tools", help="the binary with `hbone` and `sink` (the proxy itself unless given)")
    p.add_argument("--stock", action="store_true")
    p.add_argument("--shared", type=pathlib.Path, default=pathlib.Path(os.environ.get("WAYPOST_SHARED", rig.ROOT.parent / "shared")))
    p.add_argument("--only", default="", metavar="PATTERN", help="tests whose name matches")
    p.add_argument("--one", metavar="NAME", help=argparse.SUPPRESS)
    p.add_argument("--jobs", type=int, default=2, help="tests at a time, each in a network namespace of its own")
    p.add_argument("--keep", metavar="DIR")
    p.add_argument("-v", "--verbose", action="store_true")
    a = p.parse_args()
    a.shared = a.shared.resolve()
    a.bin = shutil.which(a.bin) and str(pathlib.Path(shutil.which(a.bin)).resolve()) or sys.exit(f"cannot run {a.bin}")
    a.tools = rig.find("waypost", a.tools) if a.stock or a.tools else a.bin
    a.keep = a.keep and str(pathlib.Path(a.keep).resolve())
    try:
        tool = istio.Tool(a.shared)
        if not a.one:
            tool.build()
    except istio.Missing as e:
        print(f"no live mesh: {e}")
        return SKIPPED
    if a.one:
        rig.isolate()
        return one(a, tool, a.one)
    selected = [n for n in tests() if re.search(a.only, n)]
    rest = [x for x in sys.argv[1:] if x not in ("-v", "--verbose")]
    apart = own_room()

    def child(name):
        from_ = time.monotonic()
        try:
            r = subprocess.run([*apart, sys.executable, __file__, *rest, "--one", name], capture_output=True, text=True, timeout=LIMIT,
                               env={**os.environ, "RIG_NETNS": "1"} if apart else None)
            said, failed = (r.stdout + r.stderr).strip(), r.returncode != 0
        except subprocess.TimeoutExpired as e:
            said, failed = f"longer than {LIMIT} s: {(e.stdout or b'').decode()[-500:]}", True
        print(f"{'FAILED ' if failed else 'ok     '} {name} ({time.monotonic() - from_:.0f} s){': ' if said else ''}{said if failed or a.verbose else ''}", flush=True)
        return failed

    with ThreadPoolExecutor(a.jobs if apart else 1) as pool:
        failed = sum(pool.map(child, selected))
    print(f"mesh: {len(selected)} tests, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
