"""A waypoint driven over xDS, with a sink behind it: what the push benchmark and the update test share."""
import contextlib
import json
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import rig  # noqa: E402
from bed import Proxy  # noqa: E402
from control import Plane  # noqa: E402
from mesh import vip  # noqa: E402
from resources import ADMIN, ADS, bootstrap, secret  # noqa: E402

VIA, POD = "127.0.0.1:15008", "127.1.0.1"


def secrets(certs, name="waypoint"):
    """What the agent gives: who one is, and whom to trust."""
    own = secret("default", (certs / f"{name}.pem").read_text(), (certs / f"{name}.key").read_text())
    return own, {"@type": own["@type"], "name": "ROOTCA", "validation_context": {"trusted_ca": {"inline_string": (certs / "ca.pem").read_text()}}}


class Waypoint:
    """`plane`, `sds` and `proxy`, and the commands of `waypost hbone` against it."""

    def __init__(self, binary, tools, wire, work, certs):
        self.binary, self.tools, self.wire, self.work, self.certs = binary, tools, wire, work, certs

    def command(self, name, *rest):
        identity = ["--via", VIA, "--cert", self.certs / "client.pem", "--key", self.certs / "client.key", "--ca", self.certs / "ca.pem"]
        return [str(x) for x in (self.tools, "hbone", name, *identity, *rest)]

    def passes(self, service, port):
        """Whether a request to a service of the mesh is answered."""
        return subprocess.run(self.command("get", f"http://{vip(service)}:{port}/"), capture_output=True, timeout=20).returncode == 0

    @contextlib.contextmanager
    def running(self, concurrency=2, resources=None, node=None):
        """Everything up and LIVE with what the plane has (nothing unless given)."""
        with contextlib.ExitStack() as stack:
            self.plane = stack.enter_context(Plane(f"127.0.0.1:{ADS}", self.wire))
            for kind, made in (resources or {}).items():
                self.plane.replace(kind, made)
            self.sds = stack.enter_context(Plane(f"unix:{self.work / 'sds.sock'}", self.wire))
            self.sds.set(*secrets(self.certs))
            stack.enter_context(rig.Sink(self.tools, self.work / "sink.log", hbone=[f"{POD}:15008"], certs=self.certs))
            file = self.work / "bootstrap.json"
            file.write_text(json.dumps(bootstrap("delta", node=node)))
            self.proxy = stack.enter_context(Proxy(self.binary, file, self.work, self.work / "proxy.log", concurrency=concurrency, admin=ADMIN))
            self.proxy.until_live(60)
            yield self
