"""The small trained model, an engine on it in this process, and `kweek serve` on it in another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import serve_models
from serve_process import Running, end, start

from kweek.engine.constraints import Vocabulary
from kweek.engine.engine import Engine
from kweek.model.network import Network
from kweek.tokenize.tokenizer import Tokenizer


@dataclass(frozen=True)
class Trained:
    """The model in this process, and where it lies."""

    folder: Path
    network: Network
    tokenizer: Tokenizer
    engine: Engine


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("serve") / "parrot"
    network, tokenizer = serve_models.make_model(folder)
    vocabulary = Vocabulary.of(tokenizer, network.config.vocab_size)
    return Trained(folder, network, tokenizer, Engine(network, token_bytes=vocabulary.tokens))


@pytest.fixture(scope="session")
def server(trained: Trained) -> Iterator[Running]:
    running = start(trained.folder)
    yield running
    end(running)
