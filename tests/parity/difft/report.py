"""From records to a verdict: the parity figure, the console report and RESULT.md."""
import json


def short(value, limit=160):
    text = value if isinstance(value, str) else json.dumps(value)
    text = text.replace("\n", "\\n").replace("\r", "\\r")
    return text if len(text) <= limit else text[:limit] + "…"


def judge(plan, skipped, pairs, repeated, allow, differences):
    """Sorts every case into equal, accepted, unimplemented, different or broken."""
    rows = []
    for case, steps in plan:
        for step in steps:
            bad, diffs = differences(step, pairs[step["id"]])
            listed, open_ = [], []
            for path, a, b in diffs:
                entry = allow.match(step["id"], path, a, b)
                (listed if entry else open_).append((path, a, b, entry))
            if bad:
                verdict = "broken"
            elif open_:
                verdict = "different"
            elif any(e["class"] == "unimplemented" for *_, e in listed):
                verdict = "unimplemented"
            else:
                verdict = "accepted" if listed else "equal"
            rows.append({"id": step["id"], "group": case.group, "verdict": verdict, "bad": bad, "open": open_, "listed": listed, "repeated": repeated.get(step["id"])})
    stale = allow.unused([r["id"] for r in rows])
    count = {v: sum(r["verdict"] == v for r in rows) for v in ("equal", "accepted", "unimplemented", "different", "broken")}
    passed = not (count["different"] or count["broken"] or stale or allow.errors)
    return {"rows": rows, "count": count, "skipped": skipped, "stale": stale, "errors": allow.errors, "passed": passed, "broken": count["broken"]}


def figures(outcome):
    total = len(outcome["rows"])
    equal, accepted = outcome["count"]["equal"], outcome["count"]["accepted"]
    return total, equal, 100 * equal / total, 100 * (equal + accepted) / total


def console(outcome, verbose, pairs):
    for row in outcome["rows"]:
        if row["verdict"] == "equal" and not verbose:
            continue
        print(f"{row['verdict']:13} {row['id']}" + ("  (second attempt)" if row["repeated"] else ""))
        for line in row["bad"]:
            print(f"    {line}")
        for path, a, b, entry in row["open"] + row["listed"]:
            mark = f" [{entry['id']} {entry['class']}]" if entry else ""
            print(f"    {path}: envoy {short(a)} | ours {short(b, 1200 if path == 'crash' else 160)}{mark}")
        if verbose > 1:
            print(json.dumps(pairs[row["id"]][0], indent=1))
    for row in outcome["rows"]:
        if row["repeated"] and row["verdict"] == "equal":
            print(f"unsteady      {row['id']}: differed once, was equal when repeated")
            for line in row["repeated"]:
                print(f"    {line}")
    for entry in outcome["stale"]:
        print(f"stale         allow {entry['id']}: the difference no longer occurs")
    for line in outcome["errors"]:
        print(f"allow-list    {line}")
    total, equal, strict, lenient = figures(outcome)
    if outcome["mode"] == "record":
        print(f"recorded {total} cases, {outcome['broken']} not as they say, {outcome['seconds']:.0f} s")
        return
    counts = ", ".join(f"{v} {k}" for k, v in outcome["count"].items())
    print(f"parity {strict:.1f} % ({equal} of {total} applicable; {lenient:.1f} % with accepted differences): {counts}; "
          f"{len(outcome['skipped'])} not applicable; {outcome['seconds']:.0f} s")


def cell(value):
    return short(value, 90).replace("|", "\\|").replace("`", "'")


def markdown(outcome):
    total, equal, strict, lenient = figures(outcome)
    out = ["# Parity with Envoy", "", "Written by `tests/parity/run.py`; do not edit.", "",
           f"**{strict:.1f} %**: {equal} of {total} applicable cases equal ({lenient:.1f} % with the accepted differences of `allow.yaml`).", "",
           f"* Date {outcome['date']}, mode {outcome['mode']}, {outcome['seconds']:.0f} s",
           f"* A: `{outcome['a']}`", f"* B: `{outcome['b']}`",
           f"* Not applicable in this milestone or quarantined: {len(outcome['skipped'])}",
           f"* Equal only when repeated: {sum(bool(r['repeated']) and r['verdict'] == 'equal' for r in outcome['rows'])}", "",
           "| group | cases | equal | accepted | unimplemented | different | broken |", "|---|---|---|---|---|---|---|"]
    for group in sorted({r["group"] for r in outcome["rows"]}):
        rows = [r for r in outcome["rows"] if r["group"] == group]
        verdicts = [sum(r["verdict"] == v for r in rows) for v in ("equal", "accepted", "unimplemented", "different", "broken")]
        out.append(f"| {group} | {len(rows)} | " + " | ".join(map(str, verdicts)) + " |")
    notable = [r for r in outcome["rows"] if r["verdict"] != "equal"]
    if notable:
        out += ["", "## Differences", "", "| case | where | Envoy | ours | reason |", "|---|---|---|---|---|"]
    for row in notable:
        for line in row["bad"]:
            out.append(f"| {row['id']} | – | {cell(line)} | – | the case itself is broken |")
        for path, a, b, entry in row["open"] + row["listed"]:
            reason = f"{entry['id']}, {entry['class']}: {entry['justification']}" if entry else "**not listed**"
            out.append(f"| {row['id']} | {path} | `{cell(a)}` | `{cell(b)}` | {reason} |")
    if outcome["stale"] or outcome["errors"]:
        out += ["", "## Allow-list problems", ""]
        out += [f"* {e['id']}: no longer occurs" for e in outcome["stale"]] + [f"* {e}" for e in outcome["errors"]]
    if outcome["skipped"]:
        out += ["", "## Not applicable", ""]
        for step in outcome["skipped"]:
            out.append(f"* {step['id']}" + (f" – quarantined: {step['quarantine']}" if step.get("quarantine") else ""))
    return "\n".join(out) + "\n"
