"""Istio around a proxy: the mesh tool of ../shared/tools/istiod built and run, what istiod believes, and what istioctl reads from the proxy."""
import contextlib
import hashlib
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import rig

PROGRAMS = ("istiod", "pilot-agent", "istioctl", "extauthz")
ADS, CONTROL, ADMIN, AGENT, READY, METRICS, HBONE = 15010, 15014, 15000, 15020, 15021, 15090, 15008


class Missing(Exception):
    """The mesh tool cannot be had here; the text says why."""


class Tool:
    """mesh.sh and its programs, built once for each version of their sources."""

    def __init__(self, shared):
        self.folder, self.script = shared / "tools/istiod", shared / "tools/istiod/mesh.sh"
        if not self.script.is_file():
            raise Missing(f"the mesh tool is not in {self.folder}")
        if not shutil.which("go"):
            raise Missing("Go is not installed (https://go.dev/dl, 1.26 or newer): it builds istiod's generators and pilot-agent")
        if not (self.folder / "go.mod").is_file():
            raise Missing(f"no Go module in {self.folder}")
        given = os.environ.get("MESH_BIN")
        cache = pathlib.Path(os.environ.get("WAYPOST_CACHE", rig.ROOT / ".cache"))
        sources = b"".join(f.read_bytes() for f in sorted([*self.folder.glob("*.go"), self.folder / "go.mod", self.folder / "go.sum"]))
        self.bin = pathlib.Path(given) if given else cache / "mesh" / hashlib.sha256(sources).hexdigest()[:12]
        self.bin = self.bin.resolve()
        self.env = {**os.environ, "MESH_BIN": str(self.bin)}

    def there(self):
        return all(os.access(self.bin / p, os.X_OK) for p in PROGRAMS)

    def build(self):
        if self.there():
            return
        print(f"building istiod, pilot-agent and istioctl into {self.bin} (five to ten minutes of two cores the first time)", flush=True)
        self.bin.mkdir(parents=True, exist_ok=True)
        from_ = time.monotonic()
        r = subprocess.run(["nice", "bash", self.script, "build"], env=self.env, capture_output=True, text=True)
        if r.returncode or not self.there():
            lines = [l for l in r.stderr.splitlines() if not l.startswith("go: downloading")]
            raise Missing("the mesh tool does not build: " + " | ".join(lines[-5:]))
        print(f"built in {time.monotonic() - from_:.0f} s", flush=True)

    def istioctl(self, *arguments, config=None):
        """What istioctl prints; it may read no cluster and no user's settings."""
        env = {**self.env, "HOME": str(self.bin), "KUBECONFIG": "/dev/null"}
        r = subprocess.run([self.bin / "istioctl", *arguments], env=env, capture_output=True, text=True, timeout=60)
        if r.returncode:
            raise AssertionError(f"istioctl {' '.join(map(str, arguments))}: {r.stderr.strip() or r.stdout.strip()}")
        return r.stdout


def fetch(port, path, method="GET", body=None, host="127.0.0.1", timeout=10, headers=()):
    """(status, body); status 0 when nobody answers."""
    c = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        c.request(method, path, body, dict(headers))
        r = c.getresponse()
        return r.status, r.read().decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        c.close()


def children(pid):
    out = {}
    for p in pathlib.Path("/proc").iterdir():
        if p.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                if int((p / "stat").read_text().rsplit(")", 1)[1].split()[1]) == pid:
                    out[(p / "comm").read_text().strip()] = int(p.name)
    return out


