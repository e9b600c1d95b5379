#!/usr/bin/env python3
"""Counts the instructions of each case of benches/micro.rs and compares them with benches/micro-baseline.json.

A case is run N and 2N times under callgrind; the difference by N is the cost of one operation, free of what start-up costs.
Counts do not depend on how busy the machine is. A case that takes 10 % more than recorded fails.

    benches/micro.py                  compare
    benches/micro.py --update         record what is measured
    benches/micro.py --binary PATH    measure a binary that is built already
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
BASELINE = HERE / "micro-baseline.json"
RUNS = 1000
TOLERANCE = 0.10


def build(profile):
    """Builds the benchmark and returns its path."""
    command = ["cargo", "build", "--bench", "micro", "--profile", profile, "--message-format", "json-render-diagnostics"]
    lines = subprocess.run(command, cwd=HERE.parent, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    messages = [json.loads(line) for line in lines if line.startswith("{")]
    return next(m["executable"] for m in messages if m.get("executable") and m["target"]["name"] == "micro")


def instructions(binary, case, runs):
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", binary, case, str(runs)]
    result = subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    return int(re.search(r"Collected : (\d+)", result.stderr).group(1))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", action="store_true", help="write the baseline")
    parser.add_argument("--binary", help="measure this binary")
    parser.add_argument("--profile", default="release", help="cargo profile to build")
    arguments = parser.parse_args()

    binary = arguments.binary or build(arguments.profile)
    cases = subprocess.run([binary, "--list"], check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    recorded = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    measured, failed = {}, []
    print(f"{'case':32} {'instructions':>12} {'recorded':>12} {'change':>8}")
    for case in cases:
        count = round((instructions(binary, case, 2 * RUNS) - instructions(binary, case, RUNS)) / RUNS)
        measured[case] = count
        before = recorded.get(case)
        change = f"{100 * (count / before - 1):+.1f} %" if before else "new"
        print(f"{case:32} {count:12} {before or '-':>12} {change:>8}")
        if before and count > before * (1 + TOLERANCE):
            failed.append(case)
    if arguments.update:
        BASELINE.write_text(json.dumps(measured, indent=2, sort_keys=True) + "\n")
    elif failed:
        sys.exit(f"more than {TOLERANCE:.0%} above the baseline: {', '.join(failed)}")
    elif missing := [case for case in cases if case not in recorded]:
        sys.exit(f"not in the baseline: {', '.join(missing)}; run with --update")


if __name__ == "__main__":
    main()
