"""Before a proxy compresses anything: what that does to the upstream model's answers, on examples of the user's own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kweek.data.chats import Conversation, Task
from kweek.data.chats_reading import read_chats, require
from kweek.data.chats_report import Report
from kweek.engine.endpoint.client import EndpointClient
from kweek.engine.endpoint.model import CONNECTIONS
from kweek.errors import DataError, KweekError
from kweek.protocols import Message, Progress, Verifier, silent
from kweek.store.files import read_json, write_json
from kweek.system.compression.compressor import Compressor
from kweek.system.compression.fidelity import Ask, Example, Fidelity, measure

MAX_NEW_TOKENS = 256  # of an answer to an example: as `kweek eval` and training examine


def read_examples(path: Path) -> list[Example]:
    """Chats that end with the right answer, or tasks, from a file in any format that `kweek data` knows.

    Raises:
        DataError: it cannot be read, or holds neither.
    """
    examples = []
    for row in require(read_chats(path, Report()), Conversation, Task):
        if isinstance(row, Task):
            examples.append(Example(row.prompt, row.gold))
        else:
            examples.append(Example(row.messages[:-1], str(row.messages[-1].get("content") or "")))
    return examples


def asker(client: EndpointClient, model: str, max_new_tokens: int = MAX_NEW_TOKENS) -> Ask:
    """Asks a model behind an endpoint whole chats, several at once, for its likeliest answers."""

    def one(messages: Sequence[Message]) -> str:
        body: dict[str, Any] = {"model": model, "messages": [dict(message) for message in messages]}
        found = client.post("/chat/completions", body | {"temperature": 0, "max_tokens": max_new_tokens})
        try:
            return str(found["choices"][0]["message"].get("content") or "")
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise KweekError(f"is no answer to a chat ({error!r})", where=client.url) from error

    def ask(chats: Sequence[Sequence[Message]]) -> list[str]:
        with ThreadPoolExecutor(CONNECTIONS) as threads:
            return list(threads.map(one, chats))

    return ask


@dataclass(frozen=True)
class Proof:
    """Where examples and the measurement lie.

    Attributes:
        examples: the file of examples.
        kept: where the measurement is kept; one of the same examples, settings, model and judge is not made again,
            because the upstream model's tokens cost money.
        model: name of the upstream model.
        judge: name of the verifier.
    """

    examples: Path
    kept: Path | None
    model: str
    judge: str

    def identity(self, upstream: str) -> dict[str, str]:
        """What a measurement holds for, besides the settings."""
        digest = hashlib.sha256(self.examples.read_bytes()).hexdigest()
        return {"examples": digest, "upstream": upstream, "model": self.model, "judge": self.judge}


def prove(
    proof: Proof,
    compressor: Compressor,
    client: EndpointClient,
    verify: Verifier,
    tolerance: float,
    progress: Progress = silent,
) -> Fidelity:
    """Measure, or read what was measured before, and refuse a loss above the tolerance.

    Raises:
        GuardError: a loss above the tolerance cannot be ruled out.
        KweekError: the examples cannot be read, the endpoint fails.
    """
    if not proof.examples.is_file():
        raise DataError(
            "there is no such file", where=str(proof.examples), fix="give --examples a file of chats"
        )
    identity = proof.identity(client.url)
    fidelity = _kept(proof.kept, identity, compressor.settings.fingerprint())
    if fidelity is None:
        examples = read_examples(proof.examples)
        fidelity = measure(compressor, asker(client, proof.model), verify, examples, progress)
        if proof.kept is not None:
            write_json(proof.kept, {"of": identity, "fidelity": fidelity.to_dict()})
    fidelity.require(compressor, tolerance)
    return fidelity


def _kept(path: Path | None, identity: dict[str, str], fingerprint: str) -> Fidelity | None:
    """The measurement in a file; None where there is none, or one of something else."""
    if path is None or not path.exists():
        return None
    data = read_json(path)
    if not isinstance(data, dict) or data.get("of") != identity:
        return None
    fidelity = Fidelity.from_dict(data.get("fidelity") or {})
    return fidelity if fidelity.fingerprint == fingerprint else None
