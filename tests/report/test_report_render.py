from __future__ import annotations

import base64
import dataclasses
import hashlib
import itertools
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from fabricated_run import INPUTS, fabricate
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from page_reader import Element, read_page

from kweek.errors import StoreError
from kweek.report import figures
from kweek.report.history import History, Record, read_history
from kweek.report.render import document, render
from kweek.store.records import Records

SECTIONS = {
    "ages", "forecast", "behaviour", "accuracy", "control", "voting", "chats", "changes", "paired", "tax", "four-bits",
    "learning", "data", "derived", "guards", "cost", "lineage", "reproduce", "glossary",
}  # fmt: skip


def section_keys(page: Element) -> set[str]:
    return {section.attributes["id"] for section in page.all("section")}


def find(page: Element, key: str) -> Element:
    (found,) = [element for element in page.every() if element.attributes.get("id") == key]
    return found


def test_a_full_run_has_every_section_and_nothing_missing(full_page: str) -> None:
    page = read_page(full_page)
    assert section_keys(page) == SECTIONS
    links = {link.attributes["href"].removeprefix("#") for link in page.all("nav")[0].all("a")}
    assert links == SECTIONS


def test_what_alignment_bought_stands_beside_what_it_cost(full_page: str) -> None:
    section = find(read_page(full_page), "behaviour")
    name = "What it bought, and what that cost"
    (frame,) = [element for element in section.every() if element.attributes.get("aria-label") == name]
    bought, cost = (cell.text for cell in frame.all("td"))
    assert bought.startswith("+45.0") and cost.startswith("−5.0")
    assert len(frame.all("th")) == 4  # two that were tested, none for what was not


def test_the_page_is_sound(full_page: str) -> None:
    page = read_page(full_page)  # balanced, no attribute twice
    ids = [element.attributes["id"] for element in page.every() if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    assert full_page.startswith("<!doctype html>")
    assert page.all("html")[0].attributes["lang"] == "en"
    levels = [int(e.name[1]) for e in page.every() if re.fullmatch("h[1-6]", e.name)]
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in itertools.pairwise(levels))
    named = [n for e in page.every() for n in e.attributes.get("aria-labelledby", "").split()]
    assert set(named) <= {*ids, "definition-name"}  # the dialog's heading is made by the script
    for table in page.all("table"):
        assert table.all("caption")[0].text
        assert all(heading.attributes["scope"] in ("col", "row") for heading in table.all("th"))


def test_nothing_is_loaded_from_anywhere(full_page: str) -> None:
    page = read_page(full_page)
    assert not page.all("link") + page.all("img") + page.all("iframe") + page.all("object")
    for element in page.every():
        for name, value in element.attributes.items():
            assert not name.startswith("on"), "no inline handlers"
            assert name not in ("src", "style", "srcset", "action", "formaction")
            if name in ("href", "xlink:href"):
                assert value.startswith("#")
    (style,) = page.all("style")
    assert "url(" not in style.text
    assert "@import" not in style.text
    assert "http" not in "".join(s.text for s in page.all("script"))


def test_the_policy_allows_this_style_and_this_script_only(full_page: str) -> None:
    page = read_page(full_page)
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    rules = dict(rule.split(" ", 1) for rule in policy.attributes["content"].split("; "))
    for name, element in (("style-src", page.all("style")), ("script-src", page.all("script"))):
        (content,) = element
        found = base64.b64encode(hashlib.sha256(content.text.encode()).digest()).decode()
        assert rules[name] == f"'sha256-{found}'"
    assert rules["default-src"] == "'none'"


HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(2)>\"' onload='x' </style></svg> & \x00\ud800 ]]> <!--"
)


def hostile(values: dict[str, Any]) -> dict[str, Any]:
    """The same record with hostile text wherever a string stands, and as a key of inner objects."""

    def turn(value: Any) -> Any:
        if isinstance(value, str):
            return value + HOSTILE
        if isinstance(value, list):
            return [turn(item) for item in value]
        if isinstance(value, dict):
            return {
                f"{key}{HOSTILE}" if key in ("docstrings", "source") else key: turn(v)
                for key, v in value.items()
            }
        return value

    return {
        key: value if key in ("kind", "level", "set", "time") else turn(value)
        for key, value in values.items()
    }


