"""The formats that chats and judgements are written in: how each is recognised, and how a record becomes a row."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kweek.data.chats import Conversation, Judgement, Preference, Row, Task
from kweek.data.chats_messages import Note, Plain, read_messages, read_tools, weight_of, words
from kweek.data.chats_report import BadRow
from kweek.data.chats_rules import check_answer, check_prompt, check_turns, up_to_last_answer

Raw = Mapping[str, Any]

#: The record that judgements by a person are kept as; see `kweek.system.blind`.
LABELLED = "pair"


@dataclass(frozen=True)
class Format:
    """One way of writing things down.

    Attributes:
        name: what it is called on the command line.
        row: what comes of a record, in words.
        looks: what its records look like, in words.
        matches: whether a record looks like that.
        parse: the row of a record; raises BadRow.
    """

    name: str
    row: str
    looks: str
    matches: Callable[[Raw], bool]
    parse: Callable[[Raw, Note], Row]


# -- conversations


def _conversation(messages: list[Plain], record: Raw, note: Note) -> Conversation:
    kept = up_to_last_answer(messages)
    if len(kept) < len(messages):
        note("turns after the last answer left out")
    check_turns(kept)
    tools = read_tools(record.get("tools") or record.get("functions"))
    return Conversation(tuple(kept), tuple(tools), _weight(record))


def _messages(record: Raw, note: Note) -> Row:
    return _conversation(read_messages(record.get("messages"), note), record, note)


def _sharegpt(record: Raw, note: Note) -> Row:
    turns = record.get("conversations") or record.get("conversation")
    messages = read_messages(turns, note)
    return _conversation([*_system(record), *messages], record, note)


def _alpaca(record: Raw, note: Note) -> Row:
    asked = _first(record, "instruction")
    if extra := record.get("input"):
        asked = f"{asked}\n\n{words(extra, 'input')}"
    messages = _system(record)
    history = record.get("history") or []
    for pair in history if isinstance(history, list) else [None]:
        if not isinstance(pair, list) or len(pair) != 2:
            raise BadRow("a history that is no list of pairs")
        messages += [_user(words(pair[0], "history")), _assistant(words(pair[1], "history"))]
    messages += [_user(asked), *_answer(_any(record, "output", "response"), note)]
    return _conversation(messages, record, note)


def _completion(record: Raw, note: Note) -> Row:
    messages = [*_prompt(record, note), *_answer(_any(record, "completion", "response"), note)]
    return _conversation(messages, record, note)


def _question(record: Raw, note: Note) -> Row:
    messages = [*_system(record), _user(_first(record, "question")), *_answer(record.get("answer"), note)]
    return _conversation(messages, record, note)


# -- preferences


def _preference(record: Raw, note: Note) -> Row:
    chosen, rejected = _answer(record.get("chosen"), note), _answer(record.get("rejected"), note)
    prompt = _prompt(record, note) if _has_prompt(record) else []
    common = _common(chosen, rejected)
    if common:  # whole chats instead of answers
        if prompt and prompt[-1]["content"] != next(
            (m["content"] for m in reversed(chosen[:common]) if m["role"] == "user"), None
        ):
            raise BadRow("prompt and answers belong to different questions")
        prompt = [m for m in prompt if m["role"] == "system" and chosen[0]["role"] != "system"] + chosen[
            :common
        ]
        chosen, rejected = chosen[common:], rejected[common:]
    return _pair(prompt, chosen, rejected, _margin(record), record)


def _transcripts(record: Raw, note: Note) -> Row:
    chosen, rejected = _transcript(_any(record, "chosen")), _transcript(_any(record, "rejected"))
    common = _common(chosen, rejected)
    return _pair(chosen[:common], chosen[common:], rejected[common:], _margin(record), record)


def _ultrafeedback(record: Raw, note: Note) -> Row:
    scored = []
    completions = record.get("completions")
    for completion in completions if isinstance(completions, list) else ():
        text = completion.get("response") if isinstance(completion, Mapping) else None
        score: Any = completion.get("overall_score") if isinstance(completion, Mapping) else None
        if isinstance(text, str) and _is_number(score):
            scored.append((float(score), text))
    if len(scored) < 2:
        raise BadRow("fewer than two answers with a score")
    (best, better), (worst, worse) = max(scored, key=_score), min(scored, key=_score)
    if best == worst:
        raise BadRow("a tie", "all answers have one score")
    prompt = [*_system(record), _user(words(_any(record, "instruction", "prompt"), "instruction"))]
    return _pair(prompt, _answer(better, note), _answer(worse, note), best - worst, record)


def _labelled(record: Raw, note: Note) -> Row:
    if record.get("repeat"):
        raise BadRow("judged a second time")
    if record.get("chosen") is None or record.get("rejected") is None:
        raise BadRow(
            "a tie" if record.get("choice") == "tie" or record.get("same") else "passed over by the person"
        )
    return _preference(record, note)


def _pair(
    prompt: list[Plain], chosen: list[Plain], rejected: list[Plain], margin: float | None, record: Raw
) -> Preference:
    if margin is not None and margin < 0:
        raise BadRow("the chosen answer has the lower score", f"by {-margin:g}")
    if chosen == rejected:
        raise BadRow("chosen and rejected are the same")
    check_prompt(prompt)
    check_answer(prompt, chosen)
    check_answer(prompt, rejected)
    tools = read_tools(record.get("tools"))
    return Preference(tuple(prompt), tuple(chosen), tuple(rejected), tuple(tools), margin, _weight(record))


# -- judgements and tasks


def _judgement(record: Raw, note: Note) -> Row:
    prompt, answer = _prompt(record, note), _answer(_any(record, "completion", "response"), note)
    label = record.get("label")
    if label not in (True, False, 0, 1):
        raise BadRow("a label that is neither true nor false", repr(label)[:40])
    check_prompt(prompt)
    check_answer(prompt, answer)
    tools = read_tools(record.get("tools"))
    return Judgement(tuple(prompt), tuple(answer), bool(label), tuple(tools), _weight(record))


def _task(record: Raw, note: Note) -> Row:
    prompt = _prompt(record, note)
    if prompt and prompt[-1]["role"] == "assistant":
        raise BadRow("a task that holds its answer already")
    check_prompt(prompt)
    data = record.get("data") or record.get("extra_info") or {}
    if not isinstance(data, Mapping):
        raise BadRow("a value that is no object", "data")
    data, verifier = dict(data), record.get("verifier")
    if isinstance(verifier, Mapping):  # with options; tables fill in what a row does not have
        data["verifier"] = {name: value for name, value in verifier.items() if value is not None}
        verifier = ""
    elif not verifier:
        verifier = record.get("dataset") or record.get("data_source") or ""
    if record.get("reference") is not None:
        data["reference"] = words(record["reference"], "reference")
    level = record.get("level")
    return Task(
        tuple(prompt),
        _gold(record),
        words(verifier, "verifier"),
        "" if level is None else str(level),
        data,
        tuple(read_tools(record.get("tools"))),
    )


def _gold(record: Raw) -> str:
    held = record.get("reward_model")
    value = record.get(
        "gold", record.get("ground_truth", held.get("ground_truth") if isinstance(held, Mapping) else None)
    )
    if value is None:
        value = record.get("answer")
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise BadRow("a right answer that is no text", type(value).__name__)
    return words(str(value), "gold")


# -- what the parsers share


def _user(text: str) -> Plain:
    return {"role": "user", "content": text}


def _assistant(text: str) -> Plain:
    return {"role": "assistant", "content": text}


def _system(record: Raw) -> list[Plain]:
    text = record.get("system") or record.get("system_prompt")
    return [{"role": "system", "content": words(text, "system")}] if text else []


def _has_prompt(record: Raw) -> bool:
    return any(record.get(key) for key in ("prompt", "messages", "question", "instruction"))


def _prompt(record: Raw, note: Note) -> list[Plain]:
    """The prompt as messages, from text or from messages."""
    value = _any(record, "prompt", "messages", "question", "instruction")
    return [*_system(record), *([_user(value)] if isinstance(value, str) else read_messages(value, note))]


def _answer(value: Any, note: Note) -> list[Plain]:
    """An answer as messages, from text, one message or several."""
    if value is None:
        raise BadRow("no answer in the chat")
    if isinstance(value, str):
        value = [_assistant(value)]
    elif isinstance(value, Mapping) and isinstance(value.get("content"), str):
        value = [value]
    return read_messages(value, note)


def _first(record: Raw, key: str) -> str:
    if record.get(key) is None:
        raise BadRow(f"no {key!r}")
    return words(record[key], key)


def _any(record: Raw, *keys: str) -> Any:
    """The value of the first key that is there; text is checked."""
    for key in keys:
        if record.get(key) is not None:
            return words(record[key], key) if isinstance(record[key], str) else record[key]
    raise BadRow(f"no {keys[0]!r}")


def _weight(record: Raw) -> float:
    value = record.get("weight")
    return 1.0 if value is None else weight_of(value, "the record")


def _margin(record: Raw) -> float | None:
    """How much better the chosen answer is, where the record has scores."""
    if _is_number(record.get("margin")):
        return float(record["margin"])
    pairs = (
        ("score_chosen", "score_rejected"),
        ("chosen_score", "rejected_score"),
        ("chosen-rating", "rejected-rating"),
    )
    for better, worse in pairs:
        if _is_number(record.get(better)) and _is_number(record.get(worse)):
            return float(record[better]) - float(record[worse])
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")


def _score(scored: tuple[float, str]) -> float:
    return scored[0]


def _common(a: Sequence[Plain], b: Sequence[Plain]) -> int:
    """Number of messages that two chats begin with alike; at least the last of each is its answer."""
    limit = min(len(a), len(b)) - 1
    return next((i for i in range(limit) if a[i] != b[i]), max(limit, 0))


_TURN = re.compile(r"\n\n(Human|Assistant):")


def _transcript(value: Any) -> list[Plain]:
    """Messages of a text with "Human:" and "Assistant:" before every turn."""
    parts = _TURN.split(words(value, "a transcript"))
    if parts[0].strip() or len(parts) < 3:
        raise BadRow("no messages", "a transcript that does not begin with Human: or Assistant:")
    makes = {"Human": _user, "Assistant": _assistant}
    return [makes[who](text.strip()) for who, text in zip(parts[1::2], parts[2::2], strict=True)]


def _is_text(record: Raw, *keys: str) -> bool:
    return any(isinstance(record.get(key), str) for key in keys)


def _is_transcript(record: Raw) -> bool:
    return all(
        isinstance(record.get(k), str) and record[k].startswith("\n\nHuman:") for k in ("chosen", "rejected")
    )


_GOLD = frozenset({"gold", "ground_truth", "verifier", "reward_model"})

#: All formats, the most particular first, as they are tried.
FORMATS = {
    form.name: form
    for form in (
        Format(
            "labels", "preference", "what `kweek label` and `kweek chat --blind` keep",
            lambda r: r.get("kind") == LABELLED and "order" in r, _labelled,
        ),
        Format(
            "ultrafeedback", "preference", "instruction, completions: [{response, overall_score}]",
            lambda r: isinstance(r.get("completions"), list), _ultrafeedback,
        ),
        Format(
            "transcripts", "preference", "chosen, rejected as \"\\n\\nHuman: ...\\n\\nAssistant: ...\"",
            _is_transcript, _transcripts,
        ),
        Format(
            "preference", "preference", "prompt, chosen, rejected as text or messages",
            lambda r: "chosen" in r and "rejected" in r, _preference,
        ),
        Format(
            "judgement", "judgement", "prompt, completion, label",
            lambda r: "label" in r and _has_prompt(r) and ("completion" in r or "response" in r), _judgement,
        ),
        Format(
            "task", "task", "prompt or messages, gold, and perhaps verifier, data, level",
            lambda r: _has_prompt(r) and bool(_GOLD & set(r)), _task,
        ),
        Format(
            "messages", "conversation", "messages: [{role, content}], and perhaps tools",
            lambda r: isinstance(r.get("messages"), (list, Mapping)), _messages,
        ),
        Format(
            "sharegpt", "conversation", "conversations: [{from, value}], and perhaps system, tools",
            lambda r: any(isinstance(r.get(k), (list, Mapping)) for k in ("conversations", "conversation")), _sharegpt,
        ),
        Format(
            "alpaca", "conversation", "instruction, input, output, and perhaps system, history",
            lambda r: _is_text(r, "instruction") and _is_text(r, "output", "response"), _alpaca,
        ),
        Format(
            "completion", "conversation", "prompt, completion as text or messages",
            lambda r: _has_prompt(r) and ("completion" in r or "response" in r), _completion,
        ),
        Format(
            "question", "conversation", "question, answer",
            lambda r: _is_text(r, "question") and _is_text(r, "answer"), _question,
        ),
        Format(
            "prompt", "task", "prompt as text or messages, and no answer",
            lambda r: isinstance(r.get("prompt"), (str, list)), _task,
        ),
    )
}  # fmt: skip


def detect(record: Any) -> Format | None:
    """The format that a record looks like, None for an unknown one."""
    if not isinstance(record, Mapping):
        return None
    return next((form for form in FORMATS.values() if form.matches(record)), None)
