#!/usr/bin/env python3
"""run.py --bin PATH [--h2spec PATH] [--record]

Runs h2spec (strict) against a proxy and fails where a case fails that Envoy passes; envoy.txt beside this file lists what Envoy fails.
Cases depend on timing, so a case has failed when it failed in each of up to three runs. --record writes envoy.txt from the given binary."""
import argparse
import http.server
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import xml.etree.ElementTree as xml

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import rig


class Backend(http.server.BaseHTTPRequestHandler):
    """Reads a request's body, whatever its framing, and answers 200 with a body of a few frames' worth of nothing."""
    protocol_version = "HTTP/1.1"

    def answer(self):
        if "chunked" in self.headers.get("transfer-encoding", ""):
            while size := int(self.rfile.readline(64).split(b";")[0] or b"0", 16):
                self.rfile.read(size + 2)
            while self.rfile.readline(65536) not in (b"\r\n", b""):
                pass
        else:
            self.rfile.read(int(self.headers.get("content-length", 0)))
        body = b"h2spec looks for a body longer than one byte\n"
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body)

    do_GET = do_POST = do_HEAD = do_OPTIONS = answer

    def log_message(self, *_):
        pass


def cases(report):
    """{case: message or None} of one JUnit report; a case is named by section, place in the section and title."""
    out = {}
    text = re.sub(r"&#x?[0-9a-fA-F]+;|[^\t\n\r\x20-\ufffd]", "?", report.read_text(errors="replace"))  # it quotes frames raw, which no XML parser takes
    for suite in xml.fromstring(re.sub(r"^<\?xml[^>]*\?>", "", text)).iter("testsuite"):
        for i, case in enumerate(suite.iter("testcase"), 1):
            bad = case.find("failure") if case.find("failure") is not None else case.find("error")
            out[f"{case.get('package') or suite.get('package')}/{i}: {case.get('classname')}"] = None if bad is None else " ".join((bad.text or "").split())
    return out


def failing(h2spec, work, proxy, known):
    """The number of cases, and what failed in every run; runs again only while something fails that is not known to."""
    failed, total = None, 0
    for attempt in range(3):
        report = work / f"report-{attempt}.xml"
        subprocess.run([h2spec, "-p", "10010", "--strict", "-j", report], capture_output=True, timeout=600)
        proxy.alive()
        seen = cases(report)
        total = max(total, len(seen))
        now = {c: m for c, m in seen.items() if m is not None}
        failed = now if failed is None else {c: m for c, m in failed.items() if c in now}
        if not set(failed) - known:
            break
    return total, failed


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--bin", required=True)
    a.add_argument("--h2spec", default=str(rig.ROOT / ".cache/bin/h2spec"))
    a.add_argument("--record", action="store_true")
    args = a.parse_args()
    rig.isolate()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 10011), Backend)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # the cases end connections as they please
    threading.Thread(target=server.serve_forever, daemon=True).start()
    list_file = HERE / "envoy.txt"
    known = set() if args.record else set(list_file.read_text().splitlines())
    with tempfile.TemporaryDirectory() as d, rig.Proxy(rig.find("proxy", args.bin) or sys.exit(f"cannot run {args.bin}"), HERE / "h2.yaml", d, pathlib.Path(d) / "proxy.log") as proxy:
        total, failed = failing(args.h2spec, pathlib.Path(d), proxy, known)
    if total < 100:
        sys.exit(f"h2spec ran {total} cases only")
    if args.record:
        list_file.write_text("".join(f"{c}\n" for c in failed))
        print(f"{total} cases, {len(failed)} failed, written to {list_file}")
        return
    worse = {c: m for c, m in failed.items() if c not in known}
    for c, m in worse.items():
        print(f"FAIL {c}\n     {m}")
    for c in sorted(known - set(failed)):
        print(f"passes where Envoy fails: {c}")
    print(f"h2spec: {total} cases, {len(failed)} failed, {len(worse)} of them pass in Envoy")
    sys.exit(1 if worse else 0)


main()
