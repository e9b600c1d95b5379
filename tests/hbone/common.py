"""What the HBONE measurements share: configs/waypoint.yaml in a folder with its certificates, a sink as its pod, and the commands of `waypost hbone`."""
import argparse
import contextlib
import json
import pathlib
import resource
import subprocess
import sys
import tempfile

import yaml

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import rig  # noqa: E402

VIA, POD, SERVICE = "127.0.0.1:15008", "127.1.0.10:15008", "127.2.0.10"


def arguments(doc):
    a = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--bin", required=True, help="a proxy with Envoy's command line")
    a.add_argument("--tools", help="the binary with `hbone` and `sink` (the proxy itself unless given)")
    return a


def prepare(args):
    """Own network namespace, as many files as may be, and the two binaries' paths in `args`."""
    rig.isolate()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    args.bin = rig.find("proxy", args.bin) or sys.exit(f"cannot run {args.bin}")
    args.tools = rig.find("tools", args.tools) or args.bin


def config():
    """configs/waypoint.yaml with the circuit breakers that istiod gives every cluster: Envoy's own would stop at 1 024 connections."""
    out = yaml.safe_load((rig.ROOT / "configs/waypoint.yaml").read_text())
    most = {name: 0xFFFFFFFF for name in ("max_connections", "max_pending_requests", "max_requests", "max_retries")}
    for cluster in out["static_resources"]["clusters"]:
        cluster["circuit_breakers"] = {"thresholds": [most]}
    return json.dumps(out)


@contextlib.contextmanager
def waypoint(args, concurrency=2):
    """(proxy, command of `hbone` as a function of its name and arguments) while the sink runs behind the proxy."""
    with tempfile.TemporaryDirectory() as d:
        work = pathlib.Path(d)
        certs = rig.certificates(work)
        (work / "waypoint.json").write_text(config())
        identity = ["--via", VIA, "--cert", certs / "client.pem", "--key", certs / "client.key", "--ca", certs / "ca.pem"]

        def command(name, *rest):
            return [str(x) for x in (args.tools, "hbone", name, *identity, *rest)]

        with rig.Sink(args.tools, work / "sink.log", hbone=[POD], certs=certs), \
                rig.Proxy(args.bin, work / "waypoint.json", work, work / "proxy.log", concurrency=concurrency) as proxy:
            subprocess.run(command("get", f"http://{SERVICE}:80/"), check=True, capture_output=True, timeout=30)
            yield proxy, command


def last_json(text):
    lines = [x for x in text.splitlines() if x.startswith("{")]
    return json.loads(lines[-1]) if lines else {}


def finish(problems):
    for p in problems:
        print(f"FAIL {p}")
    sys.exit(1 if problems else 0)
