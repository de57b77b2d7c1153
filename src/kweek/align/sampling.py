"""Rollouts: several attempts at every item, token in and token out.

The tokens that were drawn, and their log-probabilities under the distribution that they were drawn from, are what
training reads; text is only shown to judges. What a later turn tells the model is appended after the very tokens
sampled. Only what the model chose is ever trained on: not the prompt, whose earlier assistant turns it did not write,
nor results of tools, nor what it was told in between.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kweek.align.environment import Environment, Episode, Item
from kweek.align.rollout import Group, Rollout
from kweek.align.turns import answer_of, continuation, turn_end
from kweek.errors import ConfigError, KweekError
from kweek.protocols import Completion, LanguageModel, Message, Request, Score, StopReason, TokenInterceptor
from kweek.tokenize.chat import encode_prompt
from kweek.tokenize.tokenizer import Tokenizer

MAX_ROWS = 256  # of one call of the model: more gain nothing, and memory of waiting rows grows


@dataclass(frozen=True)
class Drawing:
    """How tokens are drawn; see `Request`.

    By default from the full softmax at temperature 1, the distribution that is differentiated without further ado.
    Another temperature divides the logits in training too. Truncation makes the two differ (`Policy.truncation`).

    Raises:
        ConfigError: temperature 0, whose answers to an item are all the same.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        if not (0 < self.temperature < math.inf):
            raise ConfigError(
                f"rollouts cannot be drawn at temperature {self.temperature:g}",
                where="temperature",
                fix="use 1, or another number above 0",
            )

    @property
    def truncates(self) -> bool:
        """Whether some tokens can never be drawn."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0

    @property
    def plain(self) -> bool:
        """Whether it is the full softmax at temperature 1."""
        return self.temperature == 1 and not self.truncates


@dataclass
class _Attempt:
    """An episode on its way."""

    item: Item
    number: int
    episode: Episode
    messages: list[Message]
    ids: list[int]
    num_prompt: int
    sampled: list[bool]
    logprobs: list[float]
    kept: list[float]
    told_ids: Sequence[int]
    flop: float = 0.0
    reason: StopReason = "stop"
    done: bool = False
    fault: str | None = None


def sample(
    model: LanguageModel,
    tokenizer: Tokenizer,
    environment: Environment,
    items: Sequence[Item],
    *,
    samples: int,
    key: str,
    drawing: Drawing | None = None,
    version: int = 0,
    max_positions: int | None = None,
    max_rows: int = MAX_ROWS,
    beginning: Callable[[Item], Sequence[int]] | None = None,
) -> list[Group]:
    """`samples` attempts at every item.

    Args:
        key: seeds depend on it, on what the item asks, on the attempt's number and on nothing else: more items change
            nobody's samples.
        drawing: None is greedy, for measuring.
        version: of the weights, kept in the rollouts.
        max_positions: of the model; an episode that leaves no room for another answer ends there, with reason "length".
        beginning: tokens with which the first answer to an item begins, forced on the model: a control, not its choice.

    Raises:
        KweekError: an answer could not be generated, or a prompt leaves no room for one.
    """
    tool = environment.interceptor(tokenizer)
    prompts = [
        [*encode_prompt(tokenizer, item.messages), *(beginning(item) if beginning else ())] for item in items
    ]
    attempts = [
        _begin(environment.begin(item), item, prompt, number)
        for item, prompt in zip(items, prompts, strict=True)
        for number in range(samples)
    ]

    def request(attempt: _Attempt, turn: int) -> Request:
        seed = sample_seed(key, attempt.item, attempt.number, turn)
        return _request(attempt, environment.max_new_tokens, drawing, seed, tokenizer, tool)

    for turn in range(environment.max_turns):
        active = [attempt for attempt in attempts if not attempt.done]
        for start in range(0, len(active), max_rows):
            part = active[start : start + max_rows]
            completions = model.generate([request(attempt, turn) for attempt in part])
            for attempt, completion in zip(part, completions, strict=True):
                _take(attempt, completion, tokenizer, drawing)
        room = None if max_positions is None else max_positions - environment.max_new_tokens
        for attempt in active:
            _answer(attempt, tokenizer, room, last=turn + 1 == environment.max_turns)
    rollouts = [_finish(attempt, version) for attempt in attempts]
    return [rollouts[start : start + samples] for start in range(0, len(rollouts), samples)]


def sample_seed(key: str, item: Item, number: int, turn: int = 0) -> int:
    """A seed for one answer: of what is asked, not of its place in a list."""
    asked = "\x1e".join(str(message.get("content")) for message in item.messages)
    content = hashlib.sha256(asked.encode()).hexdigest()[:32]
    words = (key, content, str(number), *([str(turn)] if turn else []))
    return int.from_bytes(hashlib.sha256("\x1f".join(words).encode()).digest()[:8], "big")


def given(
    model: LanguageModel, tokenizer: Tokenizer, environment: Environment, asked: Sequence[tuple[Item, str]]
) -> list[Rollout]:
    """Rollouts of given answers, as if the model had sampled them: for guards that must know their reward and gradient.

    Args:
        asked: items, each with the content of the assistant's only turn.
    """
    attempts = [
        _begin(environment.begin(item), item, encode_prompt(tokenizer, item.messages), 0) for item, _ in asked
    ]
    answers = [[*tokenizer.encode(text), turn_end(tokenizer, item.messages)] for item, text in asked]
    scored = model.score([[*attempt.ids, *ids] for attempt, ids in zip(attempts, answers, strict=True)])
    for attempt, ids, logprobs in zip(attempts, answers, scored, strict=True):
        own = logprobs[attempt.num_prompt :]
        _take(
            attempt, Completion(ids, [True] * len(ids), own, "stop", attempt.num_prompt, 0.0), tokenizer, None
        )
        _answer(attempt, tokenizer, None, last=True)
    return [_finish(attempt, 0) for attempt in attempts]


def _begin(episode: Episode, item: Item, prompt: Sequence[int], number: int) -> _Attempt:
    size = len(prompt)
    return _Attempt(
        item, number, episode, list(item.messages), list(prompt), size, [False] * size, [0.0] * size, [1.0] * size,
        prompt,
    )  # fmt: skip


def _request(
    attempt: _Attempt,
    max_new_tokens: int,
    drawing: Drawing | None,
    seed: int,
    tokenizer: Tokenizer,
    tool: TokenInterceptor | None,
) -> Request:
    if drawing is None:
        return Request(attempt.ids, max_new_tokens, 0.0, seed, tokenizer.stop_ids, tool)
    return Request(
        attempt.ids, max_new_tokens, drawing.temperature, seed, tokenizer.stop_ids, tool, drawing.top_k,
        drawing.top_p, drawing.min_p,
    )  # fmt: skip


def _take(attempt: _Attempt, completion: Completion, tokenizer: Tokenizer, drawing: Drawing | None) -> None:
    """Append what was generated, as it was generated."""
    if completion.error is not None:  # a failure is no wrong answer
        raise KweekError(completion.error)
    plain = drawing is None or drawing.plain
    attempt.ids += completion.token_ids
    attempt.sampled += completion.sampled
    attempt.logprobs += completion.logprobs if plain else completion.processed_logprobs
    attempt.kept += [1.0] * len(completion.token_ids) if plain else completion.kept_mass
    attempt.flop += completion.flop
    attempt.reason = completion.stop_reason
    attempt.messages.append(answer_of(tokenizer, completion.token_ids, attempt.told_ids))


def _answer(attempt: _Attempt, tokenizer: Tokenizer, room: int | None, *, last: bool) -> None:
    """Let the episode answer the last message, and append what it says; a fault in it ends it, counted."""
    told = _guarded(attempt, lambda: list(attempt.episode.step(attempt.messages[-1])))
    attempt.done = last or not told
    if attempt.done:
        return
    attempt.told_ids = continuation(tokenizer, attempt.messages[:-1], told, attempt.ids[-1])
    if room is not None and len(attempt.ids) + len(attempt.told_ids) > room:
        attempt.done, attempt.reason = True, "length"
        return
    size = len(attempt.told_ids)
    attempt.messages += told
    attempt.ids += attempt.told_ids
    attempt.sampled += [False] * size
    attempt.logprobs += [0.0] * size
    attempt.kept += [1.0] * size


def _guarded(attempt: _Attempt, call: Callable[[], list[Message]]) -> list[Message]:
    try:
        return call()
    except Exception as error:
        attempt.fault = f"the episode raised {type(error).__name__}: {error}"
        return []


def _finish(attempt: _Attempt, version: int) -> Rollout:
    return Rollout(
        attempt.item, attempt.ids, attempt.num_prompt, attempt.sampled, attempt.logprobs, tuple(attempt.messages),
        _judged(attempt), attempt.reason, attempt.flop, version,
        attempt.kept if min(attempt.kept) < 1 else (),
    )  # fmt: skip


def _judged(attempt: _Attempt) -> Score:
    """The episode's score; one that raises or is no number between 0 and 1 is an error, never a reward of 0."""
    if attempt.fault is not None:
        return Score(0.0, parsed=False, error=attempt.fault)
    try:
        score = attempt.episode.score()
    except Exception as error:
        return Score(0.0, parsed=False, error=f"the judge raised {type(error).__name__}: {error}")
    if score.error is None and not 0 <= score.value <= 1:  # NaN fails too
        return Score(
            0.0, parsed=score.parsed, error=f"the judge gave {score.value}, not a number from 0 to 1"
        )
    return score