def runs(pid):
    """Whether a process is there and no zombie."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


class Mesh:
    """`mesh.sh run BINARY SCENARIO`, from start to end; in a `with` block."""

    def __init__(self, tool, binary, scenario, work):
        self.tool, self.binary, self.scenario, self.work = tool, binary, scenario, work
        self.node = json.loads((scenario / "node.json").read_text())
        self.waypoint = self.node["id"].startswith("waypoint~")
        self.child = self.istiod = None

    def __enter__(self):
        self.work.mkdir(parents=True, exist_ok=True)
        # A session of its own, so that at the end nothing of it is left, whoever started it.
        with (self.work / "mesh.log").open("wb") as log:
            self.child = subprocess.Popen(["bash", self.tool.script, "run", self.binary, self.scenario, self.work], env=self.tool.env,
                                          stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            self.ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.istiod:
            self.istiod.kill()
            self.istiod.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()
        rig.until("ports free", 10, lambda: not any(rig.connects("127.0.0.1", p) for p in (ADS, CONTROL, ADMIN, AGENT, HBONE)))

    def alive(self):
        if self.child.poll() is not None:
            raise AssertionError(f"the mesh ended with {self.child.returncode}; the end of proxy.log:\n" + self.tail())
        return True

    def log(self):
        return (self.work / "proxy.log").read_text(errors="replace") if (self.work / "proxy.log").exists() else ""

    def tail(self, lines=15):
        """The end of the log, without access logs, what the agent says just for information, and all but its last complaint that the proxy is not ready."""
        kept = []
        for line in self.log().splitlines():
            if "Envoy proxy is NOT ready" in line:
                kept = [k for k in kept if "Envoy proxy is NOT ready" not in k]
            if not line.startswith("[2") and "Z\tinfo\t" not in line and line:
                kept.append(line)
        return "\n".join(kept[-lines:])

    def nacks(self):
        """What the proxy refused, as istiod was told."""
        path = self.work / "istiod.log"
        return [l for l in path.read_text(errors="replace").splitlines() if "ACK ERROR" in l] if path.exists() else []

    def wait(self, what, seconds, probe):
        """rig.until, with the proxy's last words when it takes too long or ends."""
        try:
            return rig.until(what, seconds, lambda: self.alive() and probe())
        except SystemExit as e:
            raise AssertionError(f"{e}; the end of proxy.log:\n{self.tail()}") from e

    def ready(self):
        self.wait("istiod and the agent", 60, lambda: fetch(CONTROL, "/debug/syncz")[0] == 200 and fetch(AGENT, "/healthz/ready")[0])
        def found_ready():
            assert not (refused := self.nacks()), f"the proxy refused what istiod sent: {refused[0][:3000]}"
            return fetch(AGENT, "/healthz/ready")[0] == 200
        self.wait("the agent to find the proxy ready", 60, found_ready)
        self.wait("the proxy's listener for the readiness probe", 10, lambda: fetch(READY, "/healthz/ready")[0] == 200)

    # What istiod does and believes.

    def apply(self, yaml, remove=False):
        status, said = fetch(CONTROL, "/delete" if remove else "/apply", "POST", yaml)
        assert status == 200, f"istiod did not take this: {status} {said}\n{yaml}"

    def step(self, name):
        self.apply((self.scenario / "steps" / f"{name}.yaml").read_text(), name.endswith("-delete"))

    def synced(self):
        """{type: (nonce sent, nonce acknowledged)} of the proxy, by istiod's word; None while it is not connected."""
        status, text = fetch(CONTROL, "/debug/syncz")
        for one in json.loads(text) if status == 200 and text.startswith("[") else []:
            if one.get("proxy", "").startswith(self.node["id"].split("~")[2]):
                return {url: (r.get("sent"), r.get("acked")) for url, r in one.get("resources", {}).items()}
        return None

    def push(self):
        """Has istiod send all that it has anew, changed or not."""
        status, _ = fetch(CONTROL, "/debug/adsz?push=true")
        assert status == 200, status

    def settled(self, seconds=20):
        """Waits until everything that istiod has sent is acknowledged, and nothing new for a while (istiod waits 100 ms for more changes)."""
        state = {"at": time.monotonic(), "last": None}

        def probe():
            now = self.synced()
            if not now or now != state["last"] or any(sent != acked for sent, acked in now.values()):
                state.update(at=time.monotonic(), last=now)
                return False
            return time.monotonic() - state["at"] > 0.6
        self.wait("everything acknowledged", seconds, probe)
        return state["last"]

    def restart_istiod(self, down=0.0):
        """Kills istiod and starts another, which knows the scenario's objects and nothing that was applied later."""
        if self.istiod:
            self.istiod.kill()
            self.istiod.wait()
        else:
            os.kill(children(self.child.pid)["istiod"], signal.SIGKILL)
        rig.until("istiod gone", 5, lambda: not rig.connects("127.0.0.1", ADS))
        time.sleep(down)
        with (self.work / "istiod.log").open("ab") as log:
            self.istiod = subprocess.Popen([self.tool.bin / "istiod", "serve", self.scenario], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        self.wait("istiod again", 20, lambda: fetch(CONTROL, "/debug/syncz")[0] == 200)
        self.wait("the proxy connected again", 40, self.synced)

    def agent(self):
        return children(self.child.pid)["pilot-agent"]

    # The workload's certificate.

    def rotate(self):
        """A new certificate and key under the same root, put in place at once, as the kubelet does: by moving a link."""
        m = self.node["metadata"]
        account = f"{m['NAMESPACE']}-{m['SERVICE_ACCOUNT']}"
        certs, link = self.work / "certs", self.work / "var/run/secrets/workload-spiffe-credentials"
        old = certs / account
        kept = certs / f"{account}-{time.monotonic_ns()}"
        shutil.copytree(old, kept)
        fresh = link.with_name("fresh")
        fresh.symlink_to(kept)
        fresh.rename(link)  # away from the folder that is written next
        subprocess.run(["bash", self.tool.script, "certs", certs, m["NAMESPACE"], m["SERVICE_ACCOUNT"]], check=True, env=self.tool.env)
        fresh.symlink_to(old)
        fresh.rename(link)

    def add_root(self, folder):
        """A second root beside the first, and a client's certificate under it in `folder`, which is given as client.pem, client.key and ca.pem."""
        subprocess.run(["bash", self.tool.script, "certs", folder, "default", "client"], check=True, env=self.tool.env)
        root = self.work / "certs/root-cert.pem"
        root.write_text(root.read_text() + (folder / "root-cert.pem").read_text())
        for made, name in (("default-client/cert-chain.pem", "client.pem"), ("default-client/key.pem", "client.key")):
            shutil.copy(folder / made, folder / name)
        shutil.copy(root, folder / "ca.pem")

    # What the proxy says.

    def admin(self, path, method="GET"):
        return fetch(ADMIN, path, method)[1]

    def stats(self, pattern):
        pairs = (l.rsplit(": ", 1) for l in self.admin(f"/stats?filter={pattern}").splitlines() if ": " in l)
        return {n: int(v) for n, v in pairs if v.isdigit()}

    def rejected(self):
        return {n: v for n, v in self.stats("update_rejected|update_failure").items() if v and "rejected" in n}

    def dump(self, name="dump.json"):
        """The config dump with endpoints, in a file."""
        path = self.work / name
        path.write_text(self.admin("/config_dump?include_eds"))
        return path


def serial(host, port, name=None, cert=None):
    """The serial number of the certificate that a TLS port shows."""
    args = ["openssl", "s_client", "-connect", f"{host}:{port}", "-showcerts"] + (["-servername", name] if name else ["-noservername"])
    shown = subprocess.run(args, input="", capture_output=True, text=True, timeout=10).stdout
    pem = re.search(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", shown, re.S)
    if not pem:
        return None
    return subprocess.run(["openssl", "x509", "-noout", "-serial", "-subject"], input=pem[0], capture_output=True, text=True).stdout.strip()


def names(objects, key="name"):
    return sorted({o[key] for o in objects})
