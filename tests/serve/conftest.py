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
from kweek.model.checkpoint import save_model
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


@pytest.fixture(scope="session")
def tool_server(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The same weights with a template that shows tools."""
    folder = tmp_path_factory.mktemp("tools") / "caller"
    tokenizer = trained.tokenizer
    save_model(folder, trained.network)
    Tokenizer(tokenizer.definition, tokenizer.config, serve_models.TOOL_TEMPLATE).save(folder)
    running = start(folder)
    yield running
    end(running)
