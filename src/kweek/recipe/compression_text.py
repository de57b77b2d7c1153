"""The text that a model is quantised with: of the run that grew it, of the user, or what every machine has."""

from __future__ import annotations

from pathlib import Path

from kweek.align.verifier import whole_number
from kweek.compress.order import Order
from kweek.compress.prune_text import read_text
from kweek.compress.quantize_folder import Material, bytes_for, finishing_tokens, tokens_for
from kweek.data import stories
from kweek.data.packing import keyed_generator
from kweek.errors import StoreError
from kweek.evaluate.problems import Asker, PromptKind, attempt
from kweek.model.network import Network
from kweek.protocols import LanguageModel, Progress, silent
from kweek.recipe.materials import TASKS, validation_texts
from kweek.recipe.stages.quantize import Config, calibration
from kweek.store.artifact import Artifact
from kweek.system.calculator import Calculator
from kweek.tokenize.tokenizer import Tokenizer

#: Problems to compare accuracy on; as the stage has it.
NUM_PROBLEMS = 200
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
    found = read_text(text, tokenizer, max_eval_bytes=bytes_for(network, row_length), progress=progress)
    pieces: list[list[int]] = []
    total = 0
    generator = keyed_generator("quantize", order.seed)
    for ids in found.training:
        if total >= num_tokens + more:
            break
        row = [tokenizer.eos_id, *map(int, ids)]
        start = int(generator.integers(max(1, len(row) - row_length)))
        pieces.append(row[start : start + row_length + 1])
        total += len(pieces[-1])
    first, size = 0, 0
    while first < len(pieces) and size < num_tokens:
        size += len(pieces[first])
        first += 1
    about = "the documentation of the Python standard library" if text is None else str(text)
    finishing = (pieces[first:] or pieces) if more else ()
    return Material(pieces[:first], {"text": found.held_out}, about, found.mark, ask, finishing)


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
