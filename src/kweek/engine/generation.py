"""One generation on its way: what it has said, what must still pass through the network, and when it ends."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from kweek.engine.backend import Sizes
from kweek.engine.prompt_scores import PromptScores, Top
from kweek.engine.slots import Slot
from kweek.engine.suspended import Code, Suspended
from kweek.errors import KweekError
from kweek.protocols import Completion, Constraint, Request, StopReason

OnToken = Callable[[int, float], None]


@dataclass(eq=False)  # each is itself: two may hold the same text
class Generation:
    """A request and what has come of it.

    Attributes:
        ids: prompt and new tokens.
        num_fed: how many of them have their keys and values in the slot.
        limit: new tokens that length and budget allow.
        num_shared: leading tokens that were found computed.
        leader: the generation in whose slot its text is computed too, as long as both say the same.
        num_ridden: new tokens that it had when it left its last leader, or ended with it; they cost nothing.
        num_resumed: new tokens that it had when it came out of a file or another engine.
        spent: FLOP before that.
    """

    ticket: int
    request: Request
    ids: list[int]
    limit: int
    reason_at_limit: StopReason
    vocab_size: int
    on_token: OnToken | None = None
    constraint: Constraint | None = None
    mask: npt.NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))
    uniforms: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(1))
    uniforms_address: int = 0
    slot: Slot | None = None
    num_fed: int = 0
    num_shared: int = 0
    token_ids: list[int] = field(default_factory=list)
    sampled: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    processed: list[float] = field(default_factory=list)
    kept: list[float] = field(default_factory=list)
    top: list[list[tuple[int, float]]] = field(default_factory=list)
    prompt_scores: PromptScores | None = None
    tail: bytes = b""
    reason: StopReason | None = None
    stopped_by: bytes | int | None = None
    cancelled: bool = False
    error: str | None = None
    leader: Generation | None = None
    num_ridden: int = 0
    num_resumed: int = 0
    spent: float = 0.0

    @classmethod
    def begin(
        cls, ticket: int, request: Request, config: Sizes, on_token: OnToken | None = None
    ) -> Generation:
        """Check a request and prepare for it.

        Raises:
            KweekError: an empty prompt, a token outside the vocabulary, or more positions than the network has.
        """
        check(request, config)
        limit = request.max_new_tokens
        if request.max_flop < math.inf:
            limit = affordable(request, config)
        reason: StopReason = "budget" if limit < request.max_new_tokens else "length"
        generation = cls(
            ticket, request, list(request.prompt_ids), limit, reason, config.vocab_size, on_token
        )
        if request.temperature > 0:
            # A counter-based stream per request: its samples do not depend on who else is in the batch.
            generation.uniforms = np.random.Generator(np.random.Philox(key=request.seed)).random(
                request.max_new_tokens + 1
            )
            generation.uniforms_address = int(generation.uniforms.ctypes.data)
        if request.constraint is not None:
            generation.constraint = request.constraint()
            size = len(generation.constraint.allowed())
            if size != config.vocab_size:
                raise KweekError(
                    f"a constraint is over {size} tokens, the model has {config.vocab_size}",
                    fix="compile it for this model's vocabulary",
                )
        if request.prompt_logprobs:
            generation.prompt_scores = PromptScores()
        if limit < 0 or (limit == 0 and not generation.num_unscored):
            generation.reason = reason
        return generation

    def go_on(self, from_: Suspended, token_bytes: Sequence[bytes] | None) -> None:
        """Take over what a suspended generation has said; call it on a fresh one of the same request.

        Raises:
            KweekError: the constraint does not take the tokens.
        """
        self.ids += from_.token_ids
        self.token_ids, self.sampled = list(from_.token_ids), list(from_.sampled)
        self.logprobs, self.processed = list(from_.logprobs), list(from_.processed_logprobs)
        self.kept, self.top = list(from_.kept_mass), [list(entries) for entries in from_.top]
        if from_.prompt_logprobs is not None:
            self.prompt_scores = PromptScores(
                list(from_.prompt_logprobs), list(from_.prompt_ranks), list(from_.prompt_top)
            )
        self.num_resumed, self.spent = len(self.token_ids), from_.flop
        for token in self.token_ids:
            if self.constraint is not None:
                if not self.constraint.allowed()[token]:
                    raise KweekError(
                        "a suspended generation has said what its constraint does not allow",
                        fix="resume it with the constraint that it had",
                    )
                self.constraint.advance(token)
            if token_bytes is not None and self.request.stop_texts:
                self._remember(token_bytes[token])
        if len(self.token_ids) >= self.limit and not self.num_unscored:
            self.reason = self.reason_at_limit

    def suspended(self, config: Sizes, model: str) -> Suspended:
        """What it takes to go on elsewhere.

        Args:
            config: of the network.
            model: identity of what computed it.
        """
        request = self.request
        wants: list[Code] = ["constraint"] if request.constraint is not None else []
        wants += ["interceptor"] if request.interceptor is not None else []
        scores = None if self.num_unscored else self.prompt_scores  # what is half scored begins again
        return Suspended(
            request, self.ticket, model, tuple(wants), self.cost(config), self.token_ids, self.sampled, self.logprobs,
            self.processed, self.kept, self.top, *_lists(scores),
        )  # fmt: skip

    @property
    def num_waiting(self) -> int:
        """Tokens that have not passed through the network; the last of them is the one whose logits are wanted."""
        return len(self.ids) - self.num_fed

    @property
    def num_unscored(self) -> int:
        """Tokens of the prompt whose log-probabilities are wanted and not there yet."""
        return 0 if self.prompt_scores is None else len(self.request.prompt_ids) - len(self.prompt_scores)

    def advance(self, count: int) -> None:
        """So many more of its tokens have passed through the network; those of a rider have in its leader's slot."""
        if self.slot is not None:
            self.slot.token_ids += self.ids[self.num_fed : self.num_fed + count]
            self.num_fed += count

    @property
    def watched(self) -> bool:
        """Whether someone must look at every token before the next is drawn."""
        request = self.request
        asked = request.interceptor is not None and request.interceptor.trigger_ids is None
        return asked or self.constraint is not None or request.num_top > 0

    @property
    def shareable(self) -> bool:
        """Whether others may say the same with it: its logits are all that is wanted of the network."""
        return not self.watched and self.prompt_scores is None

    @property
    def plain(self) -> bool:
        """Whether a token that makes no row pause is only appended: nobody is told, nothing is matched."""
        return self.on_token is None and not self.request.stop_texts and not self.watched

    def take_plain(
        self, tokens: list[int], logprobs: list[float], processed: list[float], kept: list[float]
    ) -> None:
        """Append tokens that neither end it nor call a tool; only where it is `plain`."""
        self.ids += tokens
        self.token_ids += tokens
        self.sampled += [True] * len(tokens)
        self.logprobs += logprobs
        self.processed += processed
        self.kept += kept

    def take(
        self,
        token: int,
        logprob: float,
        processed: float,
        kept: float,
        token_bytes: Sequence[bytes] | None,
    ) -> bool:
        """Append a sampled token and what a tool forces after it; returns whether the row can go on as it is.

        It cannot when it has ended, or when there are forced tokens to feed.
        """
        self._append(token, logprob, processed, kept, True)
        request = self.request
        if token in request.stop_ids:
            self.reason, self.stopped_by = "stop", token
        elif token_bytes is not None and request.stop_texts:
            self._match(token_bytes[token])
        if self.reason is None and len(self.token_ids) >= self.limit:
            self.reason = self.reason_at_limit
        if self.reason is not None:
            return False
        if self.constraint is not None:
            self.constraint.advance(token)
        interceptor = request.interceptor
        if interceptor is None or (
            interceptor.trigger_ids is not None and token not in interceptor.trigger_ids
        ):
            return True
        forced = list(interceptor(self.ids))[: self.limit - len(self.token_ids)]
        if not all(0 <= forced_token < self.vocab_size for forced_token in forced):
            raise KweekError(f"a tool said a token outside 0 .. {self.vocab_size - 1}", fix="mend the tool")
        for forced_token in forced:
            self._append(forced_token, 0.0, 0.0, 1.0, False)
            if token_bytes is not None and request.stop_texts:
                self._remember(token_bytes[forced_token])
        if len(self.token_ids) >= self.limit:
            self.reason = self.reason_at_limit
        return not forced

    def _append(self, token: int, logprob: float, processed: float, kept: float, sampled: bool) -> None:
        self.ids.append(token)
        self.token_ids.append(token)
        self.sampled.append(sampled)
        self.logprobs.append(logprob)
        self.processed.append(processed)
        self.kept.append(kept)
        if not sampled and self.request.num_top:
            self.top.append([])
        if self.on_token is not None:
            self.on_token(token, logprob)

    def _match(self, new: bytes) -> None:
        """End at the first stop text that ends in these bytes; what a tool says ends nothing by itself."""
        whole, before = self.tail + new, len(self.tail)
        places = [
            (whole.find(text, max(0, before - len(text) + 1)), text) for text in self.request.stop_texts
        ]
        found = [place for place in places if place[0] >= 0]
        if found:
            self.reason, self.stopped_by = "stop", min(found)[1]
        self._remember(new)

    def _remember(self, new: bytes) -> None:
        """Keep as many of the last bytes as a stop text may begin in."""
        self.tail = (self.tail + new)[-max(map(len, self.request.stop_texts)) :]

    def fail(self, error: str) -> None:
        """End it, and nobody else's, for a reason of its own."""
        self.reason, self.error = "error", error

    def completion(self, config: Sizes) -> Completion:
        """What came of the request; call it once it has ended."""
        assert self.reason is not None
        num_prompt = len(self.request.prompt_ids)
        return Completion(
            self.token_ids, self.sampled, self.logprobs, self.reason, num_prompt, self.cost(config), self.processed,
            self.kept, *_lists(self.prompt_scores), self.top, self.stopped_by, self.error,
        )  # fmt: skip

    def cost(self, config: Sizes) -> float:
        """FLOP so far: prompt and tokens, and what is computed again after an interruption."""
        start = len(self.request.prompt_ids) + self.num_resumed
        fed = max(0, min(self.num_fed, start) - self.num_shared)
        new = len(self.token_ids) - self.num_resumed
        own = decode_flop(config, start, new) - decode_flop(config, start, self.num_ridden)
        return self.spent + fed * config.num_flops_per_token(start) + own


