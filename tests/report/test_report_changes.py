"""The sections about what stages of alignment changed, what they cost elsewhere, and what their guards saw."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from fabricated_changes import NUM
from page_reader import Element, read_page

from kweek.report import figures
from kweek.report.history import Fields, History, Record, read_history
from kweek.report.looks import watches
from kweek.report.render import document
from kweek.report.sections import changes, tax
from kweek.report.spreads import spread_of


@pytest.fixture(scope="module")
def history(full_run: Path) -> History:
    return read_history(full_run)


@pytest.fixture(scope="module")
def section(full_page: str) -> Element:
    return part(full_page, "changes")


def part(source: str, key: str) -> Element:
    (found,) = [e for e in read_page(source).all("section") if e.attributes["id"] == key]
    return found


def rows(section: Element, caption: str) -> list[list[str]]:
    (table,) = [t for t in section.all("table") if t.all("caption")[0].text == caption]
    return [[cell.text for cell in row.all("th") + row.all("td")] for row in table.all("tr")[1:]]


def test_every_stage_that_was_measured_has_a_row_and_a_part(section: Element) -> None:
    stages = ["sft", "rl", "few_sft", "few_rl", "many_sft"]
    table = rows(section, "Every stage, before and after")
    assert [row[0].removesuffix(f"{NUM} held-out problems, greedy") for row in table] == stages
    assert [h.text for h in section.all("h3")] == stages
    assert table[1][9] == "8.26"  # nats, of the last look
    assert table[0][9] == "41.30"


def test_the_texts_of_the_newest_stage_that_led_to_the_final_model_stand_open(section: Element) -> None:
    opened = [
        part.all("h3")[0].text
        for part in section.all("div")
        if "curves" in part.classes
        and any("side" in p.classes for p in part.all("p"))
        and not part.all("details")
    ]
    assert opened == ["rl"]
    assert len(section.all("details")) == 4


def test_texts_stand_side_by_side_with_how_they_compare(section: Element, history: History) -> None:
    lists = [e for e in section.all("ol") if "of-two" in e.classes]
    shown = lists[1].all("li")
    records = history.of("beside", "rl")
    assert len(shown) == len(records) == 8
    for item, record in zip(shown, records, strict=True):
        before, after = record.items("sides")
        sides = [e for e in item.all("p") if "side" in e.classes]
        assert [side.all("b")[0].text for side in sides] == ["before", "after"]
        gain = (after.number("reward") or 0) - (before.number("reward") or 0)
        words = "better" if gain > 0 else "worse" if gain < 0 else "tokens"
        assert words in sides[1].text and "better" not in sides[0].text
    assert "worse" in lists[1].text and "better" in lists[1].text  # losses are not left out


def test_columns_show_each_group_by_its_share(section: Element, history: History) -> None:
    spread = spread_of(next(r for r in history.of("distribution", "rl") if r.name("quantity") == "reward"))
    assert spread is not None
    told = [t.text for t in section.all("title")]
    for group in spread.groups:
        for value, count in zip(spread.ticks, group.counts, strict=True):
            assert f"{group.name}, {figures.tick(value)}: {count:.0f} of {NUM}" in told
    assert sum(sum(group.counts) for group in spread.groups) == 2 * NUM


def test_a_damaged_distribution_is_passed_over() -> None:
    good = {
        "quantity": "reward",
        "edges": [0, 1, 2],
        "ticks": [],
        "series": [{"name": "a", "counts": [1, 2]}],
    }
    assert spread_of(Record(good, "rl")) is not None
    for damage in (
        {"edges": [0, 1]}, {"edges": [0, 2, 1]}, {"edges": None}, {"series": []}, {"series": [{"counts": [0, 0]}]},
    ):  # fmt: skip
        assert spread_of(Record(good | damage, "rl")) is None


def test_a_stage_of_any_kind_is_shown_by_its_records_alone(tmp_path: Path) -> None:
    values: dict[str, Any] = {"kind": "divergence", "step": 1, "kl": 0.5, "lo": 0.1, "hi": 0.9, "n": 9}
    stage = dataclasses.replace(read_history(tmp_path), stages=[], records=[Record(values, "odd")])
    assert not isinstance(changes.section(stage), changes.Section)  # a stage that the run does not know
    from kweek.report.history import Stage

    empty = Fields({})
    known = [Stage("odd", "my.own:stage", "done", {}, empty, empty, empty)]
    pairs = [Record({"kind": "train", "step": n, "margin": n / 10, "ranked": 0.5}, "odd") for n in range(4)]
    page = document(dataclasses.replace(stage, stages=known, records=[*stage.records, *pairs]))
    section = part(page, "changes")
    assert [h.text for h in section.all("h4")] == ["Pairs ranked rightly", "Margin of the pairs"]


def test_what_was_lost_is_told_by_unit(full_page: str, history: History) -> None:
    section = part(full_page, "tax")
    text = rows(section, tax.UNITS[0][1])
    assert [row[0] for row in text if "from" in row[0]] == ["sftfrom base", "rlfrom sft", "quantizedfrom rl"]
    assert text[0][0].startswith("sft") and text[-1][0] == "quantizedfrom rl"  # stages in their order
    assert {row[-1] for row in text} <= {"lost", "gained", "no difference shown", "within what may be lost"}
    tasks = rows(section, tax.UNITS[1][1])
    assert any("too much" in row[-1] for row in tasks)  # a guard's own word
    assert rows(section, tax.UNITS[2][1])[0][1].startswith("calibration, stories")
    first = next(r for r in history.of("tax", "evaluation") if r.text("unit") == "share")
    assert f"{figures.points(first.number('lost'))}" in [row[4] for row in tasks]


def test_every_guard_tells_its_worst_verdict_and_the_word_for_it(history: History, full_page: str) -> None:
    found = {(one.stage, one.name): one for one in watches(history)}
    assert found["rl", "collapse"].verdict == "warn" and "entropy fell" in found["rl", "collapse"].said
    assert found["rl", "hacking"].verdict == "ok" and found["rl", "hacking"].seen["gold"].keys() >= {
        1.0,
        50.0,
    }
    assert found["base", "probes"].limits["duplicates"][1000.0] == 0.5
    assert found["sft", "panel"].verdict == "fail"
    section = part(full_page, "guards")
    told = {
        row[0] + " " + row[1].split("D")[0].split("I")[0]: row for row in rows(section, "What the guards saw")
    }
    assert any("entropy fell from 0.31 to 0.05 nats" in row[-1] for row in told.values())
    dashed = [p for p in section.all("path") if "dashed" in p.classes]
    assert len(dashed) == 2 * 3 + 1  # three thresholds in each of two stages, and the probe's


def test_a_thorough_audit_that_passed_is_folded_and_one_that_did_not_stands_open(history: History) -> None:
    row = {"kind": "audit", "attack": "empty", "score": 0.0, "limit": 0.0, "passed": True}
    for passed, folded in ((True, 1), (False, 0)):
        audits = [Record(row | {"attack": f"no. {n}"}, "rl") for n in range(30)]
        audits.append(Record(row | {"passed": passed}, "rl"))
        rest = [record for record in history.records if record.kind != "audit"]
        section = part(document(dataclasses.replace(history, records=[*rest, *audits])), "guards")
        told = [s for s in section.all("summary") if "checks of its audit passed" in s.text]
        assert len(told) == folded


def test_a_thing_seen_once_stands_in_a_table(full_page: str) -> None:
    section = part(full_page, "guards")
    table = rows(section, "Seen once in sft")
    assert table[0][:3] == ["panel", "bits per byte, docstrings", "60"]
