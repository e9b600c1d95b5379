#!/usr/bin/env python3
"""side-by-side.py [--quick] [--rounds N] [--only h1,h2,tls,hbone] [--seconds S] [--envoy PATH] [--waypost PATH] [--tools PATH] [--shared DIR] [--out FILE]

Runs Envoy and Waypost in turn on the same file, one worker each, and writes what a request costs in docs/benchmarks.md.

The proxy has core 0 for itself; load and sink share core 1, so requests per second are bounded by them as well: the figure to compare is CPU
per request. Each measurement starts a fresh proxy, warms it for a second and loads it for five. Rounds swap the order (Envoy Waypost, Waypost
Envoy, ...), so that a machine growing slower favours neither; every figure is the median of its rounds, a ratio the median of the rounds' ratios.

  h1      HTTP/1.1 to HTTP/1.1: 64 connections, by wrk and by oha; bodies of 1 MiB over 8, by wrk
  h2      HTTP/2 to HTTP/2, 4 connections of 16 streams, by h2load
  tls     TLS with HTTP/1.1 to HTTP/1.1, 64 connections, by wrk
  hbone   what istiod pushed to a waypoint (waypoint-basic), made static: HBONE in, HTTP policy, HBONE out; 2 connections of 64 streams and 1 of 1,
          and 1 of 1 with load and sink on the proxy's core, where nobody has to be woken from sleep; by `TOOLS hbone load`. Without the recordings in --shared, configs/waypoint.yaml, which is of the same make.

Beside them run a relay that reads nothing, and nginx and HAProxy where they are installed (benches/beside.py): what any proxy costs here.

--quick is one round of one second of the two, for CI: figures are printed, not written, and any failed request fails it. TOOLS is the binary with `sink` and
`hbone load` (Waypost itself unless given). wrk and h2load are Debian's wrk and nghttp2-client; oha comes by
`cargo install oha --locked --no-default-features --features rustls` and is left out where it is missing."""
import argparse
import collections
import datetime
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests"))
import beside
import rig

# Where the tunnels of waypoint-basic go. A CONNECT authority is VIP:port; the recorded chains behind them, tried in Envoy 1.40:
#
#   127.2.0.21:9080   HTTP  reviews-v1   one captured pod, HBONE to 127.1.0.1:15008            <- the benchmark: HBONE in, HBONE out, nothing else
#   127.2.0.22:9080   HTTP  reviews-v2   one captured pod, HBONE to 127.1.0.2:15008
#   127.2.0.23:9080   HTTP  reviews-v3   one plain pod, TCP to 127.1.0.3:9080
#   127.2.0.10:9080   HTTP  reviews      all three pods, least request
#   127.2.0.11:9081   gRPC  ratings      captured, HBONE to 127.1.0.11:15008 (HTTP/2 upstream: the pod must speak h2c inside the tunnel)
#   127.2.0.12:3306, :3307   TCP  db     captured, HBONE to 127.1.0.12:15008; bytes pass
#   127.2.0.13:80     HTTP  mixed        plain pod, HTTP/2 (appProtocol h2c) to 127.1.0.13:8080
#   127.2.0.13:8000   sniffed            HTTP or TCP chain by http_inspector, to 127.1.0.13:8000
#   127.2.0.13:443    TCP   mixed        plain pod, 127.1.0.13:8443
#
# Anything else has no filter chain. Where the port is sniffed, CONNECT is answered 200 and the stream is reset (CONNECT_ERROR) when its first bytes
# came; where sniffing is disabled the chain is looked for at once, and CONNECT is answered 503. connect_terminate binds 0.0.0.0:15008, so a peer on
# 127.1.0.x:15008 must bind with SO_REUSEPORT; the kernel prefers the more specific address. 15008 takes only TLS 1.3 with a client certificate
# from spiffe://cluster.local/ or spiffe://old.local/, and 100 streams per connection.
HBONE_VIP, HBONE_PEER = "127.2.0.21:9080", "127.1.0.1:15008"
FALLBACK_VIP, FALLBACK_PEER = "127.2.0.10:80", "127.1.0.10:15008"

PROXY_CPU, LOAD_CPU = 0, 1
SEVERAL = os.cpu_count() > 1
FIGURES = [("CPU µs/request", "cpu", 1), ("user", "user", 1), ("system", "system", 1), ("requests/s", "rps", 0), ("p50 ms", "p50", 2), ("p99 ms", "p99", 2), ("RSS MiB", "rss", 1)]