def test_hostile_output_of_a_model_stays_text(full_run: Path, full_page: str) -> None:
    history = read_history(full_run)
    records = [Record(hostile(dict(record.values)), record.stage) for record in history.records]
    source = document(dataclasses.replace(history, records=records))
    page = read_page(source)
    assert len(page.all("script")) == 1
    assert not page.all("img")
    assert {e.name for e in page.every()} <= {e.name for e in read_page(full_page).every()}
    assert "alert(1)" in page.text
    assert not any(name.startswith("on") for e in page.every() for name in e.attributes)
    source.encode("utf-8")


def recorded_numbers(run: Path) -> set[float]:
    """Every number anywhere in the folder."""
    found: set[float] = set()

    def collect(value: Any) -> None:
        if isinstance(value, dict):
            for inner in value.values():
                collect(inner)
        elif isinstance(value, list):
            for inner in value:
                collect(inner)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.add(float(value))

    for path in [*run.glob("*.json"), *run.glob("artifacts/*/artifact.json")]:
        collect(json.loads(path.read_text()))
    for path in run.glob("records/*.jsonl"):
        collect(Records.read(path))
    return found


def test_every_number_in_a_table_is_a_number_of_the_records(full_run: Path, full_page: str) -> None:
    known = recorded_numbers(full_run)
    shown = [data for data in read_page(full_page).all("data") if "computed" not in data.classes]
    assert len(shown) > 500
    assert [data.attributes["value"] for data in shown if float(data.attributes["value"]) not in known] == []


def row(page: Element, caption: str, heading: str) -> list[str]:
    """Cells of one row of one table."""
    (table,) = [t for t in page.all("table") if t.all("caption")[0].text == caption]
    (found,) = [r for r in table.all("tr") if r.all("th")[0].text == heading]
    return [cell.text for cell in found.all("td")]


def test_tables_say_what_the_records_say(full_page: str) -> None:
    page = read_page(full_page)
    assert row(page, "Held-out questions", "rl") == ["92.0%", "", "88.9–94.3%", "400", "99%"]
    assert row(page, "Derived settings and their rules", "learning_rate")[0] == "0.002"
    assert row(page, "Cost by stage", "base")[1:5] == [
        "2.8 × 10¹³",
        "2,211,840",
        "3\u202fmin 24\u202fs",
        "6\u202fmin 28\u202fs",
    ]
    assert row(page, "What the tokenizer makes of each source", "docstrings")[0] == "2.85"


def test_what_the_report_computes_is_right(full_run: Path, full_page: str) -> None:
    page = read_page(full_page)
    history = read_history(full_run)
    bits = {r.name("model"): r.number("value") for r in history.of("bits") if r.name("source") == "source"}
    cells = row(page, "Bits per byte by source and model, with the change from the first", "source")
    assert cells[1].split() == [figures.bits(bits["sft"]), figures.change(bits["sft"] - bits["base"])]
    total = sum(stage.flop or 0.0 for stage in history.stages)
    assert row(page, "Cost by stage", "All")[1] == figures.power(total)
    answer = next(r.number("flop") for r in history.of("answer_cost") if r.name("model") == "base")
    assert row(page, "The cost of an answer, on average", "base")[-1] == figures.compact(total / answer)


def test_the_verdict_is_in_plain_words(full_page: str) -> None:
    words = " ".join(read_page(full_page).all("header")[0].text.split())
    assert "A language model of 1.05 million parameters, grown from 2.21 million tokens" in words.replace(
        "\xa0", " "
    )
    assert "answers 90.5% of 400 held-out questions exactly right (95% interval 87.2–93.0%)" in words
    assert "wording never met in training, rl (which it came from) reaches 24.7%" in words
    assert "1.962 bits per byte were forecast (1.921–2.004); it became 1.957, inside the interval" in words
    assert "+58.2 elicited (there already, now used) and +10.0 taught" in words


