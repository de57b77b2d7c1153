"""The section on reasoning: verdicts, abilities, chains and budgets as recorded; nothing where none was measured."""

from __future__ import annotations

from pathlib import Path

from page_reader import read_page

from kweek.report.render import render
from kweek.store.records import Records

MODELS = ("start", "taught", "end")
WORDS = ("elicited", "learnt", "no gain shown")


def fabricate(run: Path) -> Path:
    """Records of a stage `reasoning` over one arm, and of a stage `expert`."""
    folder = run / "records"
    folder.mkdir(parents=True)
    evaluation, rejected = Records(folder / "evaluation.jsonl"), Records(folder / "taught.jsonl")
    rejected.append(
        "traces", round=0, level="all", attempts=80, right=0.25, tasks=10, solved=7, kept=12, tokens=20.5
    )
    for place, model in enumerate(MODELS):
        once = 0.2 + 0.2 * place
        row = {"lo": once - 0.1, "hi": once + 0.1, "n": 50}
        evaluation.append("accuracy", model=model, set="held_out", level="all", accuracy=once + 0.05, **row)
        for k in (1, 4):
            evaluation.append("passed", model=model, k=k, value=once + 0.03 * (k - 1), **row)
        evaluation.append(
            "forced", model=model, strategy="thinking", thinking_share=0.875, value=once + 0.01, **row
        )
        for level in ("all", "1", "2"):
            evaluation.append("thinking", model=model, level=level, value=10.25 * (place + 1), **row)
        for tokens in (0, 8, None):
            evaluation.append(
                "budget", model=model, tokens=tokens, value=once - 0.1 + 0.01 * (tokens or 9), **row
            )
    for number, (before, after) in enumerate([MODELS[:2], MODELS[1:], MODELS[::2]]):
        ends = {
            f"{name}{end}": value
            for name in ("gain", "beyond", "reach")
            for end, value in (("", 0.123), ("_lo", 0.1), ("_hi", 0.15))
        }
        evaluation.append(
            "origin", arm="staged", before=before, after=after, whole=number == 2, k=4, word=WORDS[number],
            text=f"pass@1 +12.3 points: {WORDS[number]}.", **ends,
        )  # fmt: skip
    return run


def test_every_verdict_and_figure_stands_on_the_page(tmp_path: Path) -> None:
    page = read_page(render(fabricate(tmp_path)).read_text(encoding="utf-8"))
    section = next(e for e in page.all("section") if e.attributes["id"] == "reasoning")
    assert [e.text for e in section.all("td") if e.text in WORDS] == list(WORDS)
    assert "start → end, in all" in section.text and "pass@4 gained" in section.text
    assert section.text.count("+12.3 [+10.0 to +15.0]") == 9
    values = {float(e.attributes["value"]) for e in section.all("data")}
    assert {0.2, 0.29, 0.875, 0.21, 10.25, 30.75, 0.18, 12.0, 0.25} <= {round(v, 6) for v in values}
    assert "Tokens of thinking by difficulty" in section.text and "Level 2" in section.text
    chart = next(e for e in section.all("svg") if e.attributes.get("role") == "img")
    assert "staged: right answers by tokens of thinking" in chart.text


def test_other_recipes_have_no_such_section_and_are_not_told_of_it(tmp_path: Path) -> None:
    text = render(tmp_path).read_text(encoding="utf-8")
    assert "Reasoning" not in text
