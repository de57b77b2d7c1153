"""A small training run in a process of its own, to be killed: `killed_training.py KIND FOLDER`.

Prints a line of JSON after every update, `{"step", "value"}`, and in the end a hash of everything that a run has:
weights, the optimiser's moments, curriculum, the critic, the weight of the divergence, what guards remember.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path

import judges
import torch

from kweek.align import loop as loop_module
from kweek.align.algorithms import dr_grpo, ppo
from kweek.align.asynchronous import Asynchronous
from kweek.align.collecting import Collector, Course
from kweek.align.control import DivergenceControl
from kweek.align.critic import Critic
from kweek.align.dpo import DPO
from kweek.align.environments.corrected import Corrected
from kweek.align.environments.tool_using import ToolUsing
from kweek.align.environments.tools import CALCULATOR
from kweek.align.guards.collapse import CollapseGuard
from kweek.align.learner import Learner
from kweek.align.loop import Loop
from kweek.align.pairs import PairBatches, chat_pair, with_reference
from kweek.align.reference import Reference
from kweek.align.sequences import network_logprobs
from kweek.align.sft import ChatBatches, chat_segments
from kweek.align.sources import Synchronous
from kweek.data import stories
from kweek.engine.engine import Engine
from kweek.model.config import ModelConfig
from kweek.model.initial import initialise
from kweek.model.network import Network
from kweek.model.scorer import scorer_from
from kweek.tokenize import bpe
from kweek.tokenize.tokenizer import Tokenizer
from kweek.train import trainer as trainer_module
from kweek.train.optimiser import LearningRates, SplitOptimiser
from kweek.train.schedule import WarmupStableDecay
from kweek.train.trainer import Trainer, fit

STEPS = 30


def tell(step: int, value: float) -> None:
    """One update is done."""
    print(json.dumps({"step": step, "value": value}), flush=True)


def network_of(tokenizer: Tokenizer) -> Network:
    """32 wide, two layers, predictions that differ."""
    network = Network(ModelConfig(tokenizer.vocab_size, 32, 64, 2, 1, 1, 32, max_positions=512))
    initialise(network, torch.Generator().manual_seed(0))
    with torch.no_grad():
        network.lm_head.weight.normal_(0, 0.2, generator=torch.Generator().manual_seed(1))
    return network


def trainer_of(network: Network) -> Trainer:
    """One rate for all."""
    rates = LearningRates(5e-3, 5e-3, 5e-3, 5e-3)
    return Trainer(network, SplitOptimiser(network, rates, weight_decay=0.0))


def reinforced(kind: str, folder: Path, tokenizer: Tokenizer) -> Trainer:
    """`ppo`: a critic, a steered divergence, two minibatches; `behind`: sampled beside learning, in several turns, with
    tools, chosen by a curriculum and replaced where all are equal. A user's judge marks both, in its own process."""
    network = network_of(tokenizer)
    # Multi-turn for the second kind: told to think again, with a calculator at hand.
    world = judges.sums_of_vowels
    if kind == "behind":
        world = ToolUsing(Corrected(world), [CALCULATOR], max_rounds=1)
    course = (
        Course(STEPS, prompts=3, samples=3, warmup=2)
        if kind == "ppo"
        else Course(STEPS, prompts=3, samples=3, warmup=2, rounds=1, pool=3, staleness=1)
    )
    if kind == "ppo":
        critic = Critic(trainer_of(scorer_from(network_of(tokenizer), per_token=True)))
        learner = Learner(
            trainer_of(network), ppo(), limit=8, critic=critic, minibatches=2, seed=1,
            reference=Reference(network_of(tokenizer)), control=DivergenceControl(0.03, target=0.5),
        )  # fmt: skip
    else:
        learner = Learner(trainer_of(network), dr_grpo(), limit=8 * world.max_turns)
    collector = Collector(world, tokenizer, course, "killed", max_positions=512)
    source = Asynchronous(collector, network) if kind == "behind" else Synchronous(collector, Engine(network))
    guard = CollapseGuard()
    loop = Loop(
        learner, source, course, folder, [guard],
        on_step=lambda totals, metrics, batch: tell(totals.step, metrics.reward),
    )  # fmt: skip
    finished = loop.run()
    rest = {
        "curriculum": loop._curriculum.state(), "weight": learner.control.weight, "guard": guard.state(),
        "tokens": finished.totals.num_tokens, "stopped": finished.stopped,
    }  # fmt: skip
    (folder / "rest.json").write_text(json.dumps(rest, sort_keys=True))
    if learner.critic is not None:
        learner.critic.trainer.save(folder / "final-critic.safetensors", finished.totals)
    learner.trainer.save(folder / "final.safetensors", finished.totals)
    return learner.trainer


def supervised(folder: Path, tokenizer: Tokenizer) -> None:
    """Chats."""
    chats = stories.sample_chats("killed", 120, "train")
    batches = ChatBatches(chat_segments(tokenizer, chats), batch_size=4, epochs=1, seed=0)
    learnt(folder, trainer_of(network_of(tokenizer)), batches, batches.num_steps)


def preferred(folder: Path, tokenizer: Tokenizer) -> None:
    """Pairs with the log-probabilities of a reference."""
    network = network_of(tokenizer)
    chats = stories.sample_chats("killed", 121, "train")
    pairs = [
        chat_pair(tokenizer, [*chat[:-1], chat[-1]], [*chat[:-1], other[-1]])
        for chat, other in itertools.pairwise(chats)
        if chat[-1] != other[-1]
    ]
    pairs = with_reference(pairs, lambda sequences: network_logprobs(network, sequences))
    trainer = trainer_of(network)
    trainer.objective = DPO()
    batches = PairBatches(pairs, batch_size=4, epochs=2, seed=0)
    learnt(folder, trainer, batches, batches.num_steps)


def learnt(folder: Path, trainer: Trainer, batches: Callable[[int], object], num_steps: int) -> None:
    """`fit`, and everything it leaves."""
    totals = fit(
        trainer, batches, min(STEPS, num_steps), WarmupStableDecay(STEPS), state=folder / "state.safetensors",
        on_step=lambda totals, result, speed: tell(totals.step, result.loss),
    )  # fmt: skip
    trainer.save(folder / "final.safetensors", totals)


def digest(folder: Path) -> str:
    """Of everything that the run has in the end."""
    found = hashlib.sha256()
    for name in ("final.safetensors", "final-critic.safetensors", "rest.json"):
        path = folder / name
        found.update(path.read_bytes() if path.exists() else b"none")
    return found.hexdigest()


def main() -> None:
    """Train, from the last checkpoint where there is one."""
    kind, folder = sys.argv[1], Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    # Twenty seconds between checkpoints would outlast these runs.
    loop_module.CHECKPOINT_SECONDS = trainer_module.CHECKPOINT_SECONDS = 0.2
    tokenizer = bpe.train(stories.sample_texts("killed", 300, "train"), 416)
    if kind in ("ppo", "behind"):
        reinforced(kind, folder, tokenizer)
    elif kind == "sft":
        supervised(folder, tokenizer)
    else:
        preferred(folder, tokenizer)
    print(json.dumps({"digest": digest(folder)}), flush=True)


if __name__ == "__main__":
    main()
