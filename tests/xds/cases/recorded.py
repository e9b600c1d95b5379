"""What a real istiod pushed, step by step."""
from cases import case, same, true
from cases.together import active, listeners
from recording import Recording, shared
from resources import secret

from bed import rig

SCENARIOS = ("waypoint-basic", "waypoint-routing", "waypoint-authz", "waypoint-telemetry", "waypoint-all", "waypoint-egress", "waypoint-networks", "east-west", "gateway-api", "gateway-istio")


def play(b, scenario):
    if not shared():
        b.note("the recordings are not there")
        return
    envoy = "envoy" in b.binary.rsplit("/", 1)[1]
    recording = Recording(scenario, b.wire, envoy)
    certificate, key = (b.certs / "server.pem").read_text(), (b.certs / "server.key").read_text()
    b.sds.start()
    roots = {"@type": secret("x", "", "")["@type"], "validation_context": {"trusted_ca": {"inline_string": (b.certs / "ca.pem").read_text()}}}
    b.sds.set(secret("default", certificate, key), *({**roots, "name": n} for n in ("ROOTCA", "file-root:/etc/waypost/ca.pem")))
    recording.load(b.plane, "0-initial")
    b.start()
    b.proxy.until_live(15)
    for step in recording.steps:
        if step != "0-initial":
            same([(r.type, r.error) for r in recording.play(b.plane, step)], [], f"what was refused in {step}")
        state = recording.state(step)
        rig.until(f"the clusters of {step}", 10, lambda: active(b) == sorted(state["cds"]))
        rig.until(f"the listeners of {step}", 10, lambda: listeners(b) == sorted(state["lds"]))
    refused = [r for s in b.plane.streams for r in s.asked if r.error]
    same(refused, [], "what was refused")
    true(len(b.plane.streams) == 1, "the stream was opened again")


for scenario in SCENARIOS:
    case(f"what istiod pushed in {scenario} is acknowledged, step by step", ("delta",))(lambda b, scenario=scenario: play(b, scenario))
case("what istiod pushed in waypoint-basic-sotw is acknowledged, step by step", ("sotw",))(lambda b: play(b, "waypoint-basic-sotw"))
