"""The table of what is claimed and what is true, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Any

_HEAD = """# Evidence

Every line is one script `evidence/AREA/NAME.py`, run by `make evidence NAME=AREA/NAME`; this file is written by
`make evidence`. A line that failed stays here as failed. Differences carry 95% intervals unless the claim says
otherwise; "quick" marks the version of a measurement that takes minutes.
"""


def _value(value: Any) -> str:
    """A figure as people read it: three or four digits, ranges with a dash, pairs by name."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) < 10**7 else f"{value:.3g}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        if set(value) >= {"lo", "hi"}:
            return _value([value["lo"], value["hi"]])
        return ", ".join(f"{key} {_value(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        if len(value) == 2 and all(isinstance(item, int | float) for item in value):
            return f"{_value(value[0])} to {_value(value[1])}"
        return ", ".join(_value(item) for item in value)
    return str(value).replace("|", "\\|").replace("\n", " ")


def _comparison(result: dict[str, Any]) -> str:
    for key, sign in (("ratio", "×"), ("difference", "")):
        if result.get(key) is not None:
            return f"{_value(result[key])}{sign}"
    return ""


def _row(result: dict[str, Any]) -> str:
    verdict = "pass" if result["pass"] else "**FAIL**"
    if result.get("waits"):  # not measured, so neither true nor false
        verdict = f"waits {_value(result['waits'])}"
    if result.get("error"):
        verdict += f" ({_value(result['error'])})"
    if result.get("quick"):
        verdict += ", quick"
    unit = result.get("unit") or ""
    cells = [
        f"`{result['name'].partition('/')[2]}`",
        _value(result.get("claim")),
        f"{_value(result.get('ours'))} {unit}".strip(),
        f"{_value(result.get('reference'))} {unit}".strip() if result.get("reference") is not None else "",
        _comparison(result),
        _value(result.get("interval")),
        _value(result.get("n")),
        verdict,
        f"`{result['commit']}`" if result.get("commit") else "",
    ]
    return f"| {' | '.join(cells)} |"


def render(results: Iterable[dict[str, Any]]) -> str:
    """Markdown with one table per area, and how many claims hold."""
    ordered = sorted(results, key=lambda result: result["name"])
    holds = sum(result["pass"] for result in ordered)
    waiting = sum(bool(result.get("waits")) for result in ordered)
    waits = f" {waiting} more could not be measured here and wait." if waiting else ""
    parts = [_HEAD, f"{holds} of {len(ordered) - waiting} claims hold.{waits}\n"]
    for area, rows in groupby(ordered, key=lambda result: result["name"].partition("/")[0]):
        group = list(rows)
        parts.append(f"## {area}\n")
        parts.append(
            "| line | claim | ours | reference | ratio or difference | interval | n | verdict | commit |"
        )
        parts.append("|---|---|---|---|---|---|---|---|---|")
        parts.extend(_row(result) for result in group)
        machines = sorted({result["machine"] for result in group if result.get("machine")})
        parts.append("\n" + "\n".join(f"Machine: {machine}." for machine in machines) + "\n")
    return "\n".join(parts).rstrip() + "\n"
