"""What istiod pushed (fixtures/istio/SCENARIO), played again step by step, for Envoy without what only Istio's build of it has."""
import json
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import rig  # noqa: E402
from proto import SHORT, Resource, parse_response  # noqa: E402

SHARED = pathlib.Path(os.environ.get("WAYPOST_SHARED", rig.ROOT.parent / "shared"))
# As in tools/istiod/static.py.
ISTIO_ONLY = ("type.googleapis.com/stats.PluginConfig", "type.googleapis.com/istio.envoy.config.filter.http.alpn", "io.istio.http.peer_metadata",
              "envoy.tcp.metadataexchange", "envoy.extensions.network_filters.peer_metadata", "envoy.extensions.network_peer_metadata", "network_peer_metadata")


def shared():
    """The folder with the recordings; None where there is none."""
    for place in (SHARED, pathlib.Path("/work/shared")):
        if (place / "fixtures/istio").is_dir():
            return place.resolve()
    return None


def istio_only(v):
    c = v.get("typed_config") or v.get("config_discovery") or {}
    t = c.get("@type", "") + " " + c.get("type_url", "")
    return any(i in t for i in ISTIO_ONLY) or ("config_discovery" in v and "wasm" in json.dumps(v))


def stock(v, log="/dev/null"):
    """A resource (JSON) as a stock Envoy can load it: Istio's own filters left out, its hashable strings Envoy's; file logs go to `log`."""
    if isinstance(v, list):
        return [stock(e, log) for e in v if not (isinstance(e, dict) and istio_only(e))]
    if not isinstance(v, dict):
        return v
    v = {k: stock(e, log) for k, e in v.items()}
    if v.get("@type", "").endswith("access_loggers.file.v3.FileAccessLog"):
        v["path"] = log
    if v.get("factory_key") == "istio.hashable_string":
        v["factory_key"] = "envoy.hashable_string"
    return v


class Recording:
    """`steps`: the names in order, 0-initial first; `responses[step]`: [(type, [Resource], removed)] as they were sent."""

    def __init__(self, scenario, wire, filtered):
        folder = shared() / "fixtures/istio" / scenario
        self.folder, self.steps, self.responses = folder, ["0-initial"], {"0-initial": []}
        self.dialect = "sotw" if scenario.endswith("-sotw") else "delta"
        for line in (folder / "recorded/conversation.jsonl").read_text().splitlines():
            said = json.loads(line)
            if said["dir"] == "step":
                self.steps.append(said["name"])
                self.responses[said["name"]] = []
            elif said["dir"] == "response":
                kind_url, made, removed = parse_response(self.dialect, (folder / "recorded" / said["file"]).read_bytes())
                kind = SHORT.get(kind_url, kind_url)
                if filtered and kind != "wds" and made:
                    made = [r._replace(any=a) for r, a in zip(made, wire.encode([stock(v) for v in wire.decode([r.any for r in made])]))]
                if self.dialect == "sotw" and kind != "wds" and made:
                    names = [v.get("name") or v["cluster_name"] for v in wire.decode([r.any for r in made])]
                    made = [Resource(n, r.version, r.any) for n, r in zip(names, made)]
                self.responses[said["name"] if said["dir"] == "step" else self.steps[-1]].append((kind, made, removed))

    def state(self, step):
        """{type: {name: JSON}} after a step."""
        out = {}
        for file in (self.folder / "recorded/state" / step).glob("*.json"):
            out[file.stem] = {v.get("name") or v.get("cluster_name"): v for v in json.loads(file.read_text())}
        return out

    def load(self, plane, step):
        """Makes the responses of a step the plane's resources without sending them."""
        for kind, made, removed in self.responses[step]:
            self.keep(plane, kind, made, removed)

    def keep(self, plane, kind, made, removed):
        with plane.lock:
            have = plane.resources.setdefault(kind, {})
            if self.dialect == "sotw":
                have.clear() if kind in ("cds", "lds") else None
            for r in made:
                have[r.name] = r
            for n in removed:
                have.pop(n, None)
            plane.versions[kind] = plane.versions.get(kind, 0) + 1

    def play(self, plane, step):
        """Sends the responses of a step as they were, each when the one before was answered; returns the answers that were NACKs."""
        answered = []
        for kind, made, removed in self.responses[step]:
            self.keep(plane, kind, made, removed)
            for stream in [s for s in plane.streams if s.open and kind in s.wants]:
                want = stream.want(kind)
                mine = [r for r in made if want.everything or r.name in want.names]
                if not mine and not removed:
                    continue
                with plane.lock:
                    want.has.update({r.name: r.version for r in mine})
                    for n in removed:
                        want.has.pop(n, None)
                    sent = stream.send(kind, mine, removed)
                # istiod goes on without waiting for an answer: an ACK of clusters may wait for endpoints that come next.
                if self.dialect == "sotw":  # only the latest response of a type has to be answered
                    answered = [s for s in answered if s.type != kind or s.stream is not stream]
                answered.append(sent)
        return [r for r in (plane.reply(s) for s in answered) if r.error]
