"""A model that has seen no chat, made able to take part in one."""

from __future__ import annotations

from pathlib import Path

from kweek.align.sft import initialise_special_rows
from kweek.data.packing import keyed_generator
from kweek.model.network import Network
from kweek.recipe.materials import load
from kweek.store.artifact import Artifact
from kweek.tokenize.tokenizer import Tokenizer


def load_fresh(model: Artifact | Path, seed: int) -> tuple[Network, Tokenizer]:
    """Network and tokenizer, the tokens of the chat begun as their nearest relatives, as `sft` begins."""
    network, tokenizer = load(model)
    initialise_special_rows(network, tokenizer, int(keyed_generator("rows", seed).integers(2**62)))
    return network, tokenizer