Load = collections.namedtuple("Load", "requests errors rps p50 p99")  # latencies in milliseconds
# relay: from which address to which the bytes may go unread; core: where load and sink run.
Case = collections.namedtuple("Case", "key title config peers command parse relay core")


def run(command, core=LOAD_CPU):
    pin = ["taskset", "-c", str(core)] if shutil.which("taskset") and SEVERAL else []
    r = subprocess.run(pin + [str(c) for c in command], capture_output=True, text=True, timeout=120)
    if r.returncode:
        sys.exit(f"{command[0]} failed ({r.returncode}): {r.stderr.strip() or r.stdout.strip()}")
    return r.stdout


# The loads: what to run for S seconds, and how to read what it says.

def wrk(url, connections=64):
    return lambda s, _: ["wrk", "-t1", f"-c{connections}", f"-d{s}s", "--latency", url]


def read_wrk(out, _):
    unit = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}
    latency = {p: float(v) * unit[u] for p, v, u in re.findall(r"^\s+(50|99)%\s+([\d.]+)(us|ms|s|m)$", out, re.M)}
    errors = sum(int(n) for line in re.findall(r"Socket errors: (.*)", out) for n in re.findall(r"\d+", line)) + sum(int(n) for n in re.findall(r"Non-2xx or 3xx responses: (\d+)", out))
    return Load(int(re.search(r"(\d+) requests in", out)[1]), errors, float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1]), latency["50"], latency["99"])


def oha(url):
    def command(s, _):
        said = subprocess.run(["oha", "--help"], capture_output=True, text=True).stdout
        return ["oha", "--no-tui", *(["--output-format", "json"] if "--output-format" in said else ["--json"]), "-c", "64", "-z", f"{s}s", url]
    return command


def read_oha(out, _):
    d = json.loads(out)
    codes = d["statusCodeDistribution"]
    ok = codes.get("200", 0)
    # The requests that the end of the time cuts off are no errors of the proxy.
    failed = sum(codes.values()) - ok + sum(n for e, n in d.get("errorDistribution", {}).items() if "deadline" not in e)
    return Load(ok, failed, d["summary"]["requestsPerSec"], d["latencyPercentiles"]["p50"] * 1e3, d["latencyPercentiles"]["p99"] * 1e3)


def h2load(url):
    return lambda s, log: ["h2load", "-t1", "-c4", "-m16", f"-D{s}", f"--log-file={log}", url]


def read_h2load(out, log):
    m = re.search(r"^requests: .* (\d+) succeeded, (\d+) failed, (\d+) errored", out, re.M)
    succeeded, failed = int(m[1]), int(m[2])
    times = sorted(int(line.split("\t")[2]) / 1e3 for line in log.open())
    rps = float(re.search(r"finished in [\d.]+\w+, ([\d.]+) req/s", out)[1])
    return Load(succeeded, failed, rps, *(times[int(q * (len(times) - 1))] if times else 0.0 for q in (0.5, 0.99)))


def hbone(tools, certs, vip, connections, streams):
    return lambda s, _: [tools, "hbone", "load", "--via", "127.0.0.1:15008", "--cert", certs / "client.pem", "--key", certs / "client.key", "--ca", certs / "ca.pem",
                         "--connections", connections, "--streams", streams, "--duration", f"{s}s", f"http://{vip}/"]


def read_hbone(out, _):
    d = json.loads(out.strip().splitlines()[-1])
    return Load(d["requests"], d["errors"], d["rps"], d["p50_us"] / 1e3, d["p99_us"] / 1e3)


def waypoint_file(shared, work, certs):
    """istiod's push as one bootstrap file that both proxies load, with the service and peer to use."""
    scenario, static = shared / "fixtures/istio/waypoint-basic", shared / "tools/istiod/static.py"
    if not (scenario.is_dir() and static.is_file()):
        print(f"no recordings under {shared}: HBONE runs on configs/waypoint.yaml")
        return rig.ROOT / "configs/waypoint.yaml", FALLBACK_VIP, FALLBACK_PEER, "configs/waypoint.yaml"
    workload = work / "workload"
    workload.mkdir()
    for source, name in (("waypoint.pem", "cert-chain.pem"), ("waypoint.key", "key.pem"), ("ca.pem", "root-cert.pem")):
        shutil.copy(certs / source, workload / name)
    config = work / "waypoint-basic.json"
    with config.open("w") as f:
        subprocess.run([sys.executable, static, scenario, workload, "--envoy"], stdout=f, stderr=subprocess.DEVNULL, check=True)
    return config, HBONE_VIP, HBONE_PEER, "istiod's waypoint-basic"


