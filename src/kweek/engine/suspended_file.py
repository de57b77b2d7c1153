"""The file in which suspended generations wait: JSON, checked in full when it is read.

Tools and constraints are code, which no file of Kweek holds: whoever resumes a generation gives them again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from kweek.engine.suspended import Code, Suspended
from kweek.errors import StoreError
from kweek.protocols import Request
from kweek.store.files import read_json, write_json

VERSION = 1  # of the file

#: JSON has no infinity, and its writer puts null for it: a probability of nought.
Logprob = Annotated[float, BeforeValidator(lambda value: -math.inf if value is None else value)]
Top = list[list[tuple[int, Logprob]]]
Token = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=True)


class _Request(_Model):
    prompt_ids: list[Token] = Field(min_length=1)
    max_new_tokens: int
    temperature: float
    seed: int
    stop_ids: list[int]
    top_k: int
    top_p: float
    min_p: float
    logit_bias: dict[int, str]
    stop_texts: list[str]
    prompt_logprobs: bool
    num_prompt_top: int
    num_top: int
    max_flop: str
    tenant: str

    @classmethod
    def of(cls, request: Request) -> _Request:
        return cls(
            prompt_ids=list(map(int, request.prompt_ids)),
            stop_ids=sorted(map(int, request.stop_ids)),
            logit_bias={int(token): str(float(value)) for token, value in request.logit_bias.items()},
            stop_texts=[text.hex() for text in request.stop_texts],
            max_flop=str(float(request.max_flop)),
            **{name: getattr(request, name) for name in _PLAIN},
        )

    def request(self) -> Request:
        """Raises ValueError: an amount that is no number, a stop text that is not in hexadecimal digits."""
        return Request(
            prompt_ids=self.prompt_ids,
            stop_ids=frozenset(self.stop_ids),
            logit_bias={token: float(value) for token, value in self.logit_bias.items()},
            stop_texts=tuple(map(bytes.fromhex, self.stop_texts)),
            max_flop=float(self.max_flop),
            **{name: getattr(self, name) for name in _PLAIN},
        )


#: Fields of a request that JSON holds as they are.
_PLAIN = (
    "max_new_tokens", "temperature", "seed", "top_k", "top_p", "min_p", "prompt_logprobs", "num_prompt_top", "num_top",
    "tenant",
)  # fmt: skip


class _Generation(_Model):
    request: _Request
    ticket: int
    model: str
    wants: tuple[Code, ...]
    flop: Amount
    token_ids: list[Token]
    sampled: list[bool]
    logprobs: list[Logprob]
    processed_logprobs: list[Logprob]
    kept_mass: list[float]
    top: Top
    prompt_logprobs: list[Logprob] | None
    prompt_ranks: list[int]
    prompt_top: Top

    @model_validator(mode="after")
    def _agree(self) -> _Generation:
        count = len(self.token_ids)
        lengths = [len(self.sampled), len(self.logprobs), len(self.processed_logprobs), len(self.kept_mass)]
        if self.request.num_top:
            lengths.append(len(self.top))
        if any(length != count for length in lengths):
            raise ValueError("the lists are of different lengths")
        if count and count >= self.request.max_new_tokens:
            raise ValueError("more tokens than were asked for")
        scored = 0 if self.prompt_logprobs is None else len(self.request.prompt_ids)
        if {len(self.prompt_logprobs or ()), len(self.prompt_ranks), len(self.prompt_top)} != {scored}:
            raise ValueError("not one log-probability for each token of the prompt")
        self.request.request()
        return self


class _File(_Model):
    version: Literal[1]
    generations: list[_Generation]


def write_suspended(path: Path, suspended: Sequence[Suspended]) -> None:
    """Put generations into a file, atomically. Raises StoreError when the disk does not take it."""
    found = []
    for one in suspended:
        values = {field.name: getattr(one, field.name) for field in fields(one)}
        found.append(values | {"request": _Request.of(one.request).model_dump()})
    write_json(path, {"version": VERSION, "generations": found})


def read_suspended(path: Path) -> list[Suspended]:
    """The generations of a file, in the order in which they were written.

    Raises:
        StoreError: no such file, or one that `write_suspended` has not written.
    """
    try:
        file = _File.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        what = f"no file of suspended generations ({place}: {first['msg']})"
        raise StoreError(what, where=str(path), fix="generate anew") from None
    return [
        Suspended(
            **{
                field.name: getattr(one, field.name) for field in fields(Suspended) if field.name != "request"
            },
            request=one.request.request(),
        )
        for one in file.generations
    ]
