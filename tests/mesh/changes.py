"""The mesh changes while traffic flows. What did not change must not notice: no failed request, no broken tunnel, no refused update."""
import contextlib
import os
import re
import signal
import time

import istio
import rig
import scenarios
import statements
from scenarios import DB, DETAILS, RATINGS, REVIEWS, WEB, answered
from traffic import Client, Load, Newcomers, Steady, idle, visit

ALWAYS = ["127.1.0.2", "127.1.0.4", "127.1.0.11", "127.1.0.12", "127.1.0.14", "127.1.0.15"]
POLICY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-frontend, namespace: default}
"""


class Pods:
    """The pods of the bookinfo scenarios as sinks that stand a load; reviews-v1 is a process of its own, so that it can go and come back."""

    def __init__(self, world):
        self.world, self.stack = world, contextlib.ExitStack()

    def __enter__(self):
        w = self.world
        self.stack.enter_context(Sink(w, "pods", [f"{p}:15008" for p in ALWAYS], ["127.1.0.3:9080", "127.1.0.13:8080", "127.1.0.13:8000", "127.1.0.13:8443"]))
        self.come()
        return self

    def come(self):
        self.first = Sink(self.world, "reviews-v1", ["127.1.0.1:15008"], []).__enter__()

    def go(self):
        """Ends reviews-v1, once nothing is sent to it any more."""
        idle(self.first)
        self.first.__exit__()

    def __exit__(self, *_):
        self.first.__exit__()
        self.stack.close()


class Sink(rig.Sink):
    def __init__(self, world, name, hbone, http):
        super().__init__(world.tools, world.work / f"{name}.log", http=http, hbone=hbone, certs=world.certs)
        if not name.startswith("reviews"):
            self.command += ["--tcp-port", "3306"]

    def ready(self):
        # Until the sink listens, its HBONE address is the waypoint's own (0.0.0.0:15008): the log tells, not a connection.
        rig.until(f"sink on {self.addresses}", 10, lambda: self.alive() and all(listens(a, self.child.pid) for a in self.addresses))


def listens(address, pid):
    """Whether this process has a socket that listens there."""
    host, port = address.rsplit(":", 1)
    local = "".join(f"{int(x):02X}" for x in reversed(host.split("."))) + f":{int(port):04X}"
    inodes = {f[9] for f in map(str.split, open("/proc/net/tcp")) if f[1] == local and f[3] == "0A"}
    open_ = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            open_.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return any(f"socket:[{i}]" in open_ for i in inodes)


@contextlib.contextmanager
def load(world, target, **more):
    """A load for as long as the block takes; it must have been flawless."""
    one = Load(world.tools, world.certs, target, **more)
    try:
        yield
        r = one.flawless()
        print(f"load on {target}: {r['requests']} requests, {r['rps']:.0f} a second, p50 {r['p50_us'] / 1000:.1f} ms, p99 {r['p99_us'] / 1000:.1f} ms")
    finally:
        one.stop()


def served(world, authority):
    return world.client.get(authority, "/").status == 200


def steps(world):
    """The steps of waypoint-basic, one by one: first under load on the service that they change, then on those that they leave alone."""
    mesh = world.mesh
    with mesh, Pods(world) as pods:
        mesh.settled()
        for authority in (REVIEWS, RATINGS, WEB):
            assert served(world, authority), f"{authority} is not served"
        steady = Steady(world.client, [RATINGS, WEB, RATINGS, WEB])
        bytes_ = Steady(world.client, [DB, DB], http=False)
        with load(world, REVIEWS):
            mesh.step("1-pod-added")
            mesh.settled()
            statements.agree(world, "1-pod-added")
            mesh.step("2-pod-removed")
            mesh.settled()
            statements.agree(world, "2-pod-removed")
            pods.go()
            assert not served(world, DETAILS), "details is served before it exists"
            mesh.step("3-service-added")
            mesh.settled()
            assert served(world, DETAILS), "details is not served after it was added"
            pods.come()
            mesh.step("4-route-added")
            mesh.settled()
            mesh.step("5-route-changed")
            mesh.settled()
            statements.agree(world, "5-route-changed")
        with load(world, RATINGS, connections=2), load(world, WEB, connections=2):
            mesh.step("6-policy-added")
            mesh.settled()
            statements.agree(world, "6-policy-added")
            answer = world.client.get(REVIEWS, "/")
            assert answer.status in ((403,) if world.stock else (500, 403)), f"reviews is for the frontend alone now: {answer}"
            mesh.apply(POLICY, remove=True)
            mesh.settled()
            assert served(world, REVIEWS), "reviews is not served after its policy went"
            mesh.step("7-route-delete")
            mesh.step("8-service-delete")
            mesh.settled()
            mesh.wait("details gone", 5, lambda: not served(world, DETAILS))
        steady.unbroken()
        bytes_.unbroken()
        statements.nothing_refused(world)


def churn(world):
    """Endpoints, a service, a route and a whole workload of updates, over and over, as fast as istiod takes them."""
    mesh = world.mesh
    slices = endpoints(mesh)
    with mesh, Pods(world):
        mesh.settled()
        steady = Steady(world.client, [RATINGS, WEB])
        rounds = 0
        with load(world, REVIEWS, connections=2), load(world, RATINGS, connections=2):
            end = time.monotonic() + 9
            while time.monotonic() < end:
                for change in ("1-pod-added", "2-pod-removed", "3-service-added", "4-route-added", "5-route-changed", "7-route-delete", "8-service-delete"):
                    mesh.step(change)
                    time.sleep(0.15)  # istiod gathers changes for 100 ms: each is to be a push of its own
                mesh.apply(slices)
                mesh.push()
                rounds += 1
            mesh.settled()
        assert rounds > 3, f"only {rounds} rounds"
        steady.unbroken()
        statements.nothing_refused(world)


def endpoints(mesh):
    documents = (mesh.scenario / "objects.yaml").read_text().split("\n---\n")
    return next(d for d in documents if '"EndpointSlice"' in d and 'name: "reviews-1"' in d)


def rotation(world):
    """The workload's certificate is replaced, three times: new connections get the new one, old ones go on."""
    mesh = world.mesh
    with mesh, Pods(world):
        mesh.settled()
        steady, newcomers = Steady(world.client, [REVIEWS, RATINGS]), Newcomers(world.client, REVIEWS)
        with load(world, REVIEWS):
            shown = [istio.serial("127.0.0.1", istio.HBONE)]
            for _ in range(3):
                mesh.rotate()
                mesh.wait("the new certificate shown", 10, lambda: istio.serial("127.0.0.1", istio.HBONE) not in (None, *shown))
                shown.append(istio.serial("127.0.0.1", istio.HBONE))
            # Another root is added: clients under either are served.
            mesh.add_root(world.work / "other")
            stranger = Client(world.work / "other")
            assert not welcome(stranger), "a client under a root that is not there yet was served"
            mesh.rotate()
            mesh.wait("clients under the added root served", 10, lambda: welcome(stranger))
            shown.append(istio.serial("127.0.0.1", istio.HBONE))
        newcomers.all_served()
        steady.unbroken()
        statements.nothing_refused(world)
        text = mesh.tool.istioctl("proxy-config", "secret", "--file", mesh.dump(), "-o", "short")
        number = re.search(r"serial=([0-9A-Fa-f]+)", shown[-1])[1].lower().lstrip("0")
        assert number in text.lower(), f"istioctl does not show the certificate that is served ({number}):\n{text}"


