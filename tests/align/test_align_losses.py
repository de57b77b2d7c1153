"""Every objective against its paper's formula and against TRL, on the stored batch; packing and cutting do not show."""

import math
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "evidence"))

import loss_batch
from loss_cases import batches, cases, difference, gradients, ours, peers, theirs

CASES = {case.name: case for case in cases(loss_batch.load())}


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_are_those_of_the_paper(name):
    loss, gradient = difference(ours(CASES[name], torch.float64), theirs(CASES[name]))
    assert loss < 1e-6 and gradient < 1e-6
    assert max(float(part.abs().max()) for part in theirs(CASES[name])[1].values()) > 1e-3


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.trl])
def test_loss_and_gradient_are_those_of_trl(name):
    loss, gradient = difference(ours(CASES[name], torch.float64), peers(CASES[name]))
    assert loss < 1e-6 and gradient < 1e-6


@pytest.mark.parametrize("name", CASES)
def test_neither_packing_nor_the_cut_into_micro_batches_shows(name):
    case = CASES[name]
    found = []
    for max_tokens in (1, 24, 10_000):  # every unit alone, some together, all in one
        network, objective = case.open(torch.float64), case.objective(torch.float64)
        parts: dict[str, float] = {}
        total = 0.0
        for batch in batches(case, network, max_tokens):
            hidden_BTD = network(batch.ids_BT, positions_BT=batch.positions_BT, mask=batch.mask_B1TT)
            loss = objective(network, hidden_BTD, batch)
            loss.value.backward()
            total += loss.value.item()
            for key, part in loss.parts.items():
                parts[key] = parts.get(key, 0.0) + part
        found.append(
            (total, gradients(network), parts, len(batches(case, case.open(torch.float64), max_tokens)))
        )
    assert found[0][3] > found[1][3] > found[2][3] == 1
    for other in found[1:]:
        loss, gradient = difference(found[0][:2], other[:2])
        assert loss < 1e-6 and gradient < 1e-6  # weights and labels are fp32
        assert other[2] == pytest.approx(found[0][2], abs=1e-6)


def test_the_stored_batch_moves_ktos_baseline():
    case = CASES["KTO"]
    z = batches(case, case.open(torch.float64))[0].labels["z"]
    assert not math.isclose(float(z[0]), 0.0) and (z == z[0]).all()
