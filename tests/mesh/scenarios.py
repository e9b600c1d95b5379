"""What each scenario of ../shared/fixtures/istio must do with traffic once its real istiod has configured the proxy.

A scenario is a function of a `World`: the running mesh, a captured client, and destinations that note what reaches them."""
import re
import time

from istio import fetch
import rig
from traffic import echo_outside, visit

CAPTURED = ("127.1.0.1", "127.1.0.2", "127.1.0.11", "127.1.0.12", "127.1.0.14", "127.1.0.15", "127.1.0.50", "127.1.0.71")
PLAIN = ("127.1.0.3:9080", "127.1.0.13:8080", "127.1.0.13:8000")
REVIEWS, RATINGS, DB, WEB, SNIFFED, PASSED, DETAILS = ("127.2.0.10:9080", "127.2.0.11:9081", "127.2.0.12:3306", "127.2.0.13:80", "127.2.0.13:8000",
                                                       "127.2.0.13:443", "127.2.0.14:9080")
PODS = ("127.1.0.1:15008 through", "127.1.0.2:15008 through", "127.1.0.3:9080")


def answered(answer, status=200):
    assert answer.status == status, f"{status} was expected, not {answer}"
    return answer


def at(world, *addresses):
    """Something arrived, and only at these (bytes that are no HTTP are noted when their connection ends)."""
    reached, end = world.destinations.reached(), time.monotonic() + 3
    while not reached and time.monotonic() < end:
        time.sleep(0.02)
        reached = world.destinations.reached()
    assert reached and all(any(r.startswith(a) for a in addresses) for r in reached), f"arrived at {reached}, not at {addresses}"
    return reached


def full_names(world):
    """The tool's store does not complete the short hosts of VirtualServices (their clusters do not exist: 503); this applies them with full names."""
    documents = (world.mesh.scenario / "objects.yaml").read_text().split("\n---\n")
    services = [d for d in documents if "kind: VirtualService" in d]
    world.mesh.apply("\n---\n".join(re.sub(r"host: (details|reviews|mixed)\b", r"host: \1.default.svc.cluster.local", d) for d in services))
    world.mesh.settled()


def echoed(client, authority):
    got = client.echo(authority)
    assert got == b"echo:\x01 no http|bye", f"{authority} gave {got!r} for bytes that are no HTTP"


def guarded(world, authority, http=True):
    """Nothing may pass a filter that is not built yet: 500 (or no answer at all where it is no HTTP), and nothing arrives."""
    world.destinations.taken()
    if http:
        answer = world.client.get(authority)
        expected = (500,) if not world.stock else (401, 403, 429, 500, 200)
        assert answer.status in expected, f"{authority} is guarded: {answer}"
    else:
        data = world.client.echo(authority)
        assert not data or world.stock, f"{authority} is guarded, and gave {data!r}"
    if not world.stock:
        assert not (reached := world.destinations.reached()), f"{authority} is guarded, and {reached} was reached"


def said_why(world, *filters):
    """The access log names the filter that is not built: by its response code details."""
    def probe():
        lines = [l for l in world.mesh.log().splitlines() if re.search(r'" 500 ', l)]
        return lines if any(f in l for l in lines for f in filters) else False
    if not world.stock:
        world.mesh.wait(f"an access log line of 500 whose details name one of {filters}", 4, probe)


def bookinfo(world, grpc="/svc/Unary"):
    """The services that nearly every scenario has: HTTP, gRPC, TCP, sniffed and named protocols, to captured and plain pods."""
    c = world.client
    reached = []
    for _ in range(12):
        answered(c.get(REVIEWS, "/hello?a=b"))
        reached += at(world, *PODS)
    assert len({r.split(" ")[0] for r in reached}) > 1, f"12 requests to reviews all went to {reached[0]}"
    for r in reached:
        assert "through" not in r or ":authority: " + r.split(":")[0] + ":9080" in r, f"the CONNECT to the pod is not for it: {r}"
    if grpc:
        answer = answered(c.grpc(RATINGS, grpc))
        assert answer.headers.get("grpc-status") == "0" and b"one" in answer.body, f"gRPC: {answer} {answer.headers}"
        at(world, "127.1.0.11:15008 through")
    echoed(c, DB)
    at(world, "127.1.0.12:15008 through")
    answered(c.get(WEB))
    at(world, "127.1.0.13:8080")
    answered(c.get(SNIFFED, "/sniffed"))
    echoed(c, SNIFFED)
    at(world, "127.1.0.13:8000")
    unknown = c.get("127.2.0.99:80")
    assert unknown.status in (0, 503), f"an unknown address answered {unknown}"
    unknown = c.get("127.2.0.13:9999")
    assert unknown.status in (0, 503), f"an unknown port answered {unknown}"
    assert not world.destinations.reached()


