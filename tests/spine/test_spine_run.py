"""The whole recipe, small, as a user runs it: what it leaves, what it caches, what the README promises."""

import json
import math
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "evidence" / "spine" / "small_run.yaml"


def kweek(*words, check=True, cwd=None):
    done = subprocess.run(
        [sys.executable, "-m", "kweek", *map(str, words)], capture_output=True, text=True, cwd=cwd
    )
    if check:
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spine") / "small"
    out = kweek("run", RECIPE, "--out", folder, "--json").stdout
    assert json.loads(out.splitlines()[-1])["summary"]["status"] == "done"
    return folder


def test_the_summary_keeps_its_contract(run):
    summary = json.loads((run / "summary.json").read_text())
    assert summary["recipe"] == "small" and summary["seed"] == 0 and summary["status"] == "done"
    for stage in summary["stages"]:
        assert {"name", "kind", "status", "seconds", "cpu_seconds", "flop", "artifact"} <= set(stage)
        assert (run / "artifacts" / stage["name"] / "artifact.json").exists()
    forecast = summary["forecast"]["bits_per_byte"]
    assert 0 < forecast["lo"] < forecast["mid"] < forecast["hi"]
    assert 0 < summary["outcome"]["bits_per_byte"] < 8
    for model in ("base", "sft", "rl", "quantized"):
        task = summary["tasks"][model]
        assert 0 <= task["lo"] <= task["accuracy"] <= task["hi"] <= 1 and task["n"] == 40
        assert summary["sizes"][model] > 0
    assert summary["sizes"]["quantized"] < 0.45 * summary["sizes"]["rl"]
    assert any("kweek chat" in command for command in summary["next"])
    assert sum(stage["flop"] for stage in summary["stages"]) > 1e11


def test_records_are_numbers_that_were_measured(run):
    from kweek.store.records import Records

    kinds = {}
    for path in (run / "records").glob("*.jsonl"):
        for record in Records.read(path):
            kinds.setdefault(record["kind"], []).append(record)
    for kind in (
        "funnel", "bytes_per_token", "derived", "run", "forecast", "train", "validation", "age", "setting", "audit",
        "sign", "update", "tensor", "comparison", "bits", "accuracy", "vote", "control", "paired", "sample", "verdict",
        "answer_cost",
    ):  # fmt: skip
        assert kinds.get(kind), kind
    assert {r["age"] for r in kinds["age"]} == {0, 1, 2, 3, 4}
    assert all(r["passed"] for r in kinds["audit"])
    # An untrained network predicts bytes no better than its vocabulary allows; training must have helped.
    losses = [r["loss"] for r in Records.read(run / "records" / "base.jsonl") if r["kind"] == "train"]
    assert losses[-1] < losses[0] - 0.5
    gaps = [r["logprob_gap"] for r in kinds["update"] if r["updates"]]
    assert all(gap < 1e-2 for gap in gaps)


def test_a_second_run_does_nothing_and_a_changed_key_only_what_depends_on_it(run):
    again = json.loads(kweek("run", RECIPE, "--out", run, "--json").stdout.splitlines()[-1])["summary"]
    assert {stage["status"] for stage in again["stages"]} == {"cached"}
    plan = json.loads(kweek("plan", RECIPE, "--out", run, "--json", "--set", "stages.rl.steps=7").stdout)
    runs = {stage["name"] for stage in plan["stages"] if not stage["cached"]}
    assert runs == {"rl", "quantized", "evaluation"}


def test_the_model_answers_alike_in_transformers(run):
    transformers = pytest.importorskip("transformers")
    from kweek.model.checkpoint import load_model
    from kweek.tokenize.chat import encode_prompt
    from kweek.tokenize.tokenizer import Tokenizer

    folder = run / "artifacts" / "rl"
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False)
    network, tokenizer = load_model(folder), Tokenizer.load(folder)
    messages = [
        {"role": "user", "content": "Sam has 12 coins. He finds 5 more. How many coins are there now?"}
    ]
    ids = torch.tensor([encode_prompt(tokenizer, messages)])
    with torch.no_grad():
        assert torch.allclose(network.logits(network(ids)), theirs(ids).logits, atol=1e-4)
    auto = transformers.AutoTokenizer.from_pretrained(folder)
    rendered = auto.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert rendered == ids[0].tolist()


def test_chat_answers_once_as_json_and_counts(run):
    reply = json.loads(kweek("chat", run, "-m", "What is 12+7?", "--json").stdout)
    assert isinstance(reply["content"], str)
    assert reply["usage"]["completion_tokens"] > 0 and reply["usage"]["flop"] > 0
    assert reply["outside"] is False
    strange = json.loads(kweek("chat", run, "-m", "Qu'est-ce que la Révolution française ?", "--json").stdout)
    assert strange["outside"] is True


def test_chat_converses_and_leaves(run):
    done = subprocess.run(
        [sys.executable, "-m", "kweek", "chat", str(run)],
        input="Hi\n/new\nThanks!\n\n",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert "For example:" in done.stdout and done.stdout.count("FLOP") == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("chat", "nowhere"), "no such folder"),
        (("chat", "{run}", "--model", "rll", "-m", "x"), "Write 'rl'"),
        (("chat", "{run}", "--json"), "--json needs a message"),
        (("run", "latpop"), "Write 'laptop'"),
    ],
)
def test_what_cannot_be_meant_is_one_line_with_a_remedy(run, words, said):
    done = kweek(*[word.format(run=run) for word in words], check=False)
    assert done.returncode == 2
    assert said in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_the_report_is_whole_and_self_contained(run):
    page = (run / "report.html").read_text()
    assert "<script src" not in page and 'http-equiv="Content-Security-Policy"' in page.replace("'", '"')
    assert len(page) > 50_000
    bits = json.loads((run / "summary.json").read_text())["outcome"]["bits_per_byte"]
    assert f"{bits:.3f}" in page or f"{bits:.2f}" in page


def _readme_commands():
    text = (ROOT / "README.md").read_text()
    return [line.split("#")[0].strip() for line in re.findall(r"^    (\.venv/bin/kweek .*)$", text, re.M)]


def test_every_command_of_the_readme_works(run, tmp_path):
    commands = _readme_commands()
    assert len(commands) >= 6
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "laptop").symlink_to(run)
    (tmp_path / "FOLDER").mkdir()
    (tmp_path / "FOLDER" / "a.txt").write_text("Some text of one's own. " * 100)
    for command in commands:
        words = shlex.split(command)[1:]
        if words[0] == "run":
            words[0] = "plan"  # the same options, without the ten minutes
        if words[0] == "get" or "models/" in command:
            continue  # needs the package index; evidence/spine/parity.py runs it
        if words[0] == "label":
            continue  # asks a person; tests/cli/test_cli_label.py is one
        if words[0] == "chat":
            words += ["-m", "Hi"]
        if words[0] == "quantize":
            words += ["--method", "rtn"]  # the same folder, without reading calibration text
        kweek(*words, cwd=tmp_path)


def test_bits_per_byte_agree_between_stages(run):
    """The base's own figure and the evaluation's, on different held-out texts, are near each other."""
    from kweek.store.artifact import Artifact

    base = Artifact.open(run / "artifacts" / "base").metrics["bits_per_byte"]
    items = json.loads((run / "artifacts" / "evaluation" / "items.json").read_text())
    human = [v for k, v in items["base"]["bits"].items() if k != "tasks"]
    other = sum(sum(v["document_bits"]) for v in human) / sum(v["bytes"] for v in human)
    assert math.isclose(base, other, rel_tol=0.15)
