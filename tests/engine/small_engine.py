"""A small network and an engine over each kind of backend, for tests of requests and of memory."""

import pytest
import torch

from kweek.engine.device.backend import DeviceBackend
from kweek.engine.eager import EagerBackend
from kweek.engine.engine import Engine
from kweek.engine.native import library
from kweek.errors import KweekError
from kweek.model.config import ModelConfig
from kweek.model.network import Network

VOCABULARY = 64
TOKEN_BYTES = [bytes([97 + i % 26]) * (1 + i // 26) for i in range(VOCABULARY)]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(1)
    network = Network(
        ModelConfig(
            vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_layers=2, num_heads=2,
            num_kv_heads=1, head_dim=16, max_positions=600,
        )
    )  # fmt: skip
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.3) if parameter.ndim == 2 else parameter.fill_(1.0)
    return network


def library_or_skip():
    try:
        library.load()
    except KweekError as error:
        pytest.skip(str(error))


@pytest.fixture(params=["native", "torch", "device"])
def engine(request, network, monkeypatch):
    if request.param == "native":
        library_or_skip()
    else:
        kind = {"torch": EagerBackend, "device": DeviceBackend}[request.param]
        monkeypatch.setattr(Engine, "_make", lambda self: kind(self.network, num_slots=20))
    return Engine(network, token_bytes=TOKEN_BYTES, num_slots=4)
