"""A checkpoint folder as a `LanguageModel`, computed by vLLM."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kweek.engine.backend import ForeignSizes
from kweek.engine.batch import Told
from kweek.engine.generation import check
from kweek.engine.vllm.translate import Growing, limit_of, prompt_of, sampling_arguments
from kweek.errors import CheckpointError, KweekError
from kweek.model.checkpoint import load_config
from kweek.model.config import ModelConfig
from kweek.protocols import Completion, Request, ShouldStop, never

MEMORY_SHARE = 0.9  # of the GPU's, vLLM's own default: whatever the weights leave is for keys and values


class VllmEngine:
    """A `LanguageModel` over vLLM's engine in this process. See `translate` for what a request may ask for.

    Log-probabilities are the model's own: raw, before bias, temperature and truncation.

    Args:
        folder: a checkpoint folder.
        should_stop: asked between steps; when true, all generations end as "cancelled".
        memory_share: of the GPU's memory that vLLM takes.
    """

    def __init__(
        self, folder: Path, *, should_stop: ShouldStop = never, memory_share: float = MEMORY_SHARE
    ) -> None:
        self._vllm = load()
        self.should_stop = should_stop
        arguments = self._vllm.EngineArgs(
            model=str(folder),
            logprobs_mode="raw_logprobs",
            max_logprobs=-1,  # no cap of its own: a request says how many it wants
            generation_config="vllm",  # sampling is as the request says, not as a file does
            gpu_memory_utilization=memory_share,
            disable_log_stats=True,
        )
        self._engine = self._vllm.LLMEngine.from_engine_args(arguments)
        model = self._engine.model_config
        self.sizes = ForeignSizes(model.get_vocab_size(), model.max_model_len, _config(folder))
        self._kinds = importlib.import_module("vllm.sampling_params").RequestOutputKind
        self._growing: dict[int, Growing] = {}
        self._cancelled: set[int] = set()
        self._tickets = 0

    @property
    def num_active(self) -> int:
        """Generations queued or running."""
        return len(self._growing)

    def submit(self, request: Request, on_token: Callable[[int, float], None] | None = None) -> int:
        """Queue a request; returns its ticket.

        Raises:
            KweekError: it can never be generated, or asks for what vLLM cannot do.
        """
        check(request, self.sizes)
        arguments = sampling_arguments(request, self.sizes)
        self._tickets += 1
        growing = Growing(request, limit_of(request, self.sizes), on_token)
        if growing.reason is None:
            params = self._vllm.SamplingParams(**arguments, output_kind=self._kinds.DELTA)
            self._engine.add_request(str(self._tickets), prompt_of(request), params)
        self._growing[self._tickets] = growing
        return self._tickets

    def cancel(self, ticket: int) -> None:
        """End a generation with what it has at the next step."""
        if ticket in self._growing and self._growing[ticket].reason is None:
            self._engine.abort_request([str(ticket)])
            self._cancelled.add(ticket)

    def step(self) -> list[tuple[int, Completion]]:
        """One step of vLLM; (ticket, completion) of the generations that ended."""
        if self._engine.has_unfinished_requests():
            for output in self._engine.step():
                ticket = int(output.request_id)
                if ticket in self._growing and ticket not in self._cancelled:
                    self._growing[ticket].take(output)
        for ticket in self._cancelled:
            self._growing[ticket].reason = "cancelled"
        self._cancelled.clear()
        ended = [ticket for ticket, growing in self._growing.items() if growing.reason is not None]
        return [(ticket, self._growing.pop(ticket).completion(self.sizes)) for ticket in ended]

    def generate(
        self, requests: Sequence[Request], on_token: Callable[[int, int], None] | None = None
    ) -> list[Completion]:
        """Complete every request; see `LanguageModel.generate`. Raises KweekError as `submit` does."""
        for request in requests:  # all of them before any is begun
            check(request, self.sizes)
            sampling_arguments(request, self.sizes)
        tickets: list[int] = []
        done: dict[int, Completion] = {}
        cancelled = False
        try:
            for index, request in enumerate(requests):
                tickets.append(self.submit(request, None if on_token is None else Told(on_token, index)))
            while len(done) < len(tickets):
                done |= self.step()
                if not cancelled and self.should_stop():
                    cancelled = True
                    for ticket in tickets:
                        self.cancel(ticket)
        except BaseException:  # a listener failed: nothing of this call may run on
            for ticket in tickets:
                self.cancel(ticket)
                self._cancelled.discard(ticket)
                self._growing.pop(ticket, None)
            raise
        return [done[ticket] for ticket in tickets]

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Natural-log probability of every token given those before it; the first has 0.0."""
        requests = [Request(ids, 0, prompt_logprobs=True) for ids in sequences if ids]
        found = iter(self.generate(requests))
        return [list(next(found).prompt_logprobs or ()) if ids else [] for ids in sequences]


def load() -> Any:
    """The module vllm.

    Raises:
        KweekError: it is not installed.
    """
    if importlib.util.find_spec("vllm") is None:
        raise KweekError(
            "the vllm backend needs a package that is not installed (vllm)",
            fix="install it: pip install 'kweek[vllm]'",
        )
    for name in ("VLLM_NO_USAGE_STATS", "DO_NOT_TRACK"):
        os.environ.setdefault(name, "1")  # nothing is told to anybody unless the user asked for it
    return importlib.import_module("vllm")


def _config(folder: Path) -> ModelConfig | None:
    """The network's shape, None where Kweek does not know the layout."""
    try:
        return load_config(folder)
    except CheckpointError:
        return None
