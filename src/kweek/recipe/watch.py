"""What the guards of a stage saw: records while it runs, and one file in its artifact when it is done.

`guards.json` is made from the records alone, so that a stage that was killed on its way writes the same. Its format is
described in docs/guards.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kweek.align.guards.guard import Verdict
from kweek.recipe.context import StageContext
from kweek.store.records import Records

FILE = "guards.json"
FORMAT = 1
QUESTIONS = {
    "sign": "Are better answers rewarded more, and made likelier?",
    "hacking": "Does another judgement of held-out answers rise with the reward?",
    "collapse": "Does the policy still say various things, in numbers that are finite?",
    "panel": "What did the stage cost in what the model could before?",
    "probes": "Does text stay likely, do samples stay varied, are secrets unknown?",
}
_WORSE = ("ok", "warn", "stop")


def heard(records: Records, guard: str, step: int, verdict: Verdict) -> None:
    """Record what a guard says; what the guard of the sign sees at first has a record of its own."""
    figures = dict(verdict.figures)
    if guard == "sign" and step == 0 and (figures or verdict.kind == "stop"):
        records.append("sign", **figures, passed=verdict.kind != "stop")
    records.append(
        "guard", name=guard, step=step, verdict=verdict.kind, text=verdict.text, figures=figures,
        limits=dict(verdict.limits),
    )  # fmt: skip


def write_guards(ctx: StageContext) -> None:
    """Write the file into the artifact."""
    ctx.out.write_json(FILE, told(ctx.name, Records.read(ctx.records.path)))


def told(stage: str, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The file's content, from the records of a stage."""
    looks: dict[str, dict[int, dict[str, Any]]] = {}
    for record in records:
        if record["kind"] == "guard":
            row = {key: record[key] for key in ("step", "verdict", "text", "figures", "limits")}
            looks.setdefault(record["name"], {})[record["step"]] = row  # a look that was repeated counts once
        elif record["kind"] == "probe":
            empty = {"step": record["step"], "verdict": "ok", "text": "", "figures": {}, "limits": {}}
            look = looks.setdefault("probes", {}).setdefault(record["step"], empty)
            look["figures"][record["name"]] = record["value"]
            look["limits"][record["name"]] = record["limit"]
    changes = [
        {k: v for k, v in record.items() if k not in ("kind", "time")}
        for record in records if record["kind"] == "panel"
    ]  # fmt: skip
    if changes:
        looks.setdefault("panel", {})
    stopped = next((record for record in records if record["kind"] == "stopped"), None)
    guards = [_guard(name, [found[step] for step in sorted(found)]) for name, found in looks.items()]
    for guard in guards:
        if guard["name"] == "panel":
            guard["changes"] = changes
            guard["verdict"] = _worst([guard["verdict"], *(_as_verdict(row["verdict"]) for row in changes)])
    return {
        "format": FORMAT,
        "stage": stage,
        "verdict": _worst([guard["verdict"] for guard in guards]),
        "stopped": {key: stopped[key] for key in ("text", "step", "kept")} if stopped else None,
        "guards": guards,
    }


def _guard(name: str, looks: list[dict[str, Any]]) -> dict[str, Any]:
    verdict = _worst([look["verdict"] for look in looks])
    guard = {"name": name, "question": QUESTIONS.get(name, ""), "verdict": verdict, "looks": looks}
    latest = {figure: limit for look in looks for figure, limit in look["limits"].items()}
    return {**guard, "limits": latest} if latest else guard


def _as_verdict(kind: str) -> str:
    """A change's word for it as a guard's."""
    return "stop" if kind == "fail" else kind


def _worst(kinds: Sequence[str]) -> str:
    return max(kinds, key=_WORSE.index, default="ok")
