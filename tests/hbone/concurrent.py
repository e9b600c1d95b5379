#!/usr/bin/env python3
"""concurrent.py --bin PATH [--tools PATH] [--count N] [--port P] [--hold S]

10 000 tunnelled connections at the same time on two workers, from several source addresses: every one of them is answered, held, and answered
again. Prints resident memory for each. --port 5432 goes through the TCP chain, where every tunnel holds a stream to the pod as well."""
import pathlib
import re
import subprocess
import time

import common

SOURCES = [f"127.0.0.{n}" for n in range(2, 10)]
STREAMS = 100  # what the waypoint of configs/ takes on one connection


def hwm_kib(pid):
    return int(re.search(r"VmHWM:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())[1])


def main():
    a = common.arguments(__doc__)
    a.add_argument("--count", type=int, default=10_000)
    a.add_argument("--port", type=int, default=80)
    a.add_argument("--hold", type=int, default=3)
    args = a.parse_args()
    common.prepare(args)
    problems = []
    with common.waypoint(args) as (proxy, command):
        before = proxy.rss_kib()
        connections = -(-args.count // STREAMS) + 8  # a few more than needed: tunnels are dealt out in turn
        child = subprocess.Popen(command("hold", "--connections", connections, "--count", args.count, "--hold", f"{args.hold}s", "--timeout", "30s", "--source", ",".join(SOURCES),
                                         f"http://{common.SERVICE}:{args.port}/"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        most, end = 0, time.monotonic() + 120
        while child.poll() is None and time.monotonic() < end:
            proxy.alive()
            most = max(most, sum(v for n, v in proxy.gauges("^http.connect_terminate.downstream_rq_active$").items()))
            time.sleep(0.3)
        if child.poll() is None:
            child.kill()
            problems.append("not done after 120 s")
        out, err = child.communicate()
        peak = hwm_kib(proxy.child.pid)
    said = common.last_json(out)
    print(f"{said.get('kept')} of {args.count} answered twice, {most} seen at the same time, over {connections} connections; "
          f"memory {before / 1024:.0f} MiB before, {peak / 1024:.0f} at its highest: {(peak - before) / args.count:.1f} KiB for each; {said}")
    if child.returncode:
        problems.append(f"hbone hold: {err.strip()}")
    if said.get("kept") != args.count:
        problems.append(f"only {said.get('kept')} of {args.count} tunnels were answered twice")
    if most < args.count:
        problems.append(f"only {most} of {args.count} tunnels were open at the same time")
    common.finish(problems)


main()
