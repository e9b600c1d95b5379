"""One case file: backends, proxies, steps; gives the normalised record of every step per side."""
import asyncio
import base64
import hashlib
import re
from pathlib import Path

import yaml

from . import config
from .backend import Backend
from .compare import apply_options
from .normalise import Normaliser
from .steps import Driver
from .sut import StartFailure, Sut

DEFAULT_BACKENDS = {"A": {}, "DEAD": {"kind": "dead"}}
BASE_CLUSTERS = {"a": {"hosts": ["A"]}, "dead": {"hosts": ["DEAD"]}}


B64 = re.compile(r"\{\{(.*?)\}\}", re.S)


def encode_raw(node):
    """{{bytes}} in a path becomes base64url: what /raw/… of the scripted backend sends."""
    if isinstance(node, dict):
        return {k: encode_raw(v) for k, v in node.items()}
    if isinstance(node, list):
        return [encode_raw(v) for v in node]
    if isinstance(node, str):
        return B64.sub(lambda m: base64.urlsafe_b64encode(m[1].encode("latin-1")).decode().rstrip("="), node)
    return node


class CaseFile:
    def __init__(self, path, root):
        self.path = path
        self.data = encode_raw(yaml.safe_load(path.read_text()))
        self.name = str(path.relative_to(root).with_suffix(""))
        self.later = self.data.get("milestone") == "later"
        self.group = path.parent.name
        names = [s["name"] for s in self.data["steps"]]
        doubled = {n for n in names if names.count(n) > 1}
        if not all(isinstance(n, str) for n in self.data.get("listeners", {})):
            raise ValueError(f"{path}: a listener's name is a YAML boolean or number (ON, OFF, NO, 1)")
        if doubled:
            raise ValueError(f"{path}: step names taken twice: {sorted(doubled)}")
        for step in self.data["steps"]:
            step["id"] = f"{self.name}/{step['name']}"

    def is_later(self, step):
        return self.later or step.get("milestone") == "later"

    def applicable(self, step):
        return not self.is_later(step) and not step.get("quarantine")