def _lists(scores: PromptScores | None) -> tuple[list[float] | None, list[int], list[Top]]:
    """As completions have them."""
    return (None, [], []) if scores is None else (scores.logprobs, scores.ranks, scores.top)


def decode_flop(config: Sizes, num_prompt: int, num_new: int) -> float:
    """FLOP of the steps after the first new token, which came with the prompt."""
    first, slope = config.num_flops_decode(0), config.num_flops_decode(1) - config.num_flops_decode(0)
    steps = max(0, num_new - 1)
    return first * steps + slope * sum(range(num_prompt, num_prompt + steps))


def affordable(request: Request, config: Sizes) -> int:
    """New tokens that the request's FLOP pay for, at most those it asks for; -1 where its prompt costs more."""
    num_prompt = len(request.prompt_ids)
    prompt = num_prompt * config.num_flops_per_token(num_prompt)
    low, high = 0, request.max_new_tokens
    if prompt > request.max_flop:
        return -1
    while low < high:
        middle = (low + high + 1) // 2
        if prompt + decode_flop(config, num_prompt, middle) <= request.max_flop:
            low = middle
        else:
            high = middle - 1
    return low


def check(request: Request, config: Sizes) -> None:
    """Refuse what can never be generated.

    Raises:
        KweekError: an empty prompt, a token outside the vocabulary, more positions than the network has, or sampling
            parameters that mean nothing.
    """
    if not request.prompt_ids:
        raise KweekError("a request has an empty prompt", fix="give it at least one token")
    if not 0 <= min(request.prompt_ids) <= max(request.prompt_ids) < config.vocab_size:
        raise KweekError(
            f"a prompt has a token outside 0 .. {config.vocab_size - 1}", fix="use this model's own tokenizer"
        )
    if request.max_flop < math.inf and math.isnan(config.num_flops_decode(0)):
        raise KweekError(
            "max_flop: what a token of this model costs is not known", fix="limit max_new_tokens instead"
        )
    if request.constraint is not None and request.interceptor is not None:
        raise KweekError(
            "a request has a constraint and a tool whose results it cannot foresee", fix="leave one out"
        )
    if not all(
        0 <= token < config.vocab_size and value < math.inf for token, value in request.logit_bias.items()
    ):
        raise KweekError(
            f"logit_bias has a token outside 0 .. {config.vocab_size - 1}, or a value that is no number",
            fix="name tokens of this model; minus infinity forbids one",
        )
    if request.max_new_tokens < 0 or not 0 <= request.seed < 1 << 128:
        raise KweekError(
            f"cannot generate {request.max_new_tokens} tokens with seed {request.seed}",
            fix="give both from 0 on",
        )
    shapes = (request.temperature >= 0, 0 < request.top_p <= 1, 0 <= request.min_p <= 1, request.top_k >= 0)
    if not all(shapes) or request.temperature == math.inf:
        raise KweekError(
            f"cannot sample with temperature {request.temperature:g}, top_p {request.top_p:g}, "
            f"min_p {request.min_p:g}, top_k {request.top_k}",
            fix="temperature and top_k from 0, top_p above 0 and up to 1, min_p from 0 to 1",
        )
    if len(request.prompt_ids) + request.max_new_tokens > config.max_positions:
        raise KweekError(
            f"a prompt of {len(request.prompt_ids)} tokens and {request.max_new_tokens} new ones exceed "
            f"the model's {config.max_positions} positions",
            fix="shorten the prompt or ask for fewer tokens",
        )