def test_an_outcome_outside_of_the_forecast_is_said_to_be(full_run: Path) -> None:
    history = read_history(full_run)
    summary = dataclasses.replace(
        history.summary, values=history.summary.values | {"outcome": {"bits_per_byte": 2.3}}
    )
    assert "outside the interval" in read_page(document(dataclasses.replace(history, summary=summary))).text


def with_records(history: History, kind: str, **changed: Any) -> History:
    """The history with fields of all records of a kind changed."""
    records = [
        Record(dict(record.values) | changed, record.stage) if record.kind == kind else record
        for record in history.records
    ]
    return dataclasses.replace(history, records=records)


def test_a_gain_that_chance_explains_is_not_claimed(full_run: Path) -> None:
    history = with_records(read_history(full_run), "verdict", gain=0.01, gain_lo=-0.02, gain_hi=0.04)
    words = read_page(document(history)).all("header")[0].text
    assert words.count("+1.0 points (−2.0 to +4.0): no gain is shown.") == 2
    assert "taught" not in words


def test_a_part_taught_that_chance_explains_is_not_claimed(full_run: Path) -> None:
    history = with_records(read_history(full_run), "verdict", taught=0.01, taught_lo=-0.02)
    words = read_page(document(history)).all("header")[0].text
    assert words.count("+1.0 taught, which is not more than chance gives.") == 2


def test_differences_are_called_by_their_sign(full_run: Path) -> None:
    def verdicts(**changed: Any) -> set[str]:
        page = read_page(document(with_records(read_history(full_run), "paired", **changed)))
        return {r.all("td")[-1].text for r in find(page, "paired").all("tr") if r.all("td")}

    assert verdicts(metric="accuracy", lo=0.1, hi=0.2) == {"better"}
    assert verdicts(metric="accuracy", lo=-0.2, hi=-0.1) == {"worse"}
    assert verdicts(metric="bits per byte", lo=0.1, hi=0.2) == {"worse"}
    assert verdicts(metric="bits per byte", lo=-0.2, hi=-0.1) == {"better"}
    assert verdicts(metric="bits per byte", lo=-0.2, hi=0.1) == {"no difference shown"}


def test_what_was_dropped_is_no_step_of_the_funnel(full_page: str) -> None:
    data = find(read_page(full_page), "data")
    chart = find(data, "funnel-corpus-wide-text").text
    assert chart.startswith("read: 11.9\u202fMB; cleaned:")
    assert "dropped" not in chart
    (table,) = [t for t in data.all("table") if t.all("caption")[0].text == "Dropped in cleaning"]
    assert len(table.all("tr")) == 4
    assert "source holds less than its share" in data.text


def test_right_and_wrong_chats_are_marked(full_page: str) -> None:
    chats = find(read_page(full_page), "chats")
    first = chats.all("ol")[0]
    marks = [mark.text.strip() for mark in first.all("p") if "mark" in mark.classes]
    assert len(marks) == 10
    assert sum("right" in mark for mark in marks) == 9
    assert "wrong, the answer is 59" in marks[7]
    assert [e.text for e in first.all("span") if "sum" in e.classes][:3] == ["21-10", "11*8", "88-59"]


def test_ages_are_shown_from_the_youngest(full_page: str) -> None:
    cards = find(read_page(full_page), "ages").all("article")
    assert len(cards) == 3
    assert [p.text for p in cards[2].all("p") if "when" in p.classes] == [
        "untrained", "133\u202fk tokens", "553\u202fk tokens", "1.33\u202fM tokens", "2.21\u202fM tokens", "after sft",
    ]  # fmt: skip


def test_lineage_names_every_edge(full_page: str) -> None:
    graph = find(read_page(full_page), "lineage-wide-text").text
    for name, (_, inputs) in INPUTS.items():
        for source in inputs.values():
            assert f"{name} uses {source}" in graph