def welcome(client):
    try:
        return client.get(REVIEWS, "/").status == 200
    except OSError:
        return False


def restarts(world):
    """istiod is killed and comes back, again and again; the first time without a service that the proxy has from the one before."""
    mesh = world.mesh
    with mesh, Pods(world):
        mesh.step("3-service-added")
        mesh.settled()
        assert served(world, DETAILS), "details is not served after it was added"
        steady, newcomers = Steady(world.client, [REVIEWS, RATINGS, WEB]), Newcomers(world.client, REVIEWS)
        bytes_ = Steady(world.client, [DB], http=False)
        with load(world, REVIEWS):
            for down in (0, 0.5, 2):
                mesh.restart_istiod(down)
                mesh.settled()
                once_each(mesh)
                statements.agree(world, "0-initial")
        newcomers.all_served()
        steady.unbroken()
        bytes_.unbroken()
        assert istio.fetch(istio.AGENT, "/healthz/ready")[0] == 200
        # After it all the proxy still follows.
        mesh.step("3-service-added")
        mesh.settled()
        assert served(world, DETAILS), "details is not served: the proxy does not follow istiod after its restarts"


def once_each(mesh):
    """On its new connection the proxy asked for each type once, for endpoints with all names at a time."""
    text = (mesh.work / "istiod.log").read_text(errors="replace").rsplit("ADS: new delta connection", 1)[1]
    asked = {kind: len(re.findall(rf"\t{kind}: PUSH request", text)) for kind in ("CDS", "EDS", "LDS")}
    assert set(asked.values()) == {1}, f"after istiod's restart each type is to be asked for once: {asked}"