def routing(world):
    c, d = world.client, world.destinations
    bookinfo(world, grpc=None)
    answer = c.grpc(RATINGS)
    assert answer.headers.get("grpc-status") == "12", f"no GRPCRoute is for this method: {answer} {answer.headers}"
    assert not d.reached()
    answered(c.grpc(RATINGS, "/ratings.v1.Ratings/Get", [("x-tenant", "a")]))
    at(world, "127.1.0.11:15008 through")
    answered(c.get(REVIEWS, "/h?v=2&r=12", headers=[("x-user", "jason"), ("x-role", "admin")]))
    at(world, "127.1.0.2:15008")
    location = answered(c.get(REVIEWS, "/redirect"), 301).headers["location"]
    assert location.startswith("https://other.example") and location.endswith("/new"), location
    answered(c.get(REVIEWS, "/old/x"), 302)
    d.taken()
    answered(c.get(REVIEWS, "/rw/some"))
    seen = d.taken()
    assert any("/some" in str(s) and "rewritten.example" in str(s) for s in seen), seen
    assert c.get(REVIEWS, "/nowhere").status >= 500
    answered(c.get(DETAILS, "/abort", headers=[("end-user", "jason")]), 503)
    answered(c.get(DETAILS, "/direct"), 418)
    answered(c.get(DETAILS, "/all?mode=all"), 503)
    assert not d.reached()
    full_names(world)
    for _ in range(5):
        answer = answered(c.get(DETAILS, "/all?mode=all"))
        assert answer.headers.get("x-served-by") == "waypost", answer.headers
    at(world, "127.1.0.14:15008", "127.1.0.15:15008", *PODS)  # its mirror goes to reviews


def authz(world):
    for authority in (REVIEWS, WEB, SNIFFED, DETAILS):
        guarded(world, authority)
    for authority in (DB, PASSED):
        guarded(world, authority, http=False)
    if not world.stock:
        answer = world.client.grpc(RATINGS)
        assert answer.status == 500 or answer.headers.get("grpc-status", "0") != "0", f"ratings is guarded: {answer} {answer.headers}"
        assert not world.destinations.reached()
    said_why(world, "rbac", "jwt_authn", "ext_authz")


def extensions(world):
    """The rate limits are in every HTTP filter chain, that of the CONNECT included."""
    for authority in (REVIEWS, WEB):
        guarded(world, authority)
    said_why(world, "local_ratelimit", "ratelimit")


def workloads(world):
    bookinfo(world)
    answered(world.client.get("127.1.0.2:9080"))
    at(world, "127.1.0.2:15008 through")
    echoed(world.client, "127.1.0.12:3306")
    at(world, "127.1.0.12:15008 through")
    answered(world.client.get("127.2.0.50:80"))
    at(world, "127.1.0.50:15008 through")


def egress(world):
    bookinfo(world)
    answered(world.client.get("127.2.0.62:80"))
    at(world, "127.0.0.1:80", "::1")
    echoed(world.client, "127.2.0.60:443")
    at(world, "127.0.0.1:8443")


def networks(world):
    bookinfo(world)
    for _ in range(3):
        answered(world.client.get("127.2.0.70:80"))
        at(world, "127.4.0.1:15008 through")


def east_west(world):
    assert fetch(15021, "/healthz/ready")[0] == 200


