"""The file of what guards saw: made from records alone, with the worst verdict on top."""

from kweek.align.guards.guard import Verdict
from kweek.recipe.watch import heard, told
from kweek.store.records import Records


def record(kind, **fields):
    return {"kind": kind, "time": 0.0, **fields}


def guard(name, step, verdict="ok", text="", limits=(), **figures):
    return record(
        "guard", name=name, step=step, verdict=verdict, text=text, figures=figures, limits=dict(limits)
    )


CHANGE = {
    "name": "solved",
    "before": 0.8,
    "after": 0.5,
    "lost": 0.3,
    "lo": 0.2,
    "hi": 0.4,
    "tolerance": 0.05,
    "n": 96,
}


def test_a_stage_without_guards_has_nothing_to_tell():
    assert told("sft", [record("train", step=5, loss=1.0)]) == {
        "format": 1, "stage": "sft", "verdict": "ok", "stopped": None, "guards": [],
    }  # fmt: skip


def test_looks_are_in_order_and_one_that_was_repeated_counts_once():
    records = [guard("hacking", 10, gold=0.5), guard("sign", 0, pairs=24.0), guard("hacking", 0, gold=0.4)]
    found = told("rl", [*records, guard("hacking", 10, "warn", "length went up", gold=0.6)])
    by_name = {row["name"]: row for row in found["guards"]}
    assert [look["step"] for look in by_name["hacking"]["looks"]] == [0, 10]
    assert by_name["hacking"]["looks"][1]["figures"] == {"gold": 0.6}
    assert (by_name["hacking"]["verdict"], by_name["sign"]["verdict"], found["verdict"]) == (
        "warn",
        "ok",
        "warn",
    )
    assert all(row["question"].endswith("?") for row in found["guards"])


def test_how_a_run_ended_is_said():
    stopped = record("stopped", text="hacking: gold fell", step=30, kept=15)
    found = told("rl", [guard("hacking", 30, "stop", "gold fell"), stopped])
    assert found["stopped"] == {"text": "hacking: gold fell", "step": 30, "kept": 15}
    assert found["verdict"] == "stop"


def test_the_table_of_the_panel_stands_with_its_guard():
    found = told("sft", [record("panel", **CHANGE, verdict="fail")])
    assert found["guards"] == [
        {
            "name": "panel", "question": found["guards"][0]["question"], "verdict": "stop", "looks": [],
            "changes": [{**CHANGE, "verdict": "fail"}],
        }
    ]  # fmt: skip
    assert told("sft", [record("panel", **CHANGE, verdict="ok")])["verdict"] == "ok"


def test_probes_share_a_look_and_tell_their_limits():
    rows = [("loss", 2.0, 0.3, 50), ("repetition", 0.1, 0.5, 50), ("loss", 1.9, 0.3, 100)]
    found = told("base", [record("probe", name=n, value=v, limit=li, step=s) for n, v, li, s in rows])
    probes = found["guards"][0]
    assert probes["name"] == "probes" and probes["limits"] == {"loss": 0.3, "repetition": 0.5}
    assert [look["figures"] for look in probes["looks"]] == [{"loss": 2.0, "repetition": 0.1}, {"loss": 1.9}]
    assert [look["limits"] for look in probes["looks"]] == [{"loss": 0.3, "repetition": 0.5}, {"loss": 0.3}]


def test_what_a_figure_is_held_against_stands_beside_it(tmp_path):
    records = Records(tmp_path / "rl.jsonl")
    heard(records, "collapse", 10, Verdict(figures={"reward": 0.6}, limits={"reward": 0.4}))
    heard(records, "collapse", 15, Verdict(figures={"reward": 0.7}, limits={"reward": 0.5}))
    (found,) = told("rl", Records.read(records.path))["guards"]
    assert [(look["figures"], look["limits"]) for look in found["looks"]] == [
        ({"reward": 0.6}, {"reward": 0.4}),
        ({"reward": 0.7}, {"reward": 0.5}),
    ]
    assert found["limits"] == {"reward": 0.5}, "the latest"


def test_the_first_look_at_the_sign_has_a_record_that_reports_know(tmp_path):
    records = Records(tmp_path / "rl.jsonl")
    heard(records, "sign", 0, Verdict(figures={"pairs": 24.0}))
    heard(records, "sign", 10, Verdict(figures={"pairs": 24.0}))
    heard(records, "collapse", 5, Verdict("warn", "odd"))
    found = Records.read(records.path)
    assert [r["kind"] for r in found] == ["sign", "guard", "guard", "guard"]
    assert found[0]["pairs"] == 24.0 and found[0]["passed"] is True


def test_a_refusal_is_no_check_that_passed(tmp_path):
    records = Records(tmp_path / "rl.jsonl")
    heard(records, "sign", 0, Verdict("stop", "inverted"))
    assert [(r["kind"], r.get("passed")) for r in Records.read(records.path)] == [
        ("sign", False),
        ("guard", None),
    ]
    nothing = Records(tmp_path / "other.jsonl")
    heard(nothing, "sign", 0, Verdict("warn", "no right answers are known"))
    assert [r["kind"] for r in Records.read(nothing.path)] == ["guard"]
