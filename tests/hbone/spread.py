#!/usr/bin/env python3
"""spread.py --bin PATH [--tools PATH] [--envoy] [--seconds S]

One HBONE connection with 64 busy streams, --concurrency 2: both workers have to work. Prints the CPU time of each worker (threads wrk:worker_N);
fails when the lesser has had less than a quarter of the other's. With --envoy it fails when they do share: Envoy ties a connection to one thread."""
import pathlib
import subprocess
import sys
import time

import common
import rig

LEAST = 0.25  # of the busier worker's CPU: one of them also does the TLS of the connection


def workers(pid):
    """{thread name: CPU seconds} of the workers."""
    out = {}
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        head, tail = (task / "stat").read_text().rsplit(")", 1)
        name = head.split("(", 1)[1]
        if name.startswith("wrk:worker_"):
            fields = tail.split()
            out[name] = (int(fields[11]) + int(fields[12])) / rig.TICKS
    return out


def main():
    a = common.arguments(__doc__)
    a.add_argument("--envoy", action="store_true")
    a.add_argument("--seconds", type=int, default=5)
    args = a.parse_args()
    common.prepare(args)
    with common.waypoint(args) as (proxy, command):
        before = workers(proxy.child.pid)
        load = subprocess.run(command("load", "--connections", 1, "--streams", 64, "--duration", f"{args.seconds}s", f"http://{common.SERVICE}:80/"),
                              capture_output=True, text=True, timeout=args.seconds + 60)
        time.sleep(0.1)
        after = workers(proxy.child.pid)
    used = {n: round(after[n] - before.get(n, 0), 2) for n in sorted(after)}
    print(f"CPU seconds: {used}; load: {load.stdout.strip() or load.stderr.strip()}")
    problems = []
    if load.returncode:
        problems.append(f"the load failed: {load.stderr.strip()}")
    if len(used) != 2:
        sys.exit(f"FAIL {len(used)} threads named wrk:worker_N")
    share = min(used.values()) / max(*used.values(), 1 / rig.TICKS)
    if max(used.values()) < args.seconds / 10:
        problems.append("the workers were hardly busy: this proves nothing")
    elif not args.envoy and share < LEAST:
        problems.append(f"one worker had {share:.0%} of the other's CPU; all streams stay on one thread")
    elif args.envoy and share >= LEAST:
        problems.append(f"this Envoy spreads the streams of a connection ({share:.0%})")
    common.finish(problems)


main()
