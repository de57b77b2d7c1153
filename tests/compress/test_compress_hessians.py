"""Second moments: they predict the size of the outputs that the network really has, padding left out."""

import pytest
import torch
from compress_networks import make_network

from kweek.compress.gptq import output_error
from kweek.compress.hessians import collect
from kweek.data.batches import collate, segment


def rows(seed=0):
    """Packed rows of unequal length: masks and padding both matter."""
    generator = torch.Generator().manual_seed(seed)
    parts = [segment(torch.randint(0, 96, (n,), generator=generator).numpy()) for n in (12, 7, 20, 5)]
    return [collate([[parts[0], parts[1]], [parts[2]]]), collate([[parts[3]]])]


@pytest.mark.parametrize("changes", [{}, {"architecture": "qwen2", "qk_norm": False, "qkv_bias": True}])
def test_moments_predict_the_energy_of_outputs(changes):
    network, batches = make_network(**changes), rows()
    energy, states, num_tokens = {}, [], 0
    found = collect(network, batches)

    def keep(name):
        def hook(module, args, output):
            energy[name] = energy.get(name, 0.0) + float(output[valid].square().sum())

        return hook

    for name, module in network.named_modules():
        if name.endswith(("self_attn", "mlp")):
            last = "o_proj" if name.endswith("self_attn") else "down_proj"
            module.register_forward_hook(keep(f"{name}.{last}.weight"))
    with torch.no_grad():
        for batch in batches:
            valid = batch.weights_BT > 0
            num_tokens += int(valid.sum())
            hidden = network(batch.ids_BT, positions_BT=batch.positions_BT, mask=batch.mask_B1TT)
            states.append(hidden[valid])
    assert num_tokens == 40
    assert len(energy) == 4
    assert torch.equal(found.hidden_ND, torch.cat(states))
    for name, total in energy.items():
        weight = network.get_parameter(name).detach()
        assert output_error(weight, found.moments[name]) == pytest.approx(total / num_tokens, rel=1e-4)


def test_every_matrix_of_the_layers_has_moments():
    network = make_network()
    expected = {n for n, p in network.named_parameters() if p.dim() == 2 and ".layers." in n}
    assert set(collect(network, rows()).moments) == expected


def test_reading_leaves_no_trace():
    network = make_network()
    ids = torch.arange(10)[None]
    before = network(ids)
    collect(network, rows())
    assert torch.equal(network(ids), before)
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_first_moments_of_gate_and_up_are_those_of_their_input():
    network, seen = make_network(), []
    network.get_submodule("model.layers.1.mlp").register_forward_pre_hook(
        lambda _, args: seen.append(args[0])
    )
    batch = rows()[0]
    found = collect(network, [batch]).moments["model.layers.1.mlp.gate_up_proj.weight"]
    x = seen[0][batch.weights_BT > 0]
    torch.testing.assert_close(found, x.T @ x / len(x), rtol=1e-4, atol=1e-6)
