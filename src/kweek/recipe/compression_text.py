"""The text that a model is quantised with: of the run that grew it, of the user, or what every machine has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kweek.align.verifier import whole_number
from kweek.compress.order import Order
from kweek.compress.prune_text import read_text
from kweek.compress.quantize_folder import Material, bytes_for, finishing_tokens, tokens_for
from kweek.data import stories
from kweek.data.document import document_id
from kweek.data.packing import keyed_generator
from kweek.data.readers import read_folder
from kweek.errors import DataError, StoreError
from kweek.evaluate.problems import Asker, PromptKind, attempt
from kweek.model.network import Network
from kweek.protocols import LanguageModel, Progress, silent
from kweek.recipe.materials import TASKS, validation_texts
from kweek.recipe.stages.quantize import Config, calibration
from kweek.store.artifact import Artifact, fingerprint
from kweek.system.calculator import Calculator
from kweek.tokenize.tokenizer import Tokenizer

#: Problems to compare accuracy on; as the stage has it.
NUM_PROBLEMS = 200
#: Characters of a piece of the user's text: some paragraphs, so that a small file has pieces enough to divide.
_PIECE_CHARS = 600
#: One piece in five is held out, and two at least, or there would be no interval.
_HELD_OUT, _MIN_HELD = 5, 2
_TOOL_WORDS = {"<tool>", "<result>", "</result>"}


def material(
    network: Network,
    tokenizer: Tokenizer,
    folder: Path,
    order: Order,
    row_length: int,
    text: Path | None = None,
    progress: Progress = silent,
) -> Material:
    """Text to quantise a model with.

    Args:
        network, tokenizer: the model.
        folder: where it lies; inside a run folder the corpus of that run is used, chats and tasks included.
        order: decides how much text is needed.
        row_length: tokens of a row.
        text: documents of the user, which take precedence over everything else.
        progress: counts bytes read.

    Raises:
        DataError: no text there, or too little.
    """
    ask = problems(tokenizer, folder)
    num_tokens = tokens_for(network, row_length)
    more = finishing_tokens(order.finish_steps, row_length)
    corpus = _corpus(folder) if text is None else None
    if corpus is not None:
        sizes = [num_tokens, *([max(more, 512)] if more else [])]
        parts = [
            calibration(corpus, tokenizer, Config(calibration_tokens=size), order.seed + number)
            for number, size in enumerate(sizes)
        ]
        held_out = validation_texts(corpus, bytes_for(network, row_length))
        held_out.pop(TASKS)  # generated from few words: their bits say little of anything else
        about = f"the corpus of this run ({corpus.path}), chats and tasks"
        mark = f"{corpus.fingerprint}/{sizes}"
        return Material(parts[0], held_out, about, mark, ask, parts[1] if more else ())
    if text is None:
        found = read_text(None, tokenizer, max_eval_bytes=bytes_for(network, row_length), progress=progress)
        training = [list(map(int, ids)) for ids in found.training]
        held, mark = found.held_out, found.mark
        about = "the documentation of the Python standard library"
    else:
        kept, held, mark = _divided(text, bytes_for(network, row_length))
        training, about = tokenizer.encode_batch(kept), str(text)
    pieces = _pieces(training, tokenizer.eos_id, row_length, num_tokens + more, order.seed)
    ends = np.cumsum([len(piece) for piece in pieces])
    first = int(np.searchsorted(ends, num_tokens)) + 1
    finishing = (pieces[first:] or pieces) if more else ()
    return Material(pieces[:first], {"text": held}, about, mark, ask, finishing)


def _pieces(
    training: Sequence[Sequence[int]], eos_id: int, row_length: int, num_tokens: int, seed: int
) -> list[list[int]]:
    """A row's worth of each document, begun anywhere in it, up to a number of tokens in all."""
    generator = keyed_generator("quantize", seed)
    pieces: list[list[int]] = []
    total = 0
    for index in generator.permutation(len(training)):
        if total >= num_tokens:
            break
        row = [eos_id, *training[int(index)]]
        start = int(generator.integers(max(1, len(row) - row_length)))
        pieces.append(row[start : start + row_length + 1])
        total += len(pieces[-1])
    return pieces


def _divided(path: Path, max_held_bytes: int) -> tuple[list[str], list[str], str]:
    """A user's documents as pieces to calibrate on and pieces held out, by content, with their fingerprint.

    Documents are cut at blank lines first: a single file is then enough.

    Raises:
        DataError: nothing there, or too little to divide.
    """
    pieces: dict[str, str] = {}  # by content, so that no piece is on both sides
    for document in read_folder(path, source=path.name, reject=lambda rejection: None):
        piece = ""
        for paragraph in document.text.split("\n\n"):
            piece += ("\n\n" if piece else "") + paragraph
            if len(piece) >= _PIECE_CHARS:
                pieces[document_id(piece)] = piece
                piece = ""
        if piece.strip():
            pieces[document_id(piece)] = piece
    ordered = sorted(pieces)  # by hash: an order that depends on the content alone
    num_held, size = 0, 0
    while num_held < len(ordered) // _HELD_OUT and size < max_held_bytes:
        size += len(pieces[ordered[num_held]].encode())
        num_held += 1
    if num_held < _MIN_HELD:
        raise DataError(
            f"there are {len(ordered)} pieces of text and {_MIN_HELD * _HELD_OUT} are needed",
            where=str(path),
            fix="give more text, or leave --text out",
        )
    mark = fingerprint("quantize-text", {"pieces": ordered}, {}, "1")
    return [pieces[key] for key in ordered[num_held:]], [pieces[key] for key in ordered[:num_held]], mark


def problems(tokenizer: Tokenizer, folder: Path) -> OwnTasks | None:
    """How a model that our recipes grew answers its own problems; None for any other."""
    if not set(tokenizer.special) >= _TOOL_WORDS:
        return None
    try:
        kind: PromptKind = "document" if Artifact.open(folder).kind == "pretrain" else "chat"
    except StoreError:
        kind = "chat"
    asker = Asker(tokenizer, whole_number, Calculator(tokenizer), kind)
    return OwnTasks(asker)


class OwnTasks:
    """Answers the same held-out problems with any model, right or wrong one by one."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker
        self._items = stories.problems("quantize/validation", NUM_PROBLEMS, "validation")

    def __call__(self, model: LanguageModel) -> list[bool]:
        return [group[0].correct for group in attempt(model, self._asker, self._items)]


def _corpus(folder: Path) -> Artifact | None:
    """The corpus of the run that a model lies in, if it does and there is one."""
    run = folder.resolve().parent.parent
    if folder.resolve().parent.name != "artifacts" or not (run / "run.json").is_file():
        return None
    for candidate in sorted((run / "artifacts").iterdir()):
        try:
            artifact = Artifact.open(candidate)
        except StoreError:
            continue
        if artifact.kind == "corpus":
            return artifact
    return None