def cases(only, tools, shared, work, certs):
    plain, sink = rig.ROOT / "benches/side-by-side.yaml", {"http": ["127.0.0.1:10080"]}
    for what, program in (("h1", "wrk"), ("h1", "oha"), ("h2", "h2load"), ("tls", "wrk")):
        if what in only and not shutil.which(program):
            print(f"{program} is not installed: its part of {what} is left out")
        elif what in only:
            if program == "wrk" and what == "h1":
                yield Case("h1-bulk", "HTTP/1.1, bodies of 1 MiB, 8 connections (wrk)", plain, sink,
                           wrk("http://127.0.0.1:10001/big/1048576", 8), read_wrk, ("127.0.0.1:10001", "127.0.0.1:10080"), LOAD_CPU)
            port = {"h1": 10001, "h2": 10002, "tls": 10003}[what]
            title = {"h1": f"HTTP/1.1, 64 connections ({program})", "h2": "HTTP/2, 4 × 16 streams (h2load)", "tls": "TLS, HTTP/1.1, 64 connections (wrk)"}[what]
            url = f"http{'s' if what == 'tls' else ''}://127.0.0.1:{port}/"
            command, parse = {"wrk": (wrk, read_wrk), "oha": (oha, read_oha), "h2load": (h2load, read_h2load)}[program]
            yield Case(f"{what}-{program}", title, plain, sink, command(url), parse, (f"127.0.0.1:{port}", "127.0.0.1:10080") if what != "tls" else None, LOAD_CPU)
    if "hbone" in only:
        config, vip, peer, name = waypoint_file(shared, work, certs)
        for connections, streams, core in ((2, 64, LOAD_CPU), (1, 1, LOAD_CPU), (1, 1, PROXY_CPU)):
            one = ", all on one core" if core == PROXY_CPU else ""
            yield Case(f"hbone-{connections}x{streams}{'-one' if one else ''}", f"HBONE, {connections} × {streams} streams{one} ({name})", config, {"hbone": [peer], "certs": certs},
                       hbone(tools, certs, vip, connections, streams), read_hbone, ("127.0.0.1:15008", peer), core)


def measure(start, case, seconds, warm, tools, work):
    """One proxy, one load: the figures of FIGURES by key, and the number of failed requests."""
    log = work / "load.log"
    with rig.Sink(tools, work / "sink.log", cpu=case.core if SEVERAL else None, **case.peers), start as proxy:
        run(case.command(warm, log), case.core)
        before, kinds = proxy.run_us(), proxy.cpu_us()
        log.unlink(missing_ok=True)
        load = case.parse(run(case.command(seconds, log), case.core), log)
        after, kinds_after = proxy.run_us(), proxy.cpu_us()
        proxy.alive()
        if not load.requests:
            sys.exit(f"{case.title}: not one request succeeded in {proxy.command[0]}; its log ends\n{proxy.tail()}")
        user, system = (b - a for a, b in zip(kinds, kinds_after))
        cpu = after - before or user + system
        share = user / (user + system) if user + system else 0
        n = load.requests
        return {"cpu": cpu / n, "user": cpu * share / n, "system": cpu * (1 - share) / n, "rps": load.rps, "p50": load.p50, "p99": load.p99, "rss": proxy.rss_kib() / 1024}, load.errors


