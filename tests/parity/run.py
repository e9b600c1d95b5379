#!/usr/bin/env python3
"""Differential tests: the same bootstrap and the same bytes through Envoy (A) and a second proxy (B).

  run.py --b target/release/waypost             both, live; writes RESULT.md
  run.py --mode record                          Envoy only, writes golden/
  run.py --mode golden --b target/release/...   the second proxy against golden/
"""
import argparse
import asyncio
import datetime
import json
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import yaml  # noqa: E402

from difft import certs, compare, normalise, report, suite  # noqa: E402
from difft.sut import Ports  # noqa: E402


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--a", default="envoy", help="the oracle (default: envoy on PATH)")
    p.add_argument("--b", default="target/release/waypost", help="the proxy under test")
    p.add_argument("--only", default="", help="regular expression on FILE/STEP")
    p.add_argument("--mode", choices=["live", "golden", "record"], default="live")
    p.add_argument("--jobs", type=int, default=3, help="case files at a time")
    p.add_argument("--keep", action="store_true", help="keep bootstraps and logs, print where")
    p.add_argument("--quarantined", action="store_true", help="also run quarantined steps")
    p.add_argument("--later", action="store_true", help="also run cases of later milestones")
    p.add_argument("--result", default=str(HERE / "RESULT.md"), help="where to write the report ('' for nowhere)")
    p.add_argument("-v", action="count", default=0, help="-v: every case, -vv: records too")
    return p.parse_args()


def load(args):
    files = [suite.CaseFile(p, HERE / "cases") for p in sorted((HERE / "cases").rglob("*.yaml"))]
    pattern = re.compile(args.only)
    plan, skipped = [], []
    for case in files:
        chosen = [s for s in case.data["steps"] if pattern.search(s["id"])]
        run = [s for s in chosen if case.applicable(s) or (args.quarantined and s.get("quarantine")) or (args.later and case.is_later(s))]
        skipped += [s for s in chosen if s not in run]
        if run:
            plan.append((case, run))
    return plan, skipped


def golden_path(case):
    return HERE / "golden" / f"{case.name}.json"


async def run_case(case, steps, args, env, gate):
    """{step id: (record of A, record of B)}."""
    async with gate:
        if args.mode == "golden":
            stored = json.loads(golden_path(case).read_text()) if golden_path(case).exists() else {}
            b = await suite.run_side("b", args.b, case, env, steps)
            return {s["id"]: (stored.get(s["id"], {"crash": "no golden: run --mode record"}), b.get(s["id"])) for s in steps}
        if args.mode == "record":
            a = await suite.run_side("a", args.a, case, env, steps)
            return {s["id"]: (a.get(s["id"]), None) for s in steps}
        a, b = await asyncio.gather(suite.run_side("a", args.a, case, env, steps), suite.run_side("b", args.b, case, env, steps))
        return {s["id"]: (a.get(s["id"]), b.get(s["id"])) for s in steps}


def differences(step, pair):
    """([unmet expectations of Envoy], [differences])."""
    a, b = pair
    if a is None or "crash" in a:
        return [f"Envoy: {(a or {}).get('crash', 'no record')}"], []
    bad = compare.unmet(step.get("want"), a)
    if str(a.get("elapsed", "in time")) != "in time":
        bad.append(f"elapsed: Envoy took {a['elapsed']}")
    if b is None:
        return bad, []
    if "crash" in b:
        return bad, [("crash", "<alive>", b["crash"])]
    return bad, compare.diff(a, b)


async def execute(plan, args, env):
    gate = asyncio.Semaphore(args.jobs)
    parts = await asyncio.gather(*(run_case(c, s, args, env, gate) for c, s in plan))
    pairs = {k: v for part in parts for k, v in part.items()}
    again = [(c, [s for s in steps if any(differences(s, pairs[s["id"]]))]) for c, steps in plan]
    again = [(c, s) for c, s in again if s]
    repeated = {}
    if again:  # one repetition, one file at a time: timing noise is not a difference, a difference comes back
        single = asyncio.Semaphore(1)
        for case, steps in again:
            second = await run_case(case, steps, args, env, single)
            for step in steps:
                if any(r and r.get("died") for r in pairs[step["id"]]):
                    continue  # a death is a result, whatever happens the second time
                if not any(differences(step, second[step["id"]])):
                    bad, diffs = differences(step, pairs[step["id"]])
                    repeated[step["id"]] = bad + [f"{path}: {report.short(a)} | {report.short(b)}" for path, a, b in diffs]
                pairs[step["id"]] = second[step["id"]]
    return pairs, repeated


def write_golden(plan, pairs):
    for case, steps in plan:
        path = golden_path(case)
        path.parent.mkdir(parents=True, exist_ok=True)
        old = json.loads(path.read_text()) if path.exists() else {}
        known = {s["id"] for s in case.data["steps"]}
        new = {k: v for k, v in old.items() if k in known} | {s["id"]: pairs[s["id"]][0] for s in steps}
        path.write_text(json.dumps(new, indent=1, sort_keys=True) + "\n")


def version(binary):
    try:
        out = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "?"
    text = " ".join((out.stdout or out.stderr).split())
    return text.replace(binary, Path(binary).name)[:120] or "?"  # where it is installed is nobody's business


def resolve(binary):
    found = shutil.which(binary)
    if not found:
        sys.exit(f"no such binary: {binary}")
    return str(Path(found).resolve())


def main():
    args = arguments()
    # A filled backlog, 400 streams and 60 listeners: the default 1024 descriptors are enough, less is not.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 4096), hard), hard))
    if args.mode != "golden":
        args.a = resolve(args.a)
    if args.mode != "record":
        args.b = resolve(args.b)
    plan, skipped = load(args)
    if not plan:
        sys.exit("no case chosen")
    tmp = tempfile.mkdtemp(prefix="parity-")
    env = SimpleNamespace(tmp=tmp, ports=Ports(), certs=certs.make(Path(tmp) / "certs"), local_ips=normalise.local_addresses(),
                          log_format=yaml.safe_load((HERE / "log_format.yaml").read_text()))
    start = time.monotonic()
    try:
        pairs, repeated = asyncio.run(execute(plan, args, env))
    finally:
        if args.keep:
            print(f"kept: {tmp}")
        else:
            shutil.rmtree(tmp, ignore_errors=True)
    took = time.monotonic() - start
    allow = compare.AllowList(yaml.safe_load((HERE / "allow.yaml").read_text()))
    outcome = report.judge(plan, skipped, pairs, repeated, allow, differences)
    outcome.update(seconds=took, mode=args.mode, date=datetime.date.today().isoformat(),
                   a=version(args.a) if args.mode != "golden" else "golden", b=version(args.b) if args.mode != "record" else "-", whole=not args.only)
    report.console(outcome, args.v, pairs)
    if args.mode == "record":
        if outcome["broken"]:
            print("not recorded: the oracle did not behave as the cases say")
            return 1
        write_golden(plan, pairs)
        return 0
    if args.result and not (args.only or args.later or args.quarantined):
        Path(args.result).write_text(report.markdown(outcome))
    return 0 if outcome["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
