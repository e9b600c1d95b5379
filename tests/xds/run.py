#!/usr/bin/env python3
"""run.py --bin BINARY [--tools WAYPOST] [--only PATTERN] [-v]: how a proxy talks with its control plane, and what it then does.

Every case is a sentence that holds for Envoy 1.40; it is played by a scripted control plane (control.py) in both dialects of xDS. --envoy plays
them to Envoy. --tools is the binary with `waypost wire` (BINARY itself unless it is Envoy). What Waypost does otherwise on purpose is listed in
`allow.txt`, sentence by sentence with a reason."""
import argparse
import importlib
import pathlib
import re
import shutil
import sys
import tempfile
import time
import traceback

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
sys.dont_write_bytecode = True
import rig  # noqa: E402
from bed import Backend, Bed  # noqa: E402
from cases import CASES  # noqa: E402
from control import Late  # noqa: E402
from proto import Wire  # noqa: E402

FILES = ("conversation", "together", "warming", "changes", "secrets", "scopes", "hosts", "hostile", "recorded")


def tools(given, binary):
    """The binary with `waypost wire`."""
    for path in (given, binary if "envoy" not in pathlib.Path(binary).name else None, rig.find("waypost")):
        if path:
            return path
    sys.exit("no binary with `waypost wire`: name one with --tools")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bin")
    p.add_argument("--envoy", action="store_true")
    p.add_argument("--tools")
    p.add_argument("--only", default="", metavar="PATTERN", help="only cases whose dialect and sentence match")
    p.add_argument("-v", "--verbose", action="store_true", help="every conversation, and where a case failed")
    p.add_argument("--keep", type=pathlib.Path, help="a folder for what the proxies wrote")
    a = p.parse_args()
    rig.isolate()
    binary = rig.find("envoy", a.bin) if a.envoy else rig.find("waypost", a.bin)
    if not binary:
        sys.exit("no binary to play them to")
    for name in FILES:
        if (HERE / "cases" / f"{name}.py").exists():
            importlib.import_module(f"cases.{name}")
    wire = Wire(tools(a.tools, binary))
    allowed = {}
    if not a.envoy and (HERE / "allow.txt").exists():
        allowed = dict(line.split(": ", 1)[::-1] for line in (HERE / "allow.txt").read_text().splitlines() if ": " in line and not line.startswith("#"))
    count, failed, begin = 0, [], time.monotonic()
    with tempfile.TemporaryDirectory() as d:
        backends = {name: Backend(name, port) for name, port in (("A", 20001), ("B", 20002))}
        certs = rig.certificates(d)
        for sentence, dialects, check in CASES:
            for dialect in dialects:
                if not re.search(a.only, f"{dialect}: {sentence}"):
                    continue
                count += 1
                work = pathlib.Path(d) / f"{count}"
                work.mkdir()
                bed, since = Bed(binary, wire, work, dialect, backends, certs), time.monotonic()
                problem = None
                try:
                    check(bed)
                    if bed.proxy:
                        bed.proxy.alive()
                except (Exception, SystemExit) as e:
                    problem = f"{type(e).__name__}: {e}" if not isinstance(e, (AssertionError, SystemExit, Late)) else str(e)
                    where = traceback.format_exc()
                finally:
                    transcript = bed.plane.transcript()
                    bed.close()
                said = "ok     " if not problem else "allowed" if sentence in allowed else "FAILED "
                print(f"{said} {dialect:5} {sentence} ({time.monotonic() - since:.1f} s)", flush=True)
                for note in bed.notes:
                    print(f"        ({note})")
                if problem:
                    print("        " + problem.replace("\n", "\n        "))
                    if a.verbose:
                        print(where)
                    if sentence not in allowed:
                        failed.append(sentence)
                if a.verbose:
                    print(transcript)
                if a.keep:
                    shutil.copytree(work, a.keep / f"{count}", dirs_exist_ok=True, ignore=lambda _, names: [n for n in names if n.endswith(".sock")])
    wire.close()
    print(f"{count} cases, {len(failed)} failed, {time.monotonic() - begin:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
