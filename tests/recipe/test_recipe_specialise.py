"""The stages of the recipe specialise on a tiny model: PEFT, transformers and Kweek load alike what comes out."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from kweek.align.domain import load_domain
from kweek.align.sampling import sample
from kweek.compute.hardware import Peak
from kweek.compute.ledger import Ledger
from kweek.data import stories
from kweek.engine.engine import Engine
from kweek.engine.open import open_model
from kweek.errors import ConfigError, DataError
from kweek.model.checkpoint import load_model, save_model
from kweek.model.config import ModelConfig
from kweek.model.initial import initialise
from kweek.model.network import Network
from kweek.recipe.builtin import load_recipe
from kweek.recipe.context import StageContext
from kweek.recipe.registry import load_kind
from kweek.report.history import read_history
from kweek.report.render import document
from kweek.store.artifact import Artifact, ArtifactWriter
from kweek.store.records import Records
from kweek.system.inline_calculator import InlineCalculator
from kweek.system.interceptors import interceptor_of
from kweek.tokenize import bpe
from kweek.tokenize.tokenizer import Tokenizer

PEAK = Peak(1e10, None, 1e9, 1)


def run_stage(folder: Path, kind: str, inputs: dict[str, Artifact], **keys) -> Artifact:
    """One stage in this process, as the worker runs it."""
    stage = load_kind(kind)
    ledger, name = Ledger(), keys.pop("name", kind)
    budget = keys.pop("budget", None)
    (folder / "state" / name).mkdir(parents=True, exist_ok=True)
    with ArtifactWriter(folder / "artifacts" / name, kind=kind, fingerprint=name) as out:
        ctx = StageContext(
            name, stage.config(**keys), inputs, out, Records(folder / "records" / f"{name}.jsonl"),
            folder / "state" / name, lambda *a, **k: None, lambda: False, ledger, 0, 1, None, budget, PEAK,
        )  # fmt: skip
        with ledger.time():
            stage.run(ctx)
        out.ledger = ledger.to_dict()
    return Artifact.open(folder / "artifacts" / name)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / "records").mkdir()
    texts = [*stories.sample_texts("specialise", 150, "train"), "<<1+2=3>> #### 4"]
    tokenizer = bpe.train(texts * 3, 416)
    network = Network(ModelConfig(tokenizer.vocab_size, 64, 96, 2, 2, 1, head_dim=32, max_positions=1024))
    initialise(network, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.05)
    save_model(folder / "model", network)
    tokenizer.save(folder / "model")
    base = run_stage(folder, "checkpoint", {}, path=str(folder / "model"))
    domain = run_stage(folder, "domain", {}, train=48, validation=4, test_questions=6)
    run_stage(folder, "specialise", {"model": base, "domain": domain}, epochs=4, rank=4, learning_rate=1e-2)
    return folder


def artifact(run: Path, name: str) -> Artifact:
    return Artifact.open(run / "artifacts" / name)


def test_the_checkpoint_is_the_model_that_was_named(run):
    base = artifact(run, "checkpoint")
    ids = torch.arange(12)[None]
    assert torch.equal(load_model(base.path)(ids), load_model(run / "model")(ids))
    assert base.metrics["num_parameters"] == load_model(base.path).config.num_parameters()["total"]


def test_a_model_that_is_not_there_says_how_to_get_it(tmp_path):
    kind = load_kind("checkpoint")
    with pytest.raises(DataError, match="kweek get smollm2-135m"):
        kind.external(kind.config(path=str(tmp_path / "smollm2-135m")))


def test_the_specialist_learnt_its_answers_and_says_what_it_cost(run):
    special = artifact(run, "specialise")
    domain = load_domain(artifact(run, "domain").path)
    tokenizer = Tokenizer.load(special.path)
    segments = domain.segments(tokenizer, "validation", 512)

    def loss(folder):
        network, total, count = load_model(folder), 0.0, 0.0
        with torch.no_grad():
            for part in segments:
                logprobs = network.logits(network(torch.tensor(part.ids)[None]))[0].log_softmax(-1)
                chosen = logprobs[torch.arange(len(part)), torch.tensor(part.targets)]
                total -= float((chosen * torch.tensor(part.weights)).sum())
                count += float(part.weights.sum())
        return total / count

    assert loss(special.path) < loss(artifact(run, "checkpoint").path) - 0.5
    assert special.metrics["updates"] == 24 and special.metrics["examples_read"] == 192
    assert special.ledger["flop"]["specialise"]["fp32"] > 0
    assert isinstance(interceptor_of(special.path, tokenizer), InlineCalculator)


def test_peft_and_transformers_answer_as_the_specialist_does(run):
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    special, base = artifact(run, "specialise").path, artifact(run, "checkpoint").path
    ids = torch.arange(5, 45)[None]
    with torch.no_grad():
        network = load_model(special)
        ours = network.logits(network(ids)).log_softmax(-1)
        merged = transformers.AutoModelForCausalLM.from_pretrained(special, dtype=torch.float32)
        assert torch.allclose(merged(ids).logits.log_softmax(-1), ours, atol=1e-4)
        model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        adapted = peft.PeftModel.from_pretrained(model, special / "adapter")
        assert torch.allclose(adapted(ids).logits.log_softmax(-1), ours, atol=1e-4)


def test_the_compact_file_holds_what_the_compact_folder_holds(run):
    special, domain = artifact(run, "specialise"), artifact(run, "domain")
    compact = run_stage(
        run, "compact", {"model": special, "domain": domain}, calibration_tokens=1024, tune=False
    )
    assert compact.metrics["num_bytes"] < 0.5 * special.metrics["num_bytes"]
    tokenizer = Tokenizer.load(compact.path)
    questions = load_domain(domain.path)
    environment, items = questions.environment(), questions.items("test")
    said = []
    for model in (Engine(load_model(compact.path)), open_model(compact.path / "model.gguf").model):
        groups = sample(model, tokenizer, environment, items, samples=1, key="")
        said.append([group[0].token_ids for group in groups])
    assert said[0] == said[1]
    models = {"base": artifact(run, "checkpoint"), "special": special, "compact": compact}
    table = run_stage(run, "appraise", {"domain": domain, **models}, bits_bytes=3000)
    assert set(table.metrics["tasks"]) == {"base", "special", "compact"}
    rows = {
        row["model"]: row
        for row in Records.read(run / "records" / "appraise.jsonl")
        if row["kind"] == "appraised"
    }
    for row in rows.values():
        assert row["n"] == 6 and row["flop"] > 0 and row["money"] > 0 and row["decode"] > 0
        assert row["lo"] <= row["quality"] <= row["hi"] and row["bits_per_byte"] > 0
    assert rows["compact"]["num_bytes"] < rows["special"]["num_bytes"] == rows["base"]["num_bytes"]
    assert "The specialist" in document(read_history(run))


def test_matching_spends_the_flop_of_what_it_is_to_match(run):
    base, domain, special = (artifact(run, name) for name in ("checkpoint", "domain", "specialise"))
    alone = run_stage(
        run, "specialise", {"model": base, "domain": domain, "match": special}, name="alone", rank=4
    )
    spent = alone.ledger["flop_total"] / special.ledger["flop_total"]
    assert 0.75 < spent < 1.25


def test_a_budget_in_flop_is_kept(run):
    base, domain = artifact(run, "checkpoint"), artifact(run, "domain")
    whole = artifact(run, "specialise").ledger["flop_total"]
    short = run_stage(
        run,
        "specialise",
        {"model": base, "domain": domain},
        name="short",
        rank=4,
        epochs=20,
        budget=2 * whole,
    )
    assert 0.8 < short.ledger["flop_total"] / (0.75 * 2 * whole) < 1.25


def test_prompts_without_answers_are_practised(run, tmp_path):
    rows = [{"prompt": f"Say {n}", "gold": "", "verifier": "text"} for n in range(40)]
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join(json.dumps({**row, "gold": "x"}) + "\n" for row in rows))
    domain = run_stage(run, "domain", {}, name="tasks", examples=str(path), max_new_tokens=6)
    base = artifact(run, "checkpoint")
    with pytest.raises(DataError, match="practice_rounds"):
        run_stage(run, "specialise", {"model": base, "domain": domain}, name="nothing")


@contextmanager
def teacher(domain):
    """An endpoint that knows the answers, and gets every fifth wrong."""
    golds = {one.question: one.gold for split in domain.exercises.values() for one in split}
    known = list(golds)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            question = body["messages"][-1]["content"]
            said = "I do not know." if known.index(question) % 5 == 0 else f"It is {golds[question]}."
            self.reply(
                {
                    "choices": [{"message": {"role": "assistant", "content": said}, "finish_reason": "stop"}],
                    "usage": {"prompt_tokens": 50, "completion_tokens": 10},
                }
            )

        def do_GET(self):
            self.reply({"data": [{"id": "wise"}]})

        def reply(self, body):
            data = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_right_answers_of_a_teacher_behind_an_endpoint_are_learnt(run):
    base, made = artifact(run, "checkpoint"), artifact(run, "domain")
    domain = load_domain(made.path)
    with teacher(domain) as url:
        lessons = run_stage(
            run, "teach", {"domain": made, "pupil": base}, name="lessons", endpoint=url, questions=40
        )
        run_stage(
            run, "appraise", {"domain": made, "base": base}, name="remote", endpoint=url, bits_bytes=2000,
            million_read=1.0, million_written=10.0,
        )  # fmt: skip
    learnt = load_domain(lessons.path)
    assert 28 <= lessons.metrics["num_train"] <= 36 and lessons.metrics["asked"] == 40
    assert all(one.worked == f"It is {one.gold}." for one in learnt.exercises["train"])
    assert learnt.exercises["test"] == domain.exercises["test"]
    (row,) = [
        row for row in Records.read(run / "records" / "remote.jsonl")
        if row["kind"] == "appraised" and row["model"] == "endpoint"
    ]  # fmt: skip
    assert row["money"] == pytest.approx(50e-6 + 100e-6) and "flop" not in row and "joules" not in row
    assert row["quality"] >= 4 / 6


def test_a_teacher_of_the_run_answers_and_is_counted(run):
    base, domain, special = (artifact(run, name) for name in ("checkpoint", "domain", "specialise"))
    lessons = run_stage(
        run, "teach", {"domain": domain, "teacher": special}, name="own", questions=4, only_right=False,
        max_new_tokens=60,
    )  # fmt: skip
    assert 1 <= lessons.metrics["num_train"] <= 4 and lessons.ledger["flop"]["teach"]["fp32"] > 0
    pupil = run_stage(
        run, "specialise", {"model": base, "domain": lessons}, name="pupil", rank=4, batch_size=1
    )
    assert pupil.metrics["flop_before"] == lessons.ledger["flop_total"]


def test_no_teacher_is_an_error(run):
    with pytest.raises(ConfigError, match="no teacher"):
        run_stage(run, "teach", {"domain": artifact(run, "domain")}, name="nobody")


def test_the_built_in_recipes_are_sound():
    special = load_recipe("specialise")
    assert special.order() == ["base", "domain", "special", "compact", "table"]
    assert "match" in load_recipe("apprentice").stages["alone"].inputs
