"""Starts proxies and sinks for the checks and benchmarks of this repository, and measures them.

A script calls `isolate()` first: it goes on in a network namespace of its own, so the fixed ports of a configuration never meet another
program's (Envoy binds with SO_REUSEPORT: two proxies on one port would silently share the connections). Where that is not allowed it runs on
the machine's own loopback."""
import fcntl
import http.client
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TICKS = os.sysconf("SC_CLK_TCK")


def isolate():
    """Re-executes the script in a fresh network namespace with loopback up; does nothing inside one or where it is forbidden."""
    if os.environ.get("RIG_NETNS") != "1":
        how = ["unshare", "--net"] + ([] if os.geteuid() == 0 else ["--map-root-user"])
        if shutil.which("unshare") and subprocess.run([*how, "true"], capture_output=True).returncode == 0:
            os.environ["RIG_NETNS"] = "1"
            sys.stdout.flush()
            os.execvp(how[0], [*how, sys.executable, *sys.argv])
        print("no network namespace of our own: running on this machine's loopback, its ports must be free")
        return
    up, request = 0x1 | 0x40, b"lo" + bytes(14)  # IFF_UP | IFF_RUNNING
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        fcntl.ioctl(s, 0x8914, request + struct.pack("h", up) + bytes(14))  # SIOCSIFFLAGS


def find(name, given=None):
    """The path of `envoy` or `waypost`: as given, from the environment (ENVOY, WAYPOST), where run.sh puts it, or on PATH. None if nowhere."""
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    places = [given, os.environ.get(name.upper())]
    places += [ROOT / ".venv/bin/envoy"] if name == "envoy" else [target / "release" / name]
    for p in [*places, shutil.which(name)]:
        if p and os.access(p, os.X_OK):
            return str(pathlib.Path(p).resolve())
    return None


def until(what, seconds, probe):
    """Calls `probe` until it returns something true; fails by name when the time is over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if r := probe():
            return r
        time.sleep(0.02)
    raise SystemExit(f"{what}: not within {seconds} s")


def connects(address, port):
    try:
        socket.create_connection((address, port), 1).close()
        return True
    except OSError:
        return False


class Process:
    """A child with its log in a file; ends with the `with` block, by SIGTERM and after five seconds by SIGKILL."""

    def __init__(self, command, cwd, log, cpu=None):
        self.command, self.cwd, self.log, self.cpu, self.child = [str(c) for c in command], cwd, pathlib.Path(log), cpu, None

    def __enter__(self):
        pin = ["taskset", "-c", str(self.cpu)] if self.cpu is not None and shutil.which("taskset") else []
        with self.log.open("wb") as f:
            self.child = subprocess.Popen(pin + self.command, cwd=self.cwd, stdin=subprocess.DEVNULL, stdout=f, stderr=subprocess.STDOUT)
        try:
            self.ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def ready(self):
        pass

    def alive(self):
        if self.child.poll() is not None:
            raise SystemExit(f"{self.command[0]} ended with {self.child.returncode}; the end of {self.log}:\n" + self.tail())
        return True

    def tail(self, lines=15):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def __exit__(self, *_):
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
            try:
                self.child.wait(5)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()

    # What it costs. schedstat counts nanoseconds but not by kind; utime and stime give the kinds, in clock ticks (10 ms).
    def cpu_us(self):
        """(user, system) microseconds of CPU so far, all threads."""
        fields = pathlib.Path(f"/proc/{self.child.pid}/stat").read_text().rsplit(")", 1)[1].split()
        user, system = int(fields[11]) * 1e6 / TICKS, int(fields[12]) * 1e6 / TICKS
        return user, system

    def run_us(self):
        """Microseconds on a CPU so far, exact, all living threads; 0 where the kernel keeps no schedstat."""
        total = 0
        for t in pathlib.Path(f"/proc/{self.child.pid}/task").iterdir():
            try:
                total += int((t / "schedstat").read_text().split()[0])
            except (OSError, ValueError, IndexError):
                pass
        return total / 1000

    def rss_kib(self):
        for line in pathlib.Path(f"/proc/{self.child.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        return 0

    def fds(self):
        return len(os.listdir(f"/proc/{self.child.pid}/fd"))


class Proxy(Process):
    """Envoy, or anything with Envoy's command line, ready when its admin port says LIVE."""

    def __init__(self, binary, config, cwd, log, cpu=None, concurrency=1, admin=15000, extra=()):
        self.admin = admin
        super().__init__([binary, "-c", config, "--concurrency", concurrency, "--disable-hot-restart", "-l", "warning", *extra], cwd, log, cpu)

    def get(self, path):
        c = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=5)
        try:
            c.request("GET", path)
            r = c.getresponse()
            return r.status, r.read().decode(errors="replace")
        except (OSError, http.client.HTTPException):
            return 0, ""
        finally:
            c.close()

    def ready(self):
        until(f"{self.command[0]} ready", 20, lambda: self.alive() and self.get("/ready")[0] == 200)

    def gauges(self, pattern):
        """{name: value} of the numeric stats whose name matches the regular expression."""
        _, text = self.get(f"/stats?filter={pattern}")
        pairs = (line.rsplit(": ", 1) for line in text.splitlines() if ": " in line)
        return {n: int(v) for n, v in pairs if v.strip().lstrip("-").isdigit()}


class Sink(Process):
    """`TOOLS sink`: HTTP/1.1 and h2c with prior knowledge on `http`, HTTP inside CONNECT on `hbone`; ready when every port accepts."""

    def __init__(self, tools, log, http=(), hbone=(), certs=None, cpu=None):
        self.addresses = [*http, *hbone]
        args = [x for a in http for x in ("--http", a)] + [x for a in hbone for x in ("--hbone", a)]
        if certs:
            args += ["--cert", f"{certs}/server.pem", "--key", f"{certs}/server.key", "--ca", f"{certs}/ca.pem"]
        super().__init__([tools, "sink", *args], None, log, cpu)

    def ready(self):
        for a in self.addresses:
            host, port = a.rsplit(":", 1)
            until(f"sink on {a}", 10, lambda: self.alive() and connects(host, int(port)))


def certificates(folder):
    """The certificates of configs/make-certs.sh in FOLDER/certs."""
    subprocess.run([ROOT / "configs/make-certs.sh", pathlib.Path(folder) / "certs"], check=True)
    return pathlib.Path(folder) / "certs"


def machine():
    """One line on where this ran."""
    model = next((l.split(":", 1)[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), "unknown CPU")
    memory = int(open("/proc/meminfo").readline().split()[1]) // 1048576
    return f"{model}, {os.cpu_count()} cores, {memory} GiB, Linux {os.uname().release}"
