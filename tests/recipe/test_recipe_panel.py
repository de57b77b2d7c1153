"""Guards in the stages: what is read is kept with the model, compared with what came before, and gates."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from kweek.align.word_problems import WordProblems
from kweek.compute.hardware import Peak
from kweek.compute.ledger import Ledger
from kweek.data import stories
from kweek.data.batches import collate, pack, segment
from kweek.errors import GuardError
from kweek.model.checkpoint import load_model, save_model
from kweek.model.config import ModelConfig
from kweek.model.initial import initialise
from kweek.model.network import Network
from kweek.protocols import silent
from kweek.recipe import panel as panels
from kweek.recipe.context import StageContext
from kweek.recipe.panel import StagePanel, Tolerances
from kweek.recipe.stages import reinforce, sft
from kweek.store.artifact import Artifact, ArtifactWriter
from kweek.store.records import Records
from kweek.tokenize import bpe
from kweek.tokenize.tokenizer import Tokenizer
from kweek.train.optimiser import LearningRates, SplitOptimiser
from kweek.train.trainer import Trainer

CHATS = {
    "demonstrations": 16, "batch_size": 8, "styles": ["direct"], "validation_problems": 16,
    "replay_tokens": 256, "settings": [{"learning_rate": 1e-4, "epochs": 1}, {"learning_rate": 2e-4, "epochs": 1}],
}  # fmt: skip
POLICY = {"steps": 4, "prompts": 2, "samples": 2, "gold_every": 2, "replay_weight": 0.0, "warmup": 1}


WORDS = ("zeq", "vux", "joq", "kax", "wiv", "xur", "qon")


def read(network, tokenizer, texts):
    """Some updates on texts."""
    trainer = Trainer(network, SplitOptimiser(network, LearningRates(3e-3, 1e-2, 3e-3, 3e-3)))
    rows = [segment([tokenizer.eos_id, *tokenizer.encode(text)]) for text in texts]
    for step in range(25):
        chosen = rows[8 * (step % 7) : 8 * (step % 7) + 8]
        total = np.float32(sum(len(row) for row in chosen))
        weighed = [replace(row, weights=row.weights / total) for row in chosen]
        trainer.step([collate(pack(weighed, 256))], 1.0)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A model that has read something that no chat speaks of, and a corpus of two such sources."""
    folder = tmp_path_factory.mktemp("inputs")
    tokenizer = bpe.train(stories.sample_texts("align", 200, "train"), 416)
    network = Network(ModelConfig(tokenizer.vocab_size, 32, 64, 2, 1, 1, 32, max_positions=256))
    initialise(network, torch.Generator().manual_seed(0))
    texts = [" ".join(WORDS[(n * k) % len(WORDS)] for k in range(1, 30)) for n in range(1, 61)]
    read(network, tokenizer, texts)
    with ArtifactWriter(folder / "model", kind="pretrain", fingerprint="m") as out:
        save_model(out, network, torch.float32)
        tokenizer.save(out)
    with ArtifactWriter(folder / "corpus", kind="corpus", fingerprint="c") as out:
        for split in ("train", "validation", "test"):
            rows = {"source": ["a", "b"] * 30, "text": [f"{split} {text}" for text in texts]}
            pq.write_table(pa.table(rows), out.path(f"{split}.parquet"))
    return {name: Artifact.open(folder / name) for name in ("model", "corpus")}


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Panels of a second are not needed to see that they are read."""
    monkeypatch.setattr(panels, "SOLVED", 8)
    monkeypatch.setattr(panels, "TRUSTED", 4)
    monkeypatch.setattr(panels, "TEXT_BYTES", 4000)


def context(inputs, folder, out, config):
    folder.mkdir(exist_ok=True)
    return StageContext(
        name="stage", config=config, inputs=inputs, out=out, records=Records(folder / "records.jsonl"), state=folder,
        progress=silent, should_stop=lambda: False, ledger=Ledger(), seed=0, threads=1, budget_seconds=None,
        budget_flop=None, machine_peak=Peak(1e10, None, 1e9, 1),
    )  # fmt: skip


def run(stage, inputs, folder, **settings):
    config = stage.Config(**settings)
    with ArtifactWriter(folder / "artifact", kind="x", fingerprint="f") as out:
        stage.run(context(inputs, folder / "state", out, config))
    return Artifact.open(folder / "artifact")


def guards_of(artifact):
    found = json.loads(artifact.file("guards.json").read_text())
    return found, {row["name"]: row for row in found["guards"]}


def test_a_line_of_stages_reads_its_panel_once_per_model(inputs, tmp_path):
    taught = run(sft, inputs, tmp_path / "sft", **CHATS)
    _, by_name = guards_of(taught)
    assert {row["name"] for row in by_name["panel"]["changes"]} == {
        "bits per byte, a", "bits per byte, b", "bits per byte, tasks", "solved, stories", "calibration, stories",
    }, "the model's panel was not known, so all of it was read"  # fmt: skip
    stored = json.loads(taught.file("panel.json").read_text())["measures"]
    after = run(reinforce, {"model": taught, "corpus": inputs["corpus"]}, tmp_path / "rl", **POLICY)
    found, by_name = guards_of(after)
    assert list(by_name) == ["sign", "hacking", "collapse", "panel"] or set(by_name) >= {
        "sign",
        "hacking",
        "panel",
    }
    assert found["stopped"] is None and found["stage"] == "stage"
    for row in by_name["panel"]["changes"]:
        values = stored[row["name"]]["values"]
        if not row["name"].startswith("bits"):
            assert row["before"] == pytest.approx(sum(values) / len(values))
    assert [look["step"] for look in by_name["panel"]["looks"]] == [2, 4]
    assert [look["step"] for look in by_name["hacking"]["looks"]] == [0, 2, 4]
    updates = [r for r in Records.read(tmp_path / "rl/state/records.jsonl") if r["kind"] == "update"]
    assert [u["gold"] for u in updates if u["gold"] is not None] == [
        look["figures"]["proxy"] for look in by_name["hacking"]["looks"][1:]
    ], "measured once for the curve and the guard"


def test_what_the_input_never_learnt_is_new_and_what_it_knows_of_is_compared(inputs, tmp_path):
    network, tokenizer = load_model(inputs["model"].path), Tokenizer.load(inputs["model"].path)
    with ArtifactWriter(tmp_path / "base", kind="pretrain", fingerprint="b") as out:
        first = StagePanel(context(inputs, tmp_path / "s", out, None), network, tokenizer)
        first.finish(first.panel.read())
        save_model(out, network, torch.float32)
        tokenizer.save(out)
    later = {"model": Artifact.open(tmp_path / "base"), "corpus": inputs["corpus"]}
    with ArtifactWriter(tmp_path / "next", kind="sft", fingerprint="n") as out:
        panel = StagePanel(context(later, tmp_path / "t", out, None), network, tokenizer, [WordProblems()])
        before = panel.before()
    assert set(before) == {"bits per byte, a", "bits per byte, b", "bits per byte, tasks"}
    reading = panel.panel.read()
    assert all(change.lost == 0 for change in panel.changes(reading)) and len(reading) == 5


def test_earlier_tasks_are_asked_again_and_names_in_a_model_open_no_code(inputs, tmp_path):
    network, tokenizer = load_model(inputs["model"].path), Tokenizer.load(inputs["model"].path)
    names = ("stories", "json:dumps", "evil.py:run", "nobody")
    with ArtifactWriter(tmp_path / "base", kind="sft", fingerprint="b") as out:
        rows = {f"solved, {name}": {"key": "k", "better": "higher", "values": [1.0]} for name in names}
        out.write_json("panel.json", {"format": 1, "measures": rows})
        save_model(out, network, torch.float32)
        tokenizer.save(out)
    later = {"model": Artifact.open(tmp_path / "base"), "corpus": inputs["corpus"]}
    with ArtifactWriter(tmp_path / "next", kind="sft", fingerprint="n") as out:
        panel = StagePanel(context(later, tmp_path / "t", out, None), network, tokenizer)
    asked = [m.name for m in panel.panel.measures if not m.name.startswith("bits")]
    assert asked == ["solved, stories", "calibration, stories"]


def test_readings_of_other_texts_are_not_compared(inputs, tmp_path):
    network, tokenizer = load_model(inputs["model"].path), Tokenizer.load(inputs["model"].path)
    with ArtifactWriter(tmp_path / "base", kind="pretrain", fingerprint="b") as out:
        measures = {"bits per byte, a": {"key": "other", "better": "lower", "values": [0.0]}}
        out.write_json("panel.json", {"format": 1, "measures": measures})
        save_model(out, network, torch.float32)
        tokenizer.save(out)
    later = {"model": Artifact.open(tmp_path / "base"), "corpus": inputs["corpus"]}
    with ArtifactWriter(tmp_path / "next", kind="sft", fingerprint="n") as out:
        panel = StagePanel(context(later, tmp_path / "t", out, None), network, tokenizer)
        assert panel.before() == panel.panel.read()


def test_chats_that_cost_too_much_end_the_stage_and_say_what_was_lost(inputs, tmp_path):
    settings = CHATS | {"replay_tokens": 0, "settings": [{"learning_rate": 0.03, "epochs": 4}]}
    with pytest.raises(GuardError, match=r"bits per byte, \w+ lost .* where 0.2 may be lost"):
        run(sft, inputs, tmp_path / "sft", **settings)
    rows = [r for r in Records.read(tmp_path / "sft/state/records.jsonl") if r["kind"] == "panel"]
    assert any(row["verdict"] == "fail" for row in rows)


def test_of_several_settings_one_that_keeps_enough_is_taken(inputs, tmp_path, monkeypatch):
    """The setting that answers best has forgotten; the next best is taken."""
    accuracies = iter([0.9, 0.5])
    monkeypatch.setattr(sft, "_validate", lambda *_: next(accuracies))
    mixed = [{"learning_rate": 0.03, "epochs": 4}, {"learning_rate": 1e-4, "epochs": 1}]
    taken = run(sft, inputs, tmp_path / "sft", **(CHATS | {"replay_tokens": 0, "settings": mixed}))
    assert taken.metrics["validation_accuracy"] == 0.5
    rows = [r for r in Records.read(tmp_path / "sft/state/records.jsonl") if r["kind"] == "setting"]
    assert [row["chosen"] for row in rows] == [False, True]


def test_a_tolerance_of_null_tells_and_does_not_gate(inputs, tmp_path):
    settings = CHATS | {"replay_tokens": 0, "settings": [{"learning_rate": 0.03, "epochs": 4}]}
    open_ended = Tolerances(bits=None, solved=None, trust=None)
    found, by_name = guards_of(run(sft, inputs, tmp_path / "sft", tolerance=open_ended, **settings))
    assert found["verdict"] == "ok" and max(row["lost"] for row in by_name["panel"]["changes"]) > 0.2
    assert all(row["tolerance"] is None for row in by_name["panel"]["changes"])
