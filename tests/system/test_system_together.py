"""Many runs over one engine: the same answers as alone, each in its place, and nobody waits for the fallen."""

from functools import partial

import pytest
import torch
from scripted_systems import tokenizer

from kweek.engine.engine import Engine
from kweek.errors import KweekError
from kweek.model.config import ModelConfig
from kweek.model.initial import initialise
from kweek.model.network import Network
from kweek.protocols import Request
from kweek.system.roles import Role
from kweek.system.scaffolds.asking import Way
from kweek.system.scaffolds.votes import self_consistency
from kweek.system.system import System
from kweek.system.task import Task
from kweek.system.together import Together, answer_all


@pytest.fixture(scope="module")
def network():
    made = Network(ModelConfig(tokenizer().vocab_size, 32, 64, 2, 2, 1, 16, max_positions=256))
    initialise(made, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    return made


def test_runs_side_by_side_answer_as_they_do_alone(network):
    def declared(model):
        role = Role(model, tokenizer(), network.config, 256, shares_prompt=True)
        return System({"core": role}, partial(self_consistency, n=4, way=Way(max_new_tokens=6)))

    tasks = [Task.of(f"How many cups are in box {number}?") for number in range(12)]
    alone = [declared(Engine(network)).answer(task) for task in tasks]
    together = list(answer_all(declared(Together(Engine(network))), tasks, workers=6))
    assert [one.answer.text for one in together] == [one.answer.text for one in alone]
    assert [one.cost.tokens_out for one in together] == [one.cost.tokens_out for one in alone]
    assert (
        len({one.answer.text for one in alone}) > 6
    )  # answers that differ, so that one out of place would show


def test_what_cannot_be_asked_leaves_nothing_behind(network):
    engine = Engine(network)
    model = Together(engine)
    with pytest.raises(KweekError, match="empty prompt"):
        model.generate([Request([1, 2], 50), Request([], 3)])
    told = []
    done = model.generate([Request([1, 2, 3], 4)], lambda *token: told.append(token))
    assert [token for _, token in told] == done[0].token_ids
    assert engine.num_active == 0
    assert model.score([[1, 2, 3]])[0][0] == 0.0
