"""The stages of the recipe `behave`, tiny: rules by file and line, comparisons, preferences, rewards, examination."""

import json

import pytest
import small_stage
import torch

from kweek.align.behaviour.conduct import GROUPS
from kweek.align.reward import RewardModel
from kweek.data import stories
from kweek.engine.engine import Engine
from kweek.errors import ConfigError
from kweek.model.config import ModelConfig
from kweek.model.initial import initialise
from kweek.model.network import Network
from kweek.recipe.builtin import load_recipe
from kweek.recipe.compared import as_pair, read_rows
from kweek.recipe.materials import load, save
from kweek.recipe.schema import parse_stage
from kweek.recipe.stages.rules import external
from kweek.recipe.text import Source
from kweek.recipe.worlds import read_world
from kweek.store.artifact import Artifact, ArtifactWriter
from kweek.tokenize import bpe
from kweek.tokenize.chat import encode_prompt, parse_completion
from kweek.tokenize.tokenizer import Tokenizer

MINE = """rules:
  - kind: decline
    marks: [wolves]
    lookalikes: [gloves]
    say: I count no wolves.
  - kind: end_with
    text: Amen.
"""


def model(folder):
    """A network 32 wide with room for chats of several turns."""
    tokenizer = bpe.train(
        [*stories.sample_texts("small", 200, "train"), "Ahoy! marigold dragons code word "] * 2, 480
    )
    network = Network(ModelConfig(tokenizer.vocab_size, 32, 64, 2, 1, 1, 32, max_positions=1024))
    initialise(network, torch.Generator().manual_seed(0))
    with torch.no_grad():
        network.lm_head.weight.normal_(0, 0.2, generator=torch.Generator().manual_seed(1))
    with ArtifactWriter(folder, kind="pretrain", fingerprint="m") as out:
        save(out, network, tokenizer)
    return Artifact.open(folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Rules, a model, and pairs of its answers."""
    folder = tmp_path_factory.mktemp("behave")
    found = {"model": model(folder / "m"), "corpus": small_stage.corpus(folder / "c")}
    found["rules"], _ = small_stage.run("rules", folder / "r", {})
    inputs = {"model": found["model"], "corpus": found["corpus"], "rules": found["rules"]}
    settings = [{"learning_rate": 2e-3, "epochs": 1}]
    found["sft"], found["taught"] = small_stage.run(
        "sft",
        folder / "s",
        inputs,
        demonstrations=96,
        validation_problems=16,
        settings=settings,
        replay_tokens=256,
    )
    chats = {"model": found["sft"], "rules": found["rules"]}
    found["pairs"], found["compared"] = small_stage.run(
        "compare", folder / "p", chats, prompts=24, held_out=12, contrasts=20
    )
    return found


def test_a_file_of_rules_is_read_and_what_cannot_be_meant_names_its_line(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(MINE)
    artifact, records = small_stage.run("rules", tmp_path / "ok", {}, file=str(path), held_out=["prefix"])
    world = read_world(artifact)
    assert world.rules.ending == "Amen." and not world.rules.secrets and world.held_out == ("prefix",)
    assert [r["rule"] for r in records if r["kind"] == "rule"] == ["decline", "end_with"]
    path.write_text(MINE.replace("lookalikes", "lookalike"))
    config = parse_stage("rules", {"kind": "rules", "file": str(path)}, Source({}, "x")).config
    with pytest.raises(ConfigError, match=r"mine\.yaml:4: rules\.0\.lookalike: .* Write 'lookalikes'"):
        external(config)


def test_a_changed_rule_is_another_stage(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(MINE)
    config = parse_stage("rules", {"kind": "rules", "file": str(path)}, Source({}, "x")).config
    before = external(config)
    path.write_text(MINE + "# a remark\n")
    assert external(config) == before
    path.write_text(MINE.replace("Amen", "Selah"))
    assert external(config) != before


def test_chats_of_the_rules_are_taught(made):
    assert [r["kind"] for r in made["taught"]].count("setting") == 1
    losses = [r["loss"] for r in made["taught"] if r["kind"] == "train"]
    assert losses[-1] < losses[0]


def test_compared_answers_are_the_tokens_that_were_sampled(made):
    rows = read_rows(made["pairs"], held_out=False)
    assert len(rows) > 8 and made["pairs"].metrics["num_pairs"] == len(rows)
    held_out = read_rows(made["pairs"], held_out=True)
    assert not {json.dumps(r["prompt"]) for r in rows} & {json.dumps(r["prompt"]) for r in held_out}
    pair = as_pair(rows[0])
    assert pair.chosen.token_ids[: len(rows[0]["chosen"]["prompt_ids"])] == rows[0]["chosen"]["prompt_ids"]
    assert sum(pair.chosen.loss_mask) == sum(rows[0]["chosen"]["own"])
    sets = [r["split"] for r in made["compared"] if r["kind"] == "comparison_set"]
    assert sets == ["train", "validation", "contrasts"]


def test_what_demonstrators_said_is_compared_as_a_model_would_have_written_it(made):
    tokenizer = Tokenizer.load(made["sft"].path)
    (told,) = [r for r in made["compared"] if r.get("split") == "contrasts"]
    rows = [row for row in read_rows(made["pairs"], held_out=False) if row.get("written")]
    assert len(rows) == told["pairs"] > 15 and told["pairs"] + told["ties"] == 20
    assert told["gold_agrees"] > 0.5
    for row in rows:
        assert row["level"] in ("help", "lookalike", "wrapped", "sign")
        for side in (row["chosen"], row["rejected"]):
            assert side["prompt_ids"] == encode_prompt(tokenizer, row["prompt"])
            assert side["ids"][-1] in tokenizer.stop_ids and side["own"][-1]
            said = parse_completion(tokenizer, side["ids"])
            assert said["content"] == side["text"]
    thought = [row for row in rows for side in ("chosen", "rejected") if 0 in row[side]["own"]]
    assert thought  # what the calculator returned counts for nobody


def margin(model, pairs, objective):
    """By how much the chosen answers are likelier than the rejected ones, nats; per token where that is compared."""
    rows = read_rows(pairs, held_out=False)
    score = Engine(load(model)[0]).score

    def logprob(side):
        (found,) = score([[*side["prompt_ids"], *side["ids"]]])
        own = [lp for lp, own in zip(found[len(side["prompt_ids"]) :], side["own"], strict=True) if own]
        return sum(own) / len(own) if objective == "simpo" else sum(own)

    return sum(logprob(row["chosen"]) - logprob(row["rejected"]) for row in rows) / len(rows)


@pytest.mark.parametrize("objective", ["dpo", "ipo", "kto", "simpo"])
def test_every_objective_learns_from_the_pairs(made, tmp_path, objective):
    inputs = {"model": made["sft"], "pairs": made["pairs"], "rules": made["rules"], "corpus": made["corpus"]}
    artifact, records = small_stage.run(
        "prefer", tmp_path, inputs, objective=objective, switches={}, batch_size=8, learning_rate=1e-3,
        tolerance={"bits": None, "solved": None, "trust": None},
    )  # fmt: skip
    before, after = (margin(model, made["pairs"], objective) for model in (made["sft"], artifact))
    assert after > before
    assert any(r["kind"] == "sign" for r in records) == (objective != "kto")
    assert artifact.metrics["bits_per_byte"] > 0
    guards = {guard["name"] for guard in json.loads(artifact.file("guards.json").read_text())["guards"]}
    assert guards >= {"panel", "displacement"}


def test_switches_that_an_objective_does_not_have_are_refused():
    stage = {"kind": "prefer", "inputs": {"model": "m", "pairs": "p", "rules": "r", "corpus": "c"}}
    for keys, said in (({"switches": {"tau": 1.0}}, "tau"), ({"switches": {"beta": -1.0}}, "beta")):
        with pytest.raises(ConfigError, match=said):
            parse_stage("prefer", stage | keys, Source({}, "x"))


@pytest.fixture(scope="module")
def reward(made, tmp_path_factory):
    inputs = {"model": made["sft"], "pairs": made["pairs"], "rules": made["rules"]}
    return small_stage.run("reward", tmp_path_factory.mktemp("reward"), inputs, batch_size=8, epochs=2)


def test_a_reward_model_is_trained_and_ranks_held_out_pairs(made, reward):
    artifact, records = reward
    ranked = [r for r in records if r["kind"] == "ranking"]
    held_out = read_rows(made["pairs"], held_out=True)
    sampled = [row for row in held_out if not row.get("written")]
    assert ranked[0]["set"] == "labels" and ranked[0]["n"] == len(sampled) < len(held_out)
    assert ranked[-1]["set"] == "contrasts" and ranked[-1]["n"] == len(held_out) - len(sampled)
    judge = RewardModel.load(artifact.path, Tokenizer.load(made["sft"].path))
    pairs = [as_pair(row) for row in read_rows(made["pairs"], held_out=False)]
    better = [judge.rewards([pair.chosen, pair.rejected]) for pair in pairs]
    assert sum(a > b for a, b in better) > 0.5 * len(better)


def test_every_model_is_asked_the_same_and_compared(made, tmp_path):
    inputs = {"rules": made["rules"], "corpus": made["corpus"], "base": made["model"], "sft": made["sft"]}
    few = dict.fromkeys(GROUPS, 4)
    artifact, records = small_stage.run(
        "behaviour", tmp_path, inputs, questions=few, per_family=4, before="base", after=["sft"], quantized={}
    )
    rows = json.loads(artifact.file("answers.json").read_text())
    asked = {name: [row["question"] for row in report["rows"]] for name, report in rows.items()}
    assert asked["base"] == asked["sft"] and len(asked["sft"]) == 6 * 4 + 8 * 4
    assert {r["measure"] for r in records if r["kind"] == "conduct"} >= {"helpful", "over_refusal", "refusal"}
    families = [
        (r["family"], r["held_out"]) for r in records if r["kind"] == "attack" and r["model"] == "sft"
    ]
    assert len(families) == 8 and sum(out for _, out in families) == 3
    assert any("unseen families" in r["name"] for r in records if r["kind"] == "paired")
    assert set(artifact.metrics["tasks"]) == {"base", "sft"}


def test_the_recipe_is_whole():
    recipe = load_recipe("behave")
    order = recipe.order()
    assert order.index("reward") < order.index("rl") < order.index("quantized") < order.index("behaviour")
    assert {recipe.stages[name].kind for name in order} >= {
        "rules",
        "compare",
        "prefer",
        "reward",
        "reinforce",
    }


def test_reinforcement_by_a_reward_model_is_charged_for_its_distance_and_watched_by_gold(made, tmp_path):
    chats = {"model": made["sft"], "rules": made["rules"]}
    # Beside two dozen sampled pairs, contrasts alone would say that a refusal is always wrong.
    pairs, _ = small_stage.run("compare", tmp_path / "p", chats, prompts=24, held_out=12, contrasts=0)
    reward, _ = small_stage.run("reward", tmp_path / "r", {**chats, "pairs": pairs}, batch_size=8, epochs=2)
    inputs = {"model": made["sft"], "corpus": made["corpus"], "rules": made["rules"], "reward": reward}
    artifact, records = small_stage.run(
        "reinforce", tmp_path / "rl", inputs, algorithm="rloo", steps=5, prompts=4, samples=4, gold_every=5
    )
    updates = [r for r in records if r["kind"] == "update"]
    assert len(updates) == 5 and updates[-1]["gold"] is not None
    assert all(r["flop_reward"] > 0 and r["kl"] is not None for r in updates)
    looks = [
        r for r in records if r["kind"] == "guard" and r["name"] == "hacking" and "proxy" in r["figures"]
    ]
    assert looks and not any(r["kind"] == "audit" for r in records)
    assert artifact.file("model.safetensors").exists()
