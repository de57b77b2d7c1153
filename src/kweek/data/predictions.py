"""What a teacher predicted, kept beside the tokens: its likeliest tokens at every place where a loss is taken.

A whole distribution takes four bytes for every token of the vocabulary, at every place. Nearly all of it lies on a few
tokens, so the K likeliest are kept (2 or 4 bytes of id and an fp16 logarithm each) and what all others have together
(one more logarithm). Dropping that rest and normalising the K would teach a pupil to be surer than its teacher
(Anshumann et al. 2025, arXiv 2503.16870); `kweek.model.divergence` counts it as one outcome, "any other".

On disk it is an artifact: `predictions.json` says what there is, each `shard-00000.safetensors` holds
    tokens (T,) int32      the sequences end to end
    offsets (S + 1,) int64 where each begins, and the end
    weights (T,) float32   of predicting each token; that of a first token is 0
    ids (R, K) uint16 or int32, logprobs (R, K + 1) float16     one row for each token with a weight, in their order
Shards are memory-mapped: only the rows that are asked for are read.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from kweek.data.batches import Segment
from kweek.errors import ConfigError, DataError
from kweek.store.artifact import Artifact, ArtifactWriter
from kweek.store.files import read_json

KIND, INFO = "predictions", "predictions.json"
ROW, SHARD = "prediction_row", "prediction_shard"  # the stream and the label by which a batch names its rows
FORMAT = 1
SHARD_ROWS = (
    1 << 20
)  # some 70 MB at 16 tokens each; and a float32, which carries a row's number, is exact to 1 << 24
FLOOR = -16.0  # of a logarithm: fp32 sums of shares are not exact beyond 1e-7, so a smaller rest is not known
_FIX = "make the predictions anew"


@dataclass(frozen=True)
class Predicted:
    """One sequence, and what a teacher says of each of its tokens that has a weight.

    Attributes:
        token_ids: of the sequence (T,).
        weights: of predicting each token (T,); the first has none.
        ids_RK: the teacher's likeliest tokens for each of the R tokens with a weight, best first.
        logprobs_RK: their natural logs, under its whole distribution at temperature 1.
    """

    token_ids: Sequence[int]
    weights: npt.NDArray[np.float32]
    ids_RK: npt.NDArray[np.int64]
    logprobs_RK: npt.NDArray[np.float64]


@dataclass(frozen=True)
class PredictionInfo:
    """What `predictions.json` says beside the number of shards.

    Attributes:
        vocab_size: tokens that the teacher predicts.
        num_likeliest: K.
        tokenizer: fingerprint of what decides its ids (`kweek.tokenize.agreement.ids_fingerprint`).
        teacher: its name or fingerprint, for people.
    """

    vocab_size: int
    num_likeliest: int
    tokenizer: str
    teacher: str


def write_predictions(out: ArtifactWriter, sequences: Iterable[Predicted], info: PredictionInfo) -> int:
    """Write sequences as they come; memory holds one shard. Returns the number of rows.

    Raises:
        DataError: a sequence does not fit its own rows or the vocabulary.
    """
    num_shards = num_rows = held = 0
    waiting: list[Predicted] = []
    for number, one in enumerate(sequences):
        _check(one, info, number)
        if waiting and held + len(one.ids_RK) > SHARD_ROWS:
            _write_shard(out, num_shards, waiting, info)
            num_shards, held, waiting = num_shards + 1, 0, []
        waiting.append(one)
        held += len(one.ids_RK)
        num_rows += len(one.ids_RK)
    if waiting:
        _write_shard(out, num_shards, waiting, info)
        num_shards += 1
    out.write_json(INFO, {"format": FORMAT, "num_shards": num_shards, **asdict(info)})
    return num_rows


def _check(one: Predicted, info: PredictionInfo, number: int) -> None:
    rows = int(np.count_nonzero(one.weights))
    shape = (rows, info.num_likeliest)
    if len(one.weights) != len(one.token_ids) or (rows and one.weights[0]):
        raise DataError(f"sequence {number} has no weight for each token but the first")
    if one.ids_RK.shape != shape or one.logprobs_RK.shape != shape:
        raise DataError(
            f"sequence {number} has predictions of shape {one.ids_RK.shape} where {shape} are expected"
        )
    for values in (np.asarray(one.token_ids), one.ids_RK):
        if values.size and not 0 <= int(values.min()) <= int(values.max()) < info.vocab_size:
            raise DataError(f"sequence {number} holds a token outside the vocabulary of {info.vocab_size}")
    if not bool((one.logprobs_RK <= 1e-3).all()):
        raise DataError(f"sequence {number} has a probability above 1, or none at all")


def _write_shard(
    out: ArtifactWriter, number: int, sequences: Sequence[Predicted], info: PredictionInfo
) -> None:
    logprobs_RK = np.concatenate([one.logprobs_RK for one in sequences]).astype(np.float64)
    held_R = np.exp(logprobs_RK).sum(-1)
    rest_R1 = np.log(np.clip(1 - held_R, np.exp(FLOOR), 1))[:, None]
    logprobs_RL = np.concatenate([np.maximum(logprobs_RK, 4 * FLOOR), rest_R1], -1)
    ids_RK = torch.from_numpy(np.concatenate([one.ids_RK for one in sequences]).astype(np.int32))
    tensors = {
        "tokens": torch.tensor([i for one in sequences for i in one.token_ids], dtype=torch.int32),
        "offsets": torch.tensor([0, *np.cumsum([len(one.token_ids) for one in sequences]).tolist()]),
        "weights": torch.from_numpy(np.concatenate([one.weights for one in sequences]).astype(np.float32)),
        "ids": ids_RK.to(_id_dtype(info.vocab_size)),
        "logprobs": torch.from_numpy(logprobs_RL.astype(np.float16)),
    }
    out.write_bytes(_name(number), save(tensors))


def _name(number: int) -> str:
    return f"shard-{number:05d}.safetensors"


def _id_dtype(vocab_size: int) -> torch.dtype:
    return torch.uint16 if vocab_size <= 1 << 16 else torch.int32


class Predictions:
    """Predictions on disk.

    Attributes:
        info: what they are of.
        fingerprint: of the artifact, for the lineage of what is made from it.
    """

    def __init__(self, artifact: Artifact, info: PredictionInfo, num_shards: int) -> None:
        self.info, self.fingerprint = info, artifact.fingerprint
        self._shards = [_map(artifact.file(_name(number)), info) for number in range(num_shards)]

    @classmethod
    def open(cls, folder: Path, tokenizer: str) -> Predictions:
        """Map predictions into memory.

        Args:
            folder: the artifact; the sizes of its files are checked, their hashes by `Artifact.open`.
            tokenizer: fingerprint of what decides the pupil's ids.

        Raises:
            StoreError: no finished artifact, or a file that differs from its manifest.
            DataError: not predictions of this format, or a shard that contradicts itself.
            ConfigError: the teacher had another tokenizer.
        """
        artifact = Artifact.open(folder)
        if artifact.kind != KIND:
            raise DataError(f"holds {artifact.kind}, not {KIND}", where=str(folder), fix=_FIX)
        info, num_shards = _read_info(artifact.file(INFO))
        if info.tokenizer != tokenizer:
            raise ConfigError(
                "the predictions are of a teacher with another tokenizer than the pupil's: they do not compare",
                where=str(folder),
                fix="let a teacher with the tokenizer of the pupil predict",
            )
        return cls(artifact, info, num_shards)

    def __len__(self) -> int:
        """Sequences."""
        return sum(len(shard["offsets"]) - 1 for shard in self._shards)

    def segments(self) -> list[Segment]:
        """The sequences, each token with a weight naming its row, for `StoredDistillation`."""
        return [one for number, shard in enumerate(self._shards) for one in _segments(number, shard)]

    def rows(self, shard_N: Tensor, row_N: Tensor) -> tuple[Tensor, Tensor]:
        """The likeliest ids (N, K), int64, and logs of shares (N, K + 1), float32, the rest's last.

        Raises:
            DataError: a damaged row.
        """
        count = self.info.num_likeliest
        ids_NK = torch.empty(len(row_N), count, dtype=torch.int64)
        logprobs_NL = torch.empty(len(row_N), count + 1)
        for number in sorted(set(shard_N.tolist())):
            here = shard_N == number
            shard = self._shards[number]
            ids_NK[here] = shard["ids"][row_N[here]].to(torch.int64)
            logprobs_NL[here] = shard["logprobs"][row_N[here]].float()
        in_range = bool(((ids_NK >= 0) & (ids_NK < self.info.vocab_size)).all())
        if not in_range or not bool(torch.isfinite(logprobs_NL).all()):
            raise DataError("a prediction is damaged: no token of the vocabulary, or no logarithm", fix=_FIX)
        return ids_NK, logprobs_NL


def _segments(number: int, shard: dict[str, Tensor]) -> Iterator[Segment]:
    tokens = shard["tokens"].numpy().astype(np.int64)
    weights = shard["weights"].numpy()
    row_of = np.cumsum(weights != 0) - 1  # of each token with a weight
    offsets = shard["offsets"].tolist()
    for start, end in itertools.pairwise(offsets):
        yield Segment(
            tokens[start : end - 1],
            tokens[start + 1 : end],
            weights[start + 1 : end].copy(),
            {ROW: row_of[start + 1 : end].astype(np.float32)},
            {SHARD: float(number)},
        )


def _read_info(path: Path) -> tuple[PredictionInfo, int]:
    plain = read_json(path)
    if not isinstance(plain, dict) or plain.get("format") != FORMAT:
        raise DataError("not predictions of this format", where=str(path), fix=_FIX)
    sizes: list[Any] = [plain.get(name) for name in ("vocab_size", "num_likeliest", "num_shards")]
    names: list[Any] = [plain.get(name) for name in ("tokenizer", "teacher")]
    whole = all(type(size) is int and 0 <= size < 1 << 31 for size in sizes)
    if not whole or not all(isinstance(name, str) for name in names) or not 0 < sizes[1] <= sizes[0]:
        raise DataError("a value is missing or cannot be", where=str(path), fix=_FIX)
    return PredictionInfo(sizes[0], sizes[1], names[0], names[1]), sizes[2]


def _map(path: Path, info: PredictionInfo) -> dict[str, Tensor]:
    """The tensors of a shard; what is small is checked whole, rows when they are asked for.

    Raises:
        DataError: the file is no such shard, or its parts contradict each other.
    """
    try:
        with safe_open(path, framework="pt") as handle:
            shard = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise DataError(f"is no safetensors file ({error})", where=str(path), fix=_FIX) from error
    found = {name: (tensor.dtype, tensor.ndim) for name, tensor in shard.items()}
    expected = {
        "tokens": (torch.int32, 1),
        "offsets": (torch.int64, 1),
        "weights": (torch.float32, 1),
        "ids": (_id_dtype(info.vocab_size), 2),
        "logprobs": (torch.float16, 2),
    }
    if found != expected:
        raise DataError("has other tensors than predictions have", where=str(path), fix=_FIX)
    tokens, offsets, weights = shard["tokens"], shard["offsets"], shard["weights"]
    rows, count = int((weights != 0).sum()), info.num_likeliest
    shapes = (
        weights.shape == tokens.shape
        and shard["ids"].shape == (rows, count)
        and shard["logprobs"].shape == (rows, count + 1)
        and rows <= 1 << 24
    )
    ends = len(offsets) and int(offsets[0]) == 0 and int(offsets[-1]) == len(tokens)
    if not shapes or not ends or not bool((offsets.diff() > 0).all()):
        raise DataError("its parts do not fit together", where=str(path), fix=_FIX)
    starts = weights[offsets[:-1]]
    if not bool(((tokens >= 0) & (tokens < info.vocab_size)).all()) or bool(starts.any()):
        raise DataError("a token is outside the vocabulary, or a first one weighs", where=str(path), fix=_FIX)
    return shard