@pytest.mark.parametrize("upto", list(INPUTS))
def test_a_run_that_stopped_anywhere_gives_a_report(tmp_path: Path, upto: str) -> None:
    run = fabricate(tmp_path / "run", upto=upto)
    page = read_page(render(run).read_text(encoding="utf-8"))
    waiting = list(INPUTS)[list(INPUTS).index(upto) + 1 :]
    warnings = [e.text for e in page.all("strong") if "warning" in e.classes]
    assert warnings == (
        [f"This run is not finished (interrupted): no result yet of {', '.join(waiting)}."] if waiting else []
    )
    assert ("missing" in section_keys(page)) == bool(waiting)
    bodies = [element for element in page.all("div") if element.classes == ["content"]]
    assert all(body.text.strip() for body in bodies), "a section with nothing in it"
    if upto == "corpus":
        assert section_keys(page) == {
            "data",
            "cost",
            "lineage",
            "reproduce",
            "missing",
            "glossary",
            "four-bits",
        } - {"four-bits"}


def test_an_empty_folder_gives_a_report_that_says_so(tmp_path: Path) -> None:
    page = read_page(render(tmp_path).read_text(encoding="utf-8"))
    assert section_keys(page) == {"missing", "reproduce", "glossary"}
    assert len(find(page, "missing").all("li")) == 16


def test_records_without_summary_or_artifacts_give_a_report(tmp_path: Path) -> None:
    run = fabricate(tmp_path / "run")
    (run / "summary.json").unlink()
    (run / "run.json").unlink()
    for manifest in run.glob("artifacts/*/artifact.json"):
        manifest.unlink()
    page = read_page(render(run).read_text(encoding="utf-8"))
    assert {"ages", "accuracy", "voting", "paired", "learning"} <= section_keys(page)


def test_rendering_twice_gives_the_same_page(full_run: Path, full_page: str) -> None:
    assert document(read_history(full_run)) == full_page


def test_the_guide_explains_every_section(full_page: str) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "report.md").read_text(encoding="utf-8")
    titles = [section.all("h2")[0].text for section in read_page(full_page).all("section")]
    assert [title for title in titles if f"| {title} |" not in guide] == ["Glossary"]


def test_no_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        render(tmp_path / "none")


ODD = st.sampled_from(
    [
        None,
        True,
        "",
        "x",
        "<b>",
        [],
        [1],
        {},
        {"a": 1},
        -1,
        0,
        10**400,
        1e308,
        -1e308,
        5e-324,
        float("nan"),
        float("inf"),
    ]
)


def thin(history: History) -> History:
    """A history with few records of each kind, so that a page is made quickly."""
    kept: list[Record] = []
    for record in history.records:
        if sum(r.kind == record.kind and r.stage == record.stage for r in kept) < 4:
            kept.append(record)
    return dataclasses.replace(history, records=kept)


@settings(max_examples=25, deadline=None, phases=[Phase.explicit, Phase.generate])  # a seed does not shrink
@given(st.integers(0), st.lists(ODD, min_size=1, max_size=3), st.sampled_from([0.05, 0.3, 0.9]))
def test_records_of_any_shape_give_a_page(full_run: Path, seed: int, odd: list[Any], share: float) -> None:
    """Each record loses some fields and has others replaced by something odd."""
    history = thin(read_history(full_run))
    rng = random.Random(seed)
    records = []
    for record in history.records:
        values = {}
        for key, value in record.values.items():
            if key == "kind" or rng.random() > share:
                values[key] = value
            elif rng.random() < 0.7:
                values[key] = rng.choice(odd)
        records.append(Record(values, record.stage))
    summary = {
        key: rng.choice(odd) if rng.random() < share else value
        for key, value in history.summary.values.items()
    }
    mutated = dataclasses.replace(
        history, records=records, summary=dataclasses.replace(history.summary, values=summary)
    )
    page = read_page(document(mutated))
    assert not [
        d
        for d in page.every()
        if "nan" in d.attributes.get("d", "") or "inf" in d.attributes.get("points", "")
    ]
