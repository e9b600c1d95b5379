#!/usr/bin/env python3
"""run.py --bin PATH [--envoy] [--only REGEX] [-j N] [--full] [--list] [--keep]

Every bad input of the list (HTTP/1 1-33, HTTP/2 34-55, TLS 75, HBONE 76-80) against a proxy with Envoy's command line. A case passes when what
the client sees is in the case's set, nothing unintended reached the upstream, and the bed is as clean as before (see bed.py).

--envoy: the proxy is Envoy, and what it does must be what the cases say of it. --full: floods and counts in full length, which takes minutes.
-j: processes at a time, each with a proxy in a network namespace of its own (1 where that is not allowed). Exit status 0 when all passed."""
import argparse
import asyncio
import json
import logging
import pathlib
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time

import yaml

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import bed as beds  # noqa: E402
import certs  # noqa: E402
import hbone  # noqa: E402
import http1  # noqa: E402
import http2  # noqa: E402
import pod  # noqa: E402
import rig  # noqa: E402
import tls  # noqa: E402

BEDS = {"http": beds.HttpBed, "hbone": pod.HboneBed}
SCRIPTS = {**http1.SCRIPTS, **http2.SCRIPTS}


def arguments():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--bin", required=True)
    a.add_argument("--envoy", action="store_true")
    a.add_argument("--only", default="")
    a.add_argument("-j", type=int, default=3)
    a.add_argument("--full", action="store_true")
    a.add_argument("--list", action="store_true")
    a.add_argument("--keep", action="store_true", help="keep configurations and logs, say where")
    a.add_argument("--record", action="store_true", help="write what this Envoy does in envoy.yaml, for the cases that leave it to that file")
    a.add_argument("--json", help="write {case: [outcome, problems]} to this file")
    a.add_argument("--shard", help=argparse.SUPPRESS)
    a.add_argument("--work", help=argparse.SUPPRESS)
    return a.parse_args()


def chosen(args):
    every = http1.CASES + http2.CASES + tls.CASES + hbone.CASES
    ids = [x.id for x in every]
    twice = {x for x in ids if ids.count(x) > 1}
    assert not twice, f"names taken twice: {twice}"
    return [x for x in every if re.search(args.only, x.id) and (args.full or not x.full)]


async def play(cases, args, work):
    """{case: [outcome, problems]} and the problems of the beds."""
    results, general = {}, []
    # A bed that cannot be set up gets a second chance, with what stopped it in the output: on a busy machine a bounded wait runs out.
    for kind, make in [bed for bed in BEDS.items() for _ in range(2)]:
        mine = [x for x in cases if x.bed == kind and x.id not in results]
        if not mine:
            continue
        general = [x for x in general if not x.startswith(f"{kind} was given up: ")]
        bed = make(args.binary, args.envoy, work, pathlib.Path(args.work) / "certs", args.full)
        try:
            await bed.setup()
            for x in bed.backends.values():
                x.scripts = SCRIPTS
            for case in mine:
                if case.needs in bed.lacks:
                    results[case.id] = [f"left out: no {case.needs}", [], 0]
                    continue
                start = time.monotonic()
                got, problems = await bed.run(case)
                if not case.allows(got, args.envoy):
                    problems.insert(0, f"got {got!r}, allowed: {case.envoy if args.envoy else [case.envoy, case.also]}")
                results[case.id] = [got, problems, round(time.monotonic() - start, 2)]
            general += [f"{kind}: {p}" for p in await bed.finish()]
        except SystemExit as e:
            print(f"{kind}: {e}")
            general.append(f"{kind} was given up: {e}")
        finally:
            if bed.proxy:
                await bed.close()
    return results, general


def shard(args):
    """Plays every n-th case; the results go to a file of the parent's."""
    index, count = map(int, args.shard.split("/"))
    rig.isolate()
    work = pathlib.Path(args.work) / f"shard-{index}"
    work.mkdir()
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # backends whose connection was cut; strict() judges what they got
    results, general = asyncio.run(play(chosen(args)[index::count], args, work))
    (work / "result.json").write_text(json.dumps([results, general]))


def record(cases, results):
    """Adds what was seen to envoy.yaml: a case that timing decides gathers several outcomes."""
    known = dict(beds.RECORDED)
    for case in cases:
        if case.recorded and case.id in results:
            seen = known.get(case.id, [])
            seen = {*([seen] if isinstance(seen, str) else seen), results[case.id][0]}
            known[case.id] = seen.pop() if len(seen) == 1 else sorted(seen)
    head = "# What Envoy 1.40 does with each case that does not say so itself: the outcome, or several where timing decides. Written by run.py --envoy --record.\n"
    (HERE / "envoy.yaml").write_text(head + yaml.safe_dump(known, width=1000, allow_unicode=False))


def main():
    args = arguments()
    args.binary = rig.find("proxy", args.bin) or sys.exit(f"cannot run {args.bin}")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 65536), hard), hard))
    if args.shard:
        return shard(args)
    cases = chosen(args)
    beds.check_strict()
    if args.list:
        print("\n".join(x.id for x in cases))
        return 0
    if not cases:
        sys.exit("no case chosen")
    alone = not (shutil.which("unshare") and subprocess.run(["unshare", "--net", "--map-root-user", "true"], capture_output=True).returncode == 0)
    count = 1 if alone else max(1, min(args.j, len(cases)))
    work, start = tempfile.mkdtemp(prefix="badinput-"), time.monotonic()
    results, general = {}, []
    try:
        certs.make(pathlib.Path(work) / "certs")
        command = [sys.executable, __file__, "--bin", args.binary, "--only", args.only, "--work", work, *["--envoy"] * args.envoy, *["--full"] * args.full]
        children = [subprocess.Popen([*command, "--shard", f"{i}/{count}"]) for i in range(count)]
        for i, child in enumerate(children):
            try:
                child.wait(timeout=max(1, (1800 if args.full else 420) - (time.monotonic() - start)))
                got, more = json.loads((pathlib.Path(work) / f"shard-{i}/result.json").read_text())
                results |= got
                general += more
            except (OSError, ValueError) as e:
                general.append(f"shard {i} ended with {child.returncode}: {e}")
            except subprocess.TimeoutExpired:
                child.terminate()
                general.append(f"shard {i} took too long")
    finally:
        if args.keep:
            print(f"kept: {work}")
        else:
            shutil.rmtree(work, ignore_errors=True)
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(results, indent=1))
    if args.record:
        record(cases, results)
    bad = 0
    missing = [x.id for x in cases if x.id not in results]
    if missing:
        general.append(f"{len(missing)} cases were not played: {', '.join(missing[:10])} ...")
    for case in cases:
        _, problems, _ = results.get(case.id, ["-", [], 0])
        bad += bool(problems)
        for p in problems:
            print(f"FAIL {case.id}: {p}")
    for p in general:
        print(f"FAIL {p}")
    slow = sorted(((r[2], n) for n, r in results.items()), reverse=True)[:5]
    out = [n for n, r in results.items() if r[0].startswith("left out")]
    if out:
        print(f"left out: {len(out)} cases whose filter the proxy does not have: {', '.join(out[:5])} ...")
    print(f"bad input: {len(cases)} cases, {bad} failed, in {time.monotonic() - start:.0f} s; the longest: " + ", ".join(f"{n} {t:.1f} s" for t, n in slow))
    return 1 if bad or general else 0


if __name__ == "__main__":
    sys.exit(main())
