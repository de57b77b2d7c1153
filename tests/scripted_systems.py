"""Systems whose models say what they are told, for tests of scaffolds and runs."""

from functools import cache

from kweek.data import stories
from kweek.system.roles import Role
from kweek.system.scripted import Scripted
from kweek.system.system import System
from kweek.tokenize import bpe


@cache
def tokenizer():
    return bpe.train(stories.sample_texts("systems", 300, "train"), 416)


def scripted(say, flop=1.0):
    return Scripted(tokenizer(), say, flop_per_token=flop)


def role(say, *, flop=1.0, positions=4096, **more):
    model = scripted(say, flop)
    return Role(model, tokenizer(), model.counts, positions, **more)


def system(scaffold, say, *, roles=None, **more):
    return System({"core": role(say), **(roles or {})}, scaffold, **more)


def by_question(table, default="?"):
    """Says the first entry whose key is in the prompt."""
    return lambda prompt, request: next((said for key, said in table if key in prompt), default)
