"""What istiod would push to a waypoint for a mesh of N services with some HTTP ports each, made of the recording of waypoint-basic: a cluster
`inbound-vip|PORT|http|HOST` with its endpoints and a filter chain for each port, and one matcher tree from address and port to chain."""
import copy
import json

from proto import TYPES, Resource
from recording import Recording, stock

MODEL_HOST, MODEL_PORT = "reviews-v1.default.svc.cluster.local", 9080
FIRST_PORT = 9080


def vip(i):
    return f"127.{100 + i // 65536}.{i // 256 % 256}.{i % 256}"


def host(i):
    return f"svc-{i}.default.svc.cluster.local"


class Mesh:
    """JSON resources by type; `pod` is where every endpoint is reached, by HBONE."""

    def __init__(self, wire, services, ports=4, pod="127.1.0.1", filtered=True, log="/dev/null"):
        self.wire, self.services, self.ports, self.pod = wire, services, ports, pod
        state = Recording("waypoint-basic", wire, False).state("0-initial")
        tidy = (lambda v: stock(v, log)) if filtered else (lambda v: v)
        self.model = {kind: {n: tidy(v) for n, v in of.items()} for kind, of in state.items()}
        self.cluster_name = f"inbound-vip|{MODEL_PORT}|http|{MODEL_HOST}"
        self.cluster_text = json.dumps(self.model["cds"][self.cluster_name])
        self.endpoint_text = json.dumps(self.model["eds"][self.cluster_name])
        main = self.model["lds"]["main_internal"]
        self.chain_text = json.dumps(next(c for c in main["filter_chains"] if c["name"] == self.cluster_name))

    def made(self, text, i, port):
        """The model's text for port `port` of service `i`."""
        text = text.replace(f"|{MODEL_PORT}|", f"|{port}|").replace("reviews-v1", f"svc-{i}")
        return json.loads(text.replace("127.1.0.1:9080", f"{self.pod}:{port}"))

    def pairs(self):
        return [(i, FIRST_PORT + p) for i in range(self.services) for p in range(self.ports)]

    def clusters(self):
        fixed = [c for n, c in self.model["cds"].items() if not n.startswith("inbound-vip|")]
        return fixed + [self.made(self.cluster_text, i, p) for i, p in self.pairs()]

    def endpoints(self):
        return [self.made(self.endpoint_text, i, p) for i, p in self.pairs()]

    def main_internal(self):
        """The listener that does the work."""
        out = copy.deepcopy(self.model["lds"]["main_internal"])
        direct = [c for c in out["filter_chains"] if c["name"].startswith("direct-")]
        out["filter_chains"] = [self.made(self.chain_text, i, p) for i, p in self.pairs()] + direct
        tree = out["filter_chain_matcher"]["matcher_tree"]["custom_match"]["typed_config"]
        model = tree["range_matchers"][0]
        matchers = []
        for i in range(self.services):
            one = copy.deepcopy(model)
            one["ranges"] = [{"address_prefix": vip(i), "prefix_len": 32}]
            names = {str(FIRST_PORT + p): f"inbound-vip|{FIRST_PORT + p}|http|{host(i)}" for p in range(self.ports)}
            one["on_match"]["matcher"]["matcher_tree"]["exact_match_map"]["map"] = {
                port: {"action": {"name": n, "typed_config": {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": n}}} for port, n in names.items()}
            matchers.append(one)
        tree["range_matchers"] = matchers
        plain = {"or_match": {"rules": [{"destination_port_range": {"start": FIRST_PORT, "end": FIRST_PORT + self.ports + 1}}, {"destination_port_range": {"start": 1, "end": 2}}]}}
        for f in out["listener_filters"]:
            if "filter_disabled" in f:
                f["filter_disabled"] = plain
        return out

    def listeners(self):
        return [v for n, v in self.model["lds"].items() if n != "main_internal"] + [self.main_internal()]

    def resources(self):
        """{type: [Resource]} in wire form, version 1."""
        out = {}
        for kind, values in (("cds", self.clusters()), ("eds", self.endpoints()), ("lds", self.listeners())):
            assert all(v["@type"].endswith(TYPES[kind]) for v in values)
            out[kind] = [Resource(v.get("name") or v["cluster_name"], "1", a) for v, a in zip(values, self.wire.encode(values))]
        return out
