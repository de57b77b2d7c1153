"""The text that pruning reads: to see what matters, to distil on, and apart from both to measure on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kweek.data.batches import Ids
from kweek.data.corpus import Settings, build
from kweek.data.docstrings import PYTHON_DOCS, builtin_documents
from kweek.data.readers import read_folder
from kweek.protocols import Progress, ShouldStop, never, silent
from kweek.store.artifact import fingerprint
from kweek.tokenize.tokenizer import Tokenizer

_MIN_TRAIN_BYTES = 20_000  # of less, the few documents held out would show nothing
_BUILTIN_BYTES = 6_000_000  # more than the documentation of the standard library has


@dataclass(frozen=True)
class PruneText:
    """Documents of one tokenizer, divided by content.

    Attributes:
        training: token ids of training documents, without delimiters, in keyed order.
        held_out: texts of the documents held out.
        mark: fingerprint of the documents.
    """

    training: list[Ids]
    held_out: list[str]
    mark: str


def read_text(
    path: Path | None,
    tokenizer: Tokenizer,
    *,
    max_eval_bytes: int,
    progress: Progress = silent,
    should_stop: ShouldStop = never,
) -> PruneText:
    """Read, clean and divide documents.

    Args:
        path: a folder or file of documents; None reads the documentation of the running Python's standard library.
        max_eval_bytes: documents held out beyond that many bytes are not used.

    Raises:
        DataError: nothing there, or too little.
        Interrupted: asked to stop.
    """
    if path is None:
        name, documents = PYTHON_DOCS, builtin_documents(PYTHON_DOCS, _BUILTIN_BYTES)
    else:
        name, documents = path.name, read_folder(path, source=path.name, reject=lambda rejection: None)
    settings = Settings({name: 1.0}, min_train_bytes=_MIN_TRAIN_BYTES)
    corpus = build({name: documents}, settings, seed=0, progress=progress, should_stop=should_stop)
    training = tokenizer.encode_batch([document.text for document in corpus.splits["train"]])
    held_out: list[str] = []
    for document in (*corpus.splits["validation"], *corpus.splits["test"]):
        if held_out and sum(len(text.encode()) for text in held_out) >= max_eval_bytes:
            break
        held_out.append(document.text)
    ids = {side: [document.id for document in documents] for side, documents in corpus.splits.items()}
    mark = fingerprint("prune-text", {"documents": ids, "held_out": len(held_out)}, {}, "1")
    return PruneText([np.asarray(row, np.int64) for row in training if row], held_out, mark)