def table(results):
    """results: {title: {proxy: [figures per round]}} as Markdown lines; what is compared with Envoy comes after it."""
    lines = ["| | proxy | " + " | ".join(t for t, _, _ in FIGURES) + " |", "|---|---|" + "---:|" * len(FIGURES)]
    for title, by_proxy in results.items():
        first, *rest = by_proxy
        for name in by_proxy:
            row = [f"{statistics.median(r[k] for r in by_proxy[name]):.{digits}f}" for _, k, digits in FIGURES]
            lines.append(f"| {title if name == first else ''} | {name} | " + " | ".join(row) + " |")
        for name in rest if first == "Envoy" else ():
            pairs = list(zip(by_proxy[first], by_proxy[name]))
            row = [f"{statistics.median(w[k] / e[k] for e, w in pairs if e[k]):.2f}" if any(e[k] for e, _ in pairs) else "-" for _, k, _ in FIGURES]
            lines.append(f"| | {name} / Envoy | " + " | ".join(f"**{c}**" if i == 0 else c for i, c in enumerate(row)) + " |")
    return lines


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--quick", action="store_true")
    p.add_argument("--rounds", type=int)
    p.add_argument("--seconds", type=int)
    p.add_argument("--only", default="h1,h2,tls,hbone")
    p.add_argument("--envoy")
    p.add_argument("--waypost")
    p.add_argument("--tools")
    p.add_argument("--shared", type=pathlib.Path, default=pathlib.Path(os.environ.get("WAYPOST_SHARED", rig.ROOT.parent / "shared")))
    p.add_argument("--out", type=pathlib.Path)
    a = p.parse_args()
    rig.isolate()
    rounds, seconds, warm = a.rounds or (1 if a.quick else 4), a.seconds or (1 if a.quick else 5), 1
    only = a.only.split(",")
    if unknown := set(only) - {"h1", "h2", "tls", "hbone"}:
        p.error(f"--only does not know {', '.join(sorted(unknown))}")
    binaries = {n: b for n, b in (("Envoy", rig.find("envoy", a.envoy)), ("Waypost", rig.find("waypost", a.waypost))) if b}
    for n in {"Envoy", "Waypost"} - set(binaries):
        print(f"{n} is not there: the other runs alone")
    tools = a.tools or binaries.get("Waypost")
    if not tools:
        sys.exit("no binary with `sink` and `hbone load`: build Waypost or name one with --tools")
    failed = 0
    results = {}
    with tempfile.TemporaryDirectory() as d:
        work = pathlib.Path(d)
        certs = rig.certificates(work)
        for case in cases(only, tools, a.shared.resolve(), work, certs):
            cpu = PROXY_CPU if SEVERAL else None
            starts = {n: rig.Proxy(b, case.config, work, work / "proxy.log", cpu=cpu) for n, b in binaries.items()}
            if not a.quick:
                starts |= beside.contestants(case, binaries.get("Waypost"), work, cpu)
            results[case.title] = {n: [] for n in starts}
            for i in range(rounds):
                for name in list(starts) if i % 2 == 0 else reversed(starts):
                    figures, errors = measure(starts[name], case, seconds, warm, tools, work)
                    results[case.title][name].append(figures)
                    failed += errors
                    print(f"{case.key:14} round {i + 1} {name:8} " + "  ".join(f"{k} {figures[k]:.{digits}f}" for _, k, digits in FIGURES) + (f"  ERRORS {errors}" if errors else ""), flush=True)
    versions = [subprocess.run([b, "--version"], capture_output=True, text=True).stdout.strip().splitlines() for b in binaries.values()]
    versions = [re.sub(r"^.*?version:\s*", "", next((l for l in v if l), "?")) for v in versions]
    command = " ".join(["benches/side-by-side.py", *sys.argv[1:]])
    text = [
        "# Waypost beside Envoy", "",
        "Both run the same file with one worker on core 0; load and sink share core 1. CPU is the whole process, user and system. "
        f"Medians of {rounds} rounds of {seconds} s after {warm} s of warm-up, order swapped each round; how: the head of `benches/side-by-side.py`.", "",
        *table(results), "",
        f"Machine: {rig.machine()}.", "",
        f"Versions: {'; '.join(f'{n} {v}' for n, v in zip(binaries, versions))}.", "",
        f"Date: {datetime.date.today()}. Command: `{command}`.", *([] if not failed else ["", f"Failed requests: {failed}."]),
    ]
    print("\n".join(text))
    out = a.out or (rig.ROOT / "docs/benchmarks.md" if len(binaries) == 2 and not a.quick else None)
    if out:
        out.parent.mkdir(exist_ok=True)
        # What follows in the page is of other benchmarks.
        rest = out.read_text().partition("\n## ") if out.exists() else ("", "", "")
        out.write_text("\n".join(text) + "\n" + rest[1] + rest[2])
        print(f"written: {out}")
    sys.exit(1 if a.quick and failed else 0)


main()