def drain(world):
    """SIGTERM to the agent: it asks the proxy to drain and ends it five seconds later. Until then all is served, and clients are asked to go."""
    mesh = world.mesh
    with mesh, Pods(world):
        mesh.settled()
        one = Load(world.tools, world.certs, REVIEWS)
        time.sleep(0.7)  # it is to be under way
        proxy = istio.children(mesh.agent())
        from_ = time.monotonic()
        os.kill(mesh.agent(), signal.SIGTERM)
        rig.until("the proxy draining", 3, lambda: "DRAINING" in mesh.admin("/server_info") or mesh.stats("listener_manager.total_listeners_draining") or
                  time.monotonic() - from_ > 1)
        answer = world.client.get(REVIEWS, "/")
        assert answer.status == 200, f"a new connection in the grace period: {answer}"
        time.sleep(1.5)
        one.flawless()
        rig.until("the agent gone", 10, lambda: mesh.child.poll() is not None)
        took = time.monotonic() - from_
        assert 4 < took < 8, f"the agent ended after {took:.1f} s"
        rig.until("the proxy gone", 5, lambda: not any(istio.runs(p) for p in proxy.values()))


def gateway(world):
    """gateway-api without its guards: a certificate is replaced and a route goes, while its other names are in use."""
    mesh, fixtures = world.mesh, world.fixtures / "certs"
    world.with_destinations()
    with mesh:
        mesh.settled()
        mesh.apply(scenarios.GUARDS, remove=True)
        mesh.settled()
        answered(visit(443, "shop.example", "/reviews/1", fixtures / "shop.example.crt"))
        before = istio.serial("127.0.0.1", 443, "shop.example")
        wild = Visitors("a.wild.example", fixtures / "wild.crt")
        shop = Visitors("shop.example", False)
        mesh.step("1-secret-rotated")

        def shown():
            mesh.push()  # the tool's istiod reads a secret that changed, and does not push for it
            mesh.settled()
            return istio.serial("127.0.0.1", 443, "shop.example") not in (None, before)
        try:
            mesh.wait("the new certificate shown", 15, shown)
        except AssertionError:
            # Seen once in thirty runs, all acknowledged: whether istiod's store or the proxy missed the change shows in whether another helps.
            print(f"the secret is applied again; the proxy has {mesh.admin('/certs')[:2000]}")
            mesh.step("1-secret-rotated")
            mesh.wait("the new certificate shown", 15, shown)
        statements.nothing_refused(world)
        wild.all_served()
        mesh.step("2-route-delete")
        mesh.settled()
        answered(visit(443, "a.wild.example", "/", fixtures / "wild.crt"), 404)
        shop.all_served()
        assert istio.serial("127.0.0.1", 443, "a.wild.example"), "the listener of the removed route is gone"
        statements.nothing_refused(world)


class Visitors(Newcomers):
    """New connections to the gateway, one after the other."""

    def __init__(self, name, roots):
        super().__init__(name, roots)

    def come(self, name, roots):
        while not self.over.wait(0.02):
            answer = visit(443, name, "/reviews/1", roots)
            if answer.status != 200:
                self.failures.append(f"{name}, visit {self.count}: {answer}")
            self.count += 1


CHANGES = {
    "steps of a day": ("waypoint-basic", steps),
    "constant change": ("waypoint-basic", churn),
    "certificates replaced": ("waypoint-basic", rotation),
    "istiod killed and restarted": ("waypoint-basic", restarts),
    "agent told to stop": ("waypoint-basic", drain),
    "gateway certificate and route": ("gateway-api", gateway),
}
