"""Stage `teach`: a larger model answers the exercises of a domain, and a pupil learns from what was right.

The teacher is a model of the run or one behind any OpenAI-compatible endpoint. Text passes from one to the other, so
the tokenizers may differ. Records: "left_out" {reason, exercises}, "note" {text}.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from kweek.align.domain import Domain, Exercise, load_domain, with_answers
from kweek.align.environment import Environment
from kweek.align.teacher_answers import ask, learn_text, seed_of
from kweek.compute.hardware import Peak
from kweek.engine.endpoint.client import EndpointClient
from kweek.engine.endpoint.model import Answer, EndpointModel
from kweek.engine.engine import Engine
from kweek.errors import ConfigError, DataError
from kweek.protocols import Message
from kweek.recipe.context import Estimate, Role, StageConfig, StageContext, setting
from kweek.recipe.materials import load
from kweek.tokenize.tokenizer import Tokenizer

TOKENS_PER_ANSWER = 200  # prompt and answer; for estimates only
_AT_ONCE = 256


class Config(StageConfig):
    """Settings of the stage."""

    roles: ClassVar[Mapping[str, Role]] = {
        "domain": Role("exercises to answer"),
        "teacher": Role("a model that answers, unless one behind an endpoint does", required=False),
        "pupil": Role("whose tokenizer is used to speak to an endpoint", required=False),
    }

    endpoint: str | None = setting(
        None,
        doc="address of an OpenAI-compatible endpoint, as http://127.0.0.1:8000/v1",
        reason="the input `teacher`",
    )
    model: str | None = setting(None, doc="the model there", reason="the only one that the endpoint lists")
    key_variable: str = setting(
        "OPENAI_API_KEY",
        doc="environment variable that holds the key",
        reason="keys do not belong into recipes",
    )
    questions: int = setting(1024, doc="exercises to ask at most", reason="an hour of a small teacher", ge=1)
    samples: int = setting(
        1, doc="answers to each", reason="new questions teach more than second answers", ge=1
    )
    temperature: float = setting(0.7, doc="of sampling", reason="some variety, few slips", ge=0)
    max_new_tokens: int | None = setting(
        None, doc="of an answer", reason="as in the domain's examination", ge=1
    )
    only_right: bool = setting(
        True, doc="take only answers that the domain's judge finds right", reason="wrong ones teach mistakes"
    )


def estimate(config: Config, machine_peak: Peak, inputs: Mapping[str, Any]) -> Estimate:
    """Generation on this machine; a remote teacher costs time only, which nobody knows beforehand."""
    count = min(config.questions, inputs["domain"].get("num_train", config.questions)) * config.samples
    values = dict(inputs["domain"]) | {"num_train": count}
    if "teacher" not in inputs:
        return Estimate(0.0, count * 0.5, 5e8, values)
    teacher = inputs["teacher"]
    flop = 2.2 * teacher["num_parameters"] * count * TOKENS_PER_ANSWER
    return Estimate(flop, flop / teacher["flop_per_second"], 8.0 * teacher["num_parameters"] + 1e9, values)


def run(ctx: StageContext) -> None:
    """Ask, judge, keep."""
    config: Config = ctx.config
    ctx.records.rewind(lambda record: False)
    domain = load_domain(ctx.inputs["domain"].path)
    asked = list(domain.exercises["train"][: config.questions])
    exercises = [one for one in asked for _ in range(config.samples)]
    answers = _answers(ctx, domain, exercises)
    environment = domain.environment()
    by_question = {one.question: one for one in exercises}

    def right(chat: Sequence[Message], message: Message) -> bool:
        return _is_right(environment, by_question[str(chat[-1]["content"])], message)

    lesson = learn_text([one.messages for one in exercises], answers, right if config.only_right else None)
    for reason, count in sorted(lesson.left_out.items()):
        ctx.records.append("left_out", reason=reason, exercises=count)
    if not lesson.chats:
        raise DataError(
            "the teacher gave no answer to learn from", where=domain.name, fix="see the reasons above"
        )
    learnt = [
        replace(by_question[str(chat[-2]["content"])], messages=tuple(chat[:-1]), answer=chat[-1])
        for chat in lesson.chats
    ]
    ctx.records.append("note", text=f"{len(learnt)} of {len(answers)} answers are learnt from")
    with_answers(domain, learnt).save(ctx.out)
    ctx.out.metrics.update(
        name=domain.name,
        num_train=len(learnt),
        asked=len(answers),
        num_read=sum(answer.num_prompt_tokens for answer in answers),
        num_written=sum(answer.num_new_tokens for answer in answers),
    )


def _is_right(environment: Environment, exercise: Exercise, message: Message) -> bool:
    episode = environment.begin(exercise.item)
    episode.step(message)
    score = episode.score()
    return score.error is None and score.value == 1.0


def _answers(ctx: StageContext, domain: Domain, exercises: Sequence[Exercise]) -> list[Answer]:
    config: Config = ctx.config
    most = config.max_new_tokens or domain.max_new_tokens
    found: list[Answer] = []
    endpoint = teacher = None
    if config.endpoint is not None:
        endpoint = remote(config.endpoint, config.model, config.key_variable, _pupil(ctx))
    elif "teacher" in ctx.inputs:
        network, tokenizer = load(ctx.inputs["teacher"])
        teacher = Engine(network, threads=ctx.threads)
        tool = domain.environment().interceptor(tokenizer)
    else:
        raise ConfigError(
            "there is no teacher", where="endpoint", fix="give an endpoint or the input teacher"
        )
    for start in range(0, len(exercises), _AT_ONCE):
        ctx.progress(start, len(exercises), "the teacher answers")
        part = [one.messages for one in exercises[start : start + _AT_ONCE]]
        key = f"teach/{ctx.seed}/{start}"
        if endpoint is not None:
            seeds = [seed_of(f"{key}/{number}", chat) for number, chat in enumerate(part)]
            found += endpoint.answer(part, most, temperature=config.temperature, seeds=seeds)
        else:
            assert teacher is not None
            found += ask(
                teacher, tokenizer, part, most, temperature=config.temperature, key=key, interceptor=tool
            )  # fmt: skip
    if teacher is not None:
        tokens = sum(answer.num_prompt_tokens + answer.num_new_tokens for answer in found)
        ctx.ledger.add("teach", tokens * network.config.num_flops_per_token(128), "fp32", tokens=tokens)
    return found


def _pupil(ctx: StageContext) -> Path:
    if "pupil" not in ctx.inputs:
        raise ConfigError("speaking to an endpoint takes the input pupil", where="inputs", fix="add it")
    return ctx.inputs["pupil"].path


def remote(url: str, model: str | None, key_variable: str, folder: Path) -> EndpointModel:
    """The model behind an endpoint, spoken to in text; the tokenizer, of the folder, is not used for that."""
    client = EndpointClient(url, api_key=os.environ.get(key_variable))
    return EndpointModel(client, Tokenizer.load(folder), model)
