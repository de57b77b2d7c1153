"""How the hidden states of a text become one vector, as a sentence-transformers folder says it.

`modules.json` lists the steps by Python class name; the names are compared with known ones and never imported.
Shapes: B texts, T tokens, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from kweek.errors import CheckpointError
from kweek.model.tensors import read_json

Pooling = Literal["mean", "cls", "max"]
MODULES_FILE, LENGTH_FILE = "modules.json", "sentence_bert_config.json"
PROMPTS_FILE = "config_sentence_transformers.json"
#: The switches of releases before 6, which now write the name itself under "pooling_mode".
_SWITCHES = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True)
class SentenceConfig:
    """What a sentence encoder does around its network.

    Attributes:
        pooling: "mean" over the text's tokens (special ones included, as sentence-transformers does), "cls" the
            first token's state, "max" the largest value of each dimension.
        normalise: whether vectors are scaled to length one.
        max_tokens: longest text that the encoder was trained for, special tokens included; None is its positions.
        lower_case: whether text is lower-cased before the tokenizer sees it.
    """

    #: what most sentence encoders were trained with.
    pooling: Pooling = "mean"
    #: so that a dot product is the cosine, by which sentence encoders are compared.
    normalise: bool = True
    #: none, because a plain checkpoint says nothing about it.
    max_tokens: int | None = None
    #: the tokenizers of uncased encoders do it themselves.
    lower_case: bool = False

    def pool(self, hidden_BTD: Tensor, valid_BT: Tensor) -> Tensor:
        """(B, T, D) and bool (B, T), false for padding, to (B, D), fp32."""
        hidden_BTD = hidden_BTD.float()
        if self.pooling == "cls":
            pooled_BD = hidden_BTD[:, 0]
        elif self.pooling == "max":
            pooled_BD = hidden_BTD.masked_fill(~valid_BT[..., None], -torch.inf).amax(1)
        else:
            shares_BT = valid_BT.float()
            shares_BT = shares_BT / shares_BT.sum(1, keepdim=True)
            pooled_BD = torch.bmm(shares_BT[:, None], hidden_BTD)[:, 0]
        return F.normalize(pooled_BD, dim=-1) if self.normalise else pooled_BD


def load_sentence_config(folder: Path | str) -> SentenceConfig:
    """The settings of a folder; mean and normalised where it says nothing (a plain BERT checkpoint).

    Raises:
        CheckpointError: a step, a pooling or a prompt that Kweek does not apply, or a broken file.
    """
    folder = Path(folder)
    document = _object(folder / LENGTH_FILE) if (folder / LENGTH_FILE).is_file() else {}
    max_tokens = document.get("max_seq_length")
    if max_tokens is not None and (type(max_tokens) is not int or max_tokens < 3):
        raise CheckpointError(
            f"max_seq_length is {max_tokens!r}, not a number of tokens", where=str(folder / LENGTH_FILE)
        )
    lower_case = bool(document.get("do_lower_case"))
    where = str(folder / MODULES_FILE)
    if not (folder / MODULES_FILE).is_file():
        return SentenceConfig(max_tokens=max_tokens, lower_case=lower_case)
    _refuse_prompts(folder / PROMPTS_FILE)
    steps = read_json(folder / MODULES_FILE)
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise CheckpointError("it is not a list of modules", where=where)
    kinds = [str(step.get("type")).rpartition(".")[2] for step in steps]
    if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]):
        raise CheckpointError(
            f"modules {', '.join(kinds)} are not supported",
            where=where,
            fix="use an encoder of the modules Transformer, Pooling and perhaps Normalize",
        )
    if steps[0].get("path") not in ("", None):
        raise CheckpointError("the encoder lies in a folder of its own", where=where, fix="move it up")
    path = folder / _inner_folder(steps[1].get("path"), where) / "config.json"
    return SentenceConfig(_pooling(path), kinds[2:] == ["Normalize"], max_tokens, lower_case)


def _inner_folder(name: Any, where: str) -> str:
    """A folder of the checkpoint itself; anything that leads elsewhere is refused."""
    if not isinstance(name, str) or name in ("", ".", "..") or any(sign in name for sign in "/\\:\0"):
        raise CheckpointError(f"it names {name!r}, which is not a folder of this folder", where=where)
    return name


def _pooling(path: Path) -> Pooling:
    document = _object(path)
    named = document.get("pooling_mode")
    if named is None:
        named = [mode for switch, mode in _SWITCHES.items() if document.get(switch)] or ["mean"]
    modes = named if isinstance(named, list) else [named]
    for mode in get_args(Pooling):
        if modes == [mode]:
            found: Pooling = mode
            return found
    raise CheckpointError(
        f"pooling by {' and '.join(map(str, modes))} is not supported",
        where=str(path),
        fix="use an encoder that pools by mean, by its first token or by maximum",
    )


def _refuse_prompts(path: Path) -> None:
    """A prompt that sentence-transformers puts before every text would be silently missing."""
    if path.is_file() and (name := _object(path).get("default_prompt_name")):
        raise CheckpointError(
            f"its default prompt {name!r} is not supported",
            where=str(path),
            fix="set default_prompt_name to null and put the prompt before the texts yourself",
        )


def _object(path: Path) -> dict[str, Any]:
    document = read_json(path)
    if not isinstance(document, dict):
        raise CheckpointError("it is not a JSON object", where=str(path))
    return document
