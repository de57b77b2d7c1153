"""llama.cpp as a peer, through the prebuilt package xllamacpp: ids, logits and greedy answers of a GGUF file."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np


class LlamaCpp:
    """A GGUF file loaded by llama.cpp, asked over its own server on the loopback interface.

    It computes as exactly as it can: one thread, no flash attention (which rounds to fp16 inside), fp32 cache.

    Args:
        package: the module xllamacpp.
        path: of the file.
        context: most tokens of prompt and answer.
    """

    def __init__(self, package: ModuleType, path: Path, context: int = 512) -> None:
        params = package.CommonParams()
        params.model.path = str(path)
        params.n_ctx, params.n_parallel = context, 1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        params.warmup, params.verbosity, params.fit_params = False, -1, False
        params.flash_attn_type = package.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.cache_type_k = params.cache_type_v = package.ggml_type.GGML_TYPE_F32
        self._server = package.Server(params)
        self._letter = self.tokenize("a")[0]

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        """Ids of a text without anything added; control tokens spelled in it count only with `special`."""
        body = {"content": text, "add_special": False, "parse_special": special}
        return self._post("/tokenize", body)["tokens"]

    def template(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The file's chat template on messages, up to where the assistant begins."""
        return self._post("/apply-template", {"messages": list(messages)})["prompt"]

    def logprobs(self, ids: Sequence[int], vocab_size: int) -> np.ndarray:
        """Natural log-probabilities (V,) of the token after `ids`."""
        # They are those before any sampler. None come when the token sampled ends the text or a half-finished
        # character, so an "a" is forced.
        answer = self._complete(ids, 1, n_probs=vocab_size, logit_bias=[[self._letter, 1e6]])
        found = answer["completion_probabilities"][0]["top_logprobs"]
        result = np.full(vocab_size, np.nan)
        for entry in found:
            result[entry["id"]] = entry["logprob"]
        return result

    def greedy(self, ids: Sequence[int], number: int) -> list[int]:
        """The likeliest continuation."""
        return self._complete(ids, number)["tokens"]

    def _complete(self, ids: Sequence[int], number: int, **options: Any) -> dict[str, Any]:
        body = {"prompt": list(ids), "n_predict": number, "temperature": 0.0, "samplers": ["temperature"]}
        return self._post("/completion", body | {"cache_prompt": True, "return_tokens": True} | options)

    def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(
            self._server.listening_address + path,
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)
