from __future__ import annotations

import json
from pathlib import Path

import pytest
from fabricated_run import fabricate
from hypothesis import given
from hypothesis import strategies as st

from kweek.errors import StoreError
from kweek.report import models
from kweek.report.history import Fields, read_history
from kweek.store.files import write_json


def test_a_full_run_is_read_whole(full_run: Path) -> None:
    history = read_history(full_run)
    assert history.faults == []
    assert history.recipe_name == "laptop"
    assert history.seed == 0
    assert len(history.stages) == 12
    assert all(stage.finished for stage in history.stages)
    assert history.stages_with("update") == ["rl", "few_rl"]
    assert len(history.of("update", "rl")) == 50
    assert history.ended() is not None


def test_no_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such run folder"):
        read_history(tmp_path / "none")


def test_a_file_that_cannot_be_read_is_named_and_the_rest_is_read(tmp_path: Path) -> None:
    run = fabricate(tmp_path / "run", upto="scale")
    (run / "summary.json").write_text("{broken")
    (run / "records" / "corpus.jsonl").write_text("no json\n{}\n")
    history = read_history(run)
    assert [fault.split(":")[0] for fault in history.faults] == ["run/summary.json", "records/corpus.jsonl"]
    assert history.of("law")
    assert history.recipe_name == "laptop"  # from run.json


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    run = fabricate(tmp_path / "run", upto="corpus")
    path = run / "records" / "corpus.jsonl"
    whole = len(read_history(run).records)
    path.write_bytes(path.read_bytes() + b'{"kind": "funnel", "by')
    history = read_history(run)
    assert len(history.records) == whole
    assert history.faults == []


def test_results_of_another_recipe_in_the_same_folder_do_not_count(tmp_path: Path) -> None:
    run = fabricate(tmp_path / "run", upto="tokenizer")
    head = json.loads((run / "run.json").read_text())
    old = head["fingerprints"]["tokenizer"]
    head["fingerprints"]["tokenizer"] = "0" * 64
    write_json(run / "run.json", head)
    (run / "state" / "tokenizer").mkdir(parents=True)
    write_json(run / "state" / "tokenizer" / "stage.json", {"fingerprint": old})
    history = read_history(run)
    stage = history.stage("tokenizer")
    assert stage is not None
    assert not stage.finished
    assert history.of("bytes_per_token") == []
    assert history.of("funnel")


def test_half_swapped_artifacts_are_not_read(tmp_path: Path) -> None:
    run = fabricate(tmp_path / "run", upto="corpus")
    (run / "artifacts" / ".corpus.old").mkdir()
    write_json(run / "artifacts" / ".corpus.old" / "artifact.json", {"kind": "corpus"})
    assert ".corpus.old" not in [stage.name for stage in read_history(run).stages]


def test_the_final_model_is_that_of_the_last_stage_of_the_main_line(full_run: Path) -> None:
    history = read_history(full_run)
    assert models.final(history) == "quantized"
    assert models.ancestry(history) == ["base", "sft", "rl", "quantized"]


def test_the_summary_may_name_the_final_model(tmp_path: Path) -> None:
    run = fabricate(tmp_path / "run")
    summary = json.loads((run / "summary.json").read_text())
    write_json(run / "summary.json", summary | {"model": "few_rl"})
    history = read_history(run)
    assert models.final(history) == "few_rl"
    assert models.ancestry(history) == ["base", "few_sft", "few_rl"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(JSON)
def test_any_value_can_be_asked_for_as_anything(value: object) -> None:
    fields = Fields({"key": value})
    assert fields.number("key") is None or isinstance(fields.number("key"), float)
    assert fields.text("key") is None or fields.text("key") == value
    assert isinstance(fields.name("key"), str)
    assert isinstance(fields.inner("key"), Fields)
    assert isinstance(fields.items("key") + fields.texts("key"), list)
    assert fields.flag("key") in (None, True, False)


def test_true_is_no_number_and_nan_neither() -> None:
    fields = Fields({"a": True, "b": float("nan"), "c": 10**400, "d": 3, "e": 1e300, "f": 5e-324})
    assert [fields.number(key) for key in "abcdef"] == [None, None, None, 3.0, None, 0.0]