def gateway_istio(world):
    fixtures, d = world.fixtures / "certs", world.destinations
    location = answered(visit(8080, host="shop.example"), 301).headers["location"]
    assert location.startswith("https://shop.example/"), location
    answered(visit(8443, "shop.example", "/other", fixtures / "shop.example.crt"), 503)
    full_names(world)
    for _ in range(6):
        answered(visit(8443, "shop.example", "/reviews/1", fixtures / "shop.example.crt"))
        at(world, *PODS)
    answered(visit(8443, "shop.example", "/other", fixtures / "shop.example.crt"))
    at(world, "127.1.0.14:15008 through")
    answered(visit(8443, "shop.example", "/other", fixtures / "shop.example.crt", headers=[("cookie", "user=canary")]), 503)  # there is no v2
    own = (fixtures / "api.mtls.crt", fixtures / "api.mtls.key")
    answered(visit(9443, "api.mtls", "/", own[0], own))
    at(world, "127.1.0.13:8080")
    assert visit(9443, "api.mtls", "/", own[0]).status == 0, "a client without a certificate was served"
    assert visit(8443, "other.example", "/", fixtures / "shop.example.crt").status == 0, "a name that is not configured was served"
    # AUTO_PASSTHROUGH has no endpoints here: its clusters are for sidecars, and all pods are plain or captured.
    assert visit(15443, "outbound_.443_._.mixed.default.svc.cluster.local", "/", False).status == 0
    # Two more listeners come and go: TLS passed through by its server name, and plain TCP.
    d.taken()
    world.mesh.apply(MORE_LISTENERS)
    world.mesh.settled()
    answered(visit(9444, "pass.example", "/", False))
    at(world, "127.1.0.13:8443")
    assert echo_outside(9000) == b"echo:\x01 no http"
    at(world, "127.1.0.12:15008 through")
    world.mesh.apply(MORE_LISTENERS, remove=True)
    world.mesh.settled()
    world.mesh.wait("the removed listeners closed", 10, lambda: not rig.connects("127.0.0.1", 9444) and not rig.connects("127.0.0.1", 9000))
    answered(visit(8080, host="shop.example"), 301)


MORE_LISTENERS = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: more, namespace: default}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 9444, name: pass, protocol: TLS}, hosts: [pass.example], tls: {mode: PASSTHROUGH}}
  - {port: {number: 9000, name: tcp, protocol: TCP}, hosts: ["*"]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: more, namespace: default}
spec:
  hosts: ["*"]
  gateways: [more]
  tcp:
  - match: [{port: 9000}]
    route: [{destination: {host: db.default.svc.cluster.local, port: {number: 3306}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: more-pass, namespace: default}
spec:
  hosts: [pass.example]
  gateways: [more]
  tls:
  - match: [{port: 9444, sniHosts: [pass.example]}]
    route: [{destination: {host: mixed.default.svc.cluster.local, port: {number: 443}}}]
"""


GUARDS = """
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: edge, namespace: default}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: allow-list, namespace: default}
"""


def gateway_api(world):
    fixtures = world.fixtures / "certs"
    if not world.stock:
        answered(visit(80, host="shop.example"), 500)
        answered(visit(443, "shop.example", "/reviews", fixtures / "shop.example.crt"), 500)
        answered(visit(443, "a.wild.example", "/", fixtures / "wild.crt"), 500)
        assert visit(8443, "pass.example", "/", False).status == 0
        assert not (reached := world.destinations.reached()), f"the gateway is guarded, and {reached} was reached"
        said_why(world, "jwt_authn", "rbac")
    # Without the guards the same listeners serve.
    world.mesh.apply(GUARDS, remove=True)
    world.mesh.settled()
    location = answered(visit(80, host="shop.example"), 301).headers["location"]
    assert location.startswith("https://shop.example"), location
    answered(visit(443, "shop.example", "/reviews/1", fixtures / "shop.example.crt"))
    at(world, *PODS)
    answered(visit(443, "shop.example", "/", fixtures / "shop.example.crt", headers=[("x-canary", "1")]))
    at(world, "127.1.0.14:15008 through")
    answered(visit(443, "a.wild.example", "/", fixtures / "wild.crt"))
    at(world, "127.1.0.13:8080")
    answered(visit(8443, "pass.example", "/", False))
    at(world, "127.1.0.13:8443")


SCENARIOS = {
    "waypoint-basic": bookinfo, "waypoint-basic-sotw": bookinfo, "waypoint-routing": routing, "waypoint-authz": authz, "waypoint-telemetry": bookinfo,
    "waypoint-extensions": extensions, "waypoint-all": workloads, "waypoint-egress": egress, "waypoint-networks": networks, "east-west": east_west,
    "gateway-api": gateway_api, "gateway-istio": gateway_istio,
}