class Side:
    """One proxy with its own backends, for one case file."""

    def __init__(self, label, binary, case, env, only=None):
        self.label, self.binary, self.case, self.env, self.only = label, binary, case, env, only
        self.backends, self.ports, self.sut, self.raw = {}, {}, None, {}
        tag = hashlib.sha1(str(only).encode()).hexdigest()[:6] if only else "all"
        self.dir = Path(env.tmp) / case.name.replace("/", "-") / f"{label}-{tag}"
        self.last = None  # the step that ran last, to blame when the proxy is found dead

    async def open(self):
        data, env = self.case.data, self.env
        specs = config.merge(DEFAULT_BACKENDS, data.get("backends"))
        for name, spec in specs.items():
            backend = Backend(name, spec, env.ports.take(), env.certs)
            self.backends[name] = backend
            self.ports[name] = backend.port
            await backend.start()
        for name in data.get("listeners", {}):
            self.ports[name] = env.ports.number()
        self.ports["ADMIN"] = env.ports.number()
        self.driver = Driver(self.ports, env.certs)
        await self._start()

    def names(self):
        return {**self.ports, "LOG": str(self.dir / "access.log"), "TMP": str(self.dir), "CERTS": self.env.certs}

    async def _start(self):
        data = dict(self.case.data, clusters=config.merge(BASE_CLUSTERS, self.case.data.get("clusters")))
        plain = config.substitute(config.bootstrap(data, self.env.log_format, self.only), self.names())
        self.sut = Sut(self.label, self.binary, self.dir, plain, self.ports["ADMIN"])
        await self.sut.start()

    async def close(self):
        if self.sut:
            await self.sut.stop()
        for backend in self.backends.values():
            await backend.stop()

    async def step(self, step):
        """Run one step; the raw record waits in self.raw for its log lines."""
        if not self.sut.alive():
            self._died()
            try:
                await self._start()
            except StartFailure as exc:
                self.raw[step["id"]] = {"crash": f"does not start again: {exc}"}
                return
        self.last = step["id"]
        step = config.substitute(step, self.names())
        marks = {n: len(b.records) for n, b in self.backends.items()}
        names = step.get("stats", [])
        before = {}
        try:
            before = await self.sut.stats(names) if names else {}
            if "admin" in step:
                method, path = step["admin"].split(" ", 1)
                status, body = await self.sut.admin(method, path)
                conns = [{"conn": "open", "data": f"{status} {body}", "port": 0, "elapsed": 0}]
            else:
                conns = await self.driver.run(step)
        except OSError as exc:  # the admin port does not answer
            conns = [{"conn": "refused", "error": type(exc).__name__, "port": 0, "elapsed": 0}]
        upstream = await self._upstream(marks, step)
        delta = await self._delta(names, before, step) if before else {}
        self.raw[step["id"]] = {"conns": conns, "upstream": upstream, "stats": delta}
        if any(c["conn"] == "refused" for c in conns):
            await self.sut.exited(0.5)
        if not self.sut.alive():
            self._died()

    def _died(self):
        """Blame the step that ran last; no repetition takes this back."""
        if self.last and "died" not in self.raw[self.last]:
            self.raw[self.last] = {"crash": self.sut.death(), "died": True}
        self.last = None

    async def _upstream(self, marks, step):
        """Requests that arrived during the step, once all of them are finished (bounded)."""
        wanted = step.get("upstream_wait", 0)
        for _ in range(60):
            fresh = [r for n, b in self.backends.items() for r in b.records[marks[n]:]]
            if all(r["done"] for r in fresh) and len(fresh) >= wanted:
                break
            await asyncio.sleep(0.025)
        return fresh

    async def _delta(self, names, before, step):
        """Change of the named stats; waits (bounded) until the expected values of the case have arrived."""
        wanted = {k: v for k, v in (step.get("want") or {}).get("stats", {}).items()}
        for _ in range(20):
            try:
                after = await self.sut.stats(names)
            except OSError:
                return {}
            delta = {n: None if after[n] is None else after[n] - (before[n] or 0) for n in names}
            if all(delta.get(k) == v for k, v in wanted.items()):
                break
            await asyncio.sleep(0.025)
        return delta

    async def collect(self):
        """{step id: normalised record}, with the access-log lines matched by client port."""
        if not self.sut.alive():
            self._died()
        lines = await self.sut.log_lines()
        by_port = {}
        for line in lines:
            by_port.setdefault(str(line.get("client") or "").rpartition(":")[2], []).append(line)
        out = {}
        for step in self.case.data["steps"]:
            raw = self.raw.get(step["id"])
            if raw is None:
                continue
            if "crash" in raw:
                out[step["id"]] = raw
                continue
            logs = [line for c in raw["conns"] for line in by_port.get(str(c["port"]), [])]
            if "h2" in step or step.get("http2"):
                logs.sort(key=lambda line: str([line.get(k) for k in ("method", "path", "code", "details")]))
            norm = Normaliser(self.ports, self.env.local_ips, str(self.dir), step.get("normalise", ()))
            if (step.get("compare") or {}).get("sort_upstream"):  # before ids are numbered in order of appearance
                raw["upstream"].sort(key=lambda r: (r.get("request", ""), str(r.get("body"))))
            record = norm.record(raw["conns"], raw["upstream"], logs, raw["stats"])
            if step.get("elapsed"):
                low, high = step["elapsed"]
                took = max(c["elapsed"] for c in raw["conns"])
                record["elapsed"] = "in time" if low <= took <= high else f"{took:.2f} s, not {low}-{high}"
            out[step["id"]] = apply_options(record, step.get("compare"))
        return out


async def run_side(label, binary, case, env, steps):
    """Records of `steps` on one proxy; a bootstrap it refuses is split by listener, so that one field fails only its cases."""
    try:
        return await _run(label, binary, case, env, steps, None)
    except StartFailure as exc:
        if len(case.data.get("listeners", {})) < 2:
            return {s["id"]: {"crash": f"does not start: {exc}"} for s in steps}
    out = {}
    groups = {}
    for step in steps:
        groups.setdefault(listener_of(step), []).append(step)
    for name, part in groups.items():
        only = {name, *case.data["listeners"].get(name, {}).get("needs", [])} if name else None
        try:
            out |= await _run(label, binary, case, env, part, only)
        except StartFailure as exc:
            out |= {s["id"]: {"crash": f"does not start: {exc}"} for s in part}
    return out


def listener_of(step):
    return step["send"].split(" ")[1] if "send" in step else step.get("to")


async def _run(label, binary, case, env, steps, only):
    side = Side(label, binary, case, env, only)
    try:
        await side.open()
        for step in steps:
            try:
                await asyncio.wait_for(side.step(step), 30)
            except asyncio.TimeoutError:
                side.raw[step["id"]] = {"crash": "the step took more than 30 s"}
        return await side.collect()
    finally:
        await side.close()

