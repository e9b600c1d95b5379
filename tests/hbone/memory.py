#!/usr/bin/env python3
"""memory.py --bin PATH [--tools PATH] [--seconds S | --full] [--bound MIB]

A body of 1 GiB through configs/waypoint.yaml to a reader that takes 1 MB/s, down (the pod sends) and up (the client sends). The sender pushes
as fast as it is let: the proxy's resident memory may grow by 16 MiB, no more. --full lets all of it through, 18 minutes each way; otherwise the
first 20 s of it are watched, in which a proxy that takes what it is given would have taken all of it."""
import subprocess
import time

import common

RATE, SIZE, BOUND = 1_000_000, 1 << 30, 16


def watch(proxy, child, seconds):
    """(RSS in KiB before, at its highest); ends with the child."""
    before = peak = proxy.rss_kib()
    end = time.monotonic() + seconds + 30
    while child.poll() is None and time.monotonic() < end:
        proxy.alive()
        peak = max(peak, proxy.rss_kib())
        time.sleep(0.1)
    if child.poll() is None:
        child.kill()
    return before, peak


def main():
    a = common.arguments(__doc__)
    a.add_argument("--seconds", type=int, default=20)
    a.add_argument("--full", action="store_true")
    a.add_argument("--bound", type=float, default=BOUND, help="MiB; for a proxy whose windows are larger")
    args = a.parse_args()
    common.prepare(args)
    seconds, problems = (SIZE // RATE + 60 if args.full else args.seconds), []
    for way, extra, page in [("down", ["--rate", f"{RATE}"], ""), ("up", [], f"slow/{RATE}")]:
        with common.waypoint(args) as (proxy, command):
            child = subprocess.Popen(command("body", "--size", SIZE, f"--{way}", *extra, "--limit-seconds", seconds, f"http://{common.SERVICE}:80/{page}"),
                                     stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            start = time.monotonic()
            before, peak = watch(proxy, child, seconds)
            out, err = child.communicate()
            took, said = time.monotonic() - start, common.last_json(out)
        grown, moved = (peak - before) / 1024, said.get("bytes", 0)
        print(f"{way}: {moved / 1e6:.0f} MB in {took:.0f} s, memory {before / 1024:.1f} MiB before, {grown:.1f} MiB more at its highest", flush=True)
        if child.returncode:
            problems.append(f"{way}: {err.strip()}")
        if grown > args.bound:
            problems.append(f"{way}: memory grew by {grown:.1f} MiB, {args.bound:.0f} are allowed")
        if args.full and not said.get("complete"):
            problems.append(f"{way}: only {moved} of {SIZE} bytes")
        if moved < min(seconds * RATE // 2, SIZE):
            problems.append(f"{way}: only {moved} bytes moved, the reader is not what limits it")
        # What was taken from the sender and is not with the reader lies in the proxy, in windows and in socket buffers.
        if way == "up" and moved - took * RATE > 64 << 20:
            problems.append(f"up: {moved} bytes were taken from the sender, {took * RATE:.0f} can have arrived")
    common.finish(problems)


main()
