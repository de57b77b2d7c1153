"""The audit: every cheap way to a reward is tried before training tries it.

A verifier that can be fooled will be fooled. In the field's most used suite of verifiable tasks any string satisfied
one verifier, a constant scored 0.95 under another, and two raised on ordinary answers.
"""

from __future__ import annotations

import difflib
import math
import statistics
from collections.abc import Mapping, Sequence

from kweek.align.audit.attacks import MAX_EXPLOITABILITY, Attack, attacks, constants
from kweek.align.audit.bench import SECONDS, Answer, Bench, Call, Judge, Judgement
from kweek.align.audit.finding import Finding
from kweek.align.audit.formats import FORMATS
from kweek.align.audit.hostile import MAX_GROWTH, growth
from kweek.align.environment import Item
from kweek.errors import ConfigError, DataError
from kweek.protocols import Progress, silent

MIN_ITEMS = 10  # with fewer the best constant is luck
MAX_SECONDS = 0.05  # of a judgement, the median: a batch of 200 answers then takes as long as sampling it
MAX_ERRORS = 0.01  # share of judgements in which a verifier may report an error of its own
_SECONDS_IN_ALL = 30.0  # for judging; a slow judge is tried on fewer items, down to the least number
_JUDGEMENTS_PER_ITEM = 200  # of all attacks, constants included
_FIRST_ITEMS = 32  # on which constants are compared before the best go through all items
_FINALISTS = 5
_THREADED = 60  # judgements made at once; each is followed step by step, which is slow
_CONSTANT = "best constant"
_SLOW = "takes long (median, seconds)"

#: Limits of the findings about behaviour, by name.
BEHAVIOUR = {
    "raises": 0.0,
    "hangs or dies": 0.0,
    "returns what is no number from 0 to 1": 0.0,
    "reports errors of its own": MAX_ERRORS,
    "changes its mind about the same answer": 0.0,
    "judges otherwise in another order": 0.0,
    "judges otherwise among threads": 0.0,
    _SLOW: MAX_SECONDS,
    "fails on hostile texts": 0.0,
    "takes longer than lengths grow (exponent)": MAX_GROWTH,
}


def known_answer(item: Item) -> str:
    """A right answer: `data["reference"]` where the gold is not one itself (a schema, tests), else the gold."""
    return str(item.data.get("reference", item.gold))


def question(item: Item) -> str:
    """What an item asks, as one text."""
    return "\n".join(str(message.get("content") or "") for message in item.messages)


def audit_items(
    judge: Judge,
    items: Sequence[Item],
    *,
    limits: Mapping[str, float] | None = None,
    extra: Sequence[Attack] = (),
    odd_messages: Sequence[Answer] = (),
    seconds: float = SECONDS,
    progress: Progress = silent,
) -> list[Finding]:
    """Try to fool a judge on real items, and to break it.

    Args:
        judge: `(item, answer)` to a truth, a number or a Score; runs in a process of its own where there is `fork`.
        items: different ones, at least ten; sixty say more.
        limits: other bounds than the stated ones, by the name of a finding: what answers of few kinds must allow.
        extra: further attacks.
        odd_messages: answers that are no text, on which nothing may break.
        seconds: of one judgement; then it hangs.
        progress: told what is tried.

    Raises:
        DataError: too few items.
        ConfigError: a limit for something that is not tried, or no number.
    """
    if len(items) < MIN_ITEMS:
        raise DataError(f"{len(items)} items are too few to audit on", fix=f"give at least {MIN_ITEMS}")
    bounds = _bounds(limits or {}, extra)
    bench, pace = _paced(judge, items, seconds)
    if pace > bounds[_SLOW]:  # trying the rest would take minutes, to say the same
        return [Finding(_SLOW, pace, bounds[_SLOW], False, "nothing else was tried", "behaviour")]
    golds = [known_answer(item) for item in bench.items]
    tried = [*attacks([question(item) for item in bench.items], golds), *extra]
    findings = []
    for number, attack in enumerate(tried):
        progress(number, len(tried) + 3, attack.name)
        if (finding := _tried(bench, attack, bounds[attack.name])) is not None:
            findings.append(finding)
    progress(len(tried), len(tried) + 3, _CONSTANT)
    findings.append(_best_constant(bench, constants(golds), bounds[_CONSTANT]))
    findings += _formats(bench, golds)
    progress(len(tried) + 1, len(tried) + 3, "odd messages")
    bench.judged([(i % len(bench.items), answer) for i, answer in enumerate(odd_messages)])
    progress(len(tried) + 2, len(tried) + 3, "hostile texts")
    findings += _behaviour(bench, golds, bounds)
    rank = {"right": 0, "ignorant": 1, "hedged": 2, "behaviour": 3, "format": 4}
    return sorted(findings, key=lambda finding: rank[finding.group])


def _paced(judge: Judge, items: Sequence[Item], limit: float) -> tuple[Bench, float]:
    """A bench at the judge's pace, and seconds of a judgement; slow judges get fewer items, evenly taken."""
    trial = Bench(judge, items, limit).judged([(i, known_answer(items[i])) for i in range(MIN_ITEMS)])
    seconds = statistics.median(
        [judgement.seconds for judgement in trial if judgement.fault is None] or [0.0]
    )
    room = int(_SECONDS_IN_ALL / (_JUDGEMENTS_PER_ITEM * max(seconds, 1e-6)))
    bench = Bench(judge, items[:: math.ceil(len(items) / max(MIN_ITEMS, room))], limit)
    bench.pace(seconds)
    return bench, seconds


def _bounds(others: Mapping[str, float], extra: Sequence[Attack]) -> dict[str, float]:
    """The limit of everything that is tried."""
    bounds = {attack.name: attack.limit for attack in [*attacks([""], [""]), *extra]}
    bounds |= {_CONSTANT: MAX_EXPLOITABILITY, **BEHAVIOUR}
    for name, limit in others.items():
        if name not in bounds:
            near = difflib.get_close_matches(name, bounds, n=1)
            raise ConfigError(
                f"nothing of the name {name!r} is tried",
                where="limits",
                fix=f"write {near[0]!r}" if near else f"choose one of {', '.join(bounds)}",
            )
        if not math.isfinite(limit):
            raise ConfigError(f"{limit} is no limit", where=f"limits.{name}")
    bounds |= others
    # A list that ends in an answer is a constant to a verifier that reads the last one.
    bounds["lists of all answers"] = max(bounds["lists of all answers"], bounds[_CONSTANT])
    return bounds


def _tried(bench: Bench, attack: Attack, limit: float) -> Finding | None:
    """The finding about an attack, None where it applies to no item."""
    best: tuple[float, str] | None = None
    for variant in attack.variants:
        calls = [(i, answer) for i in range(len(bench.items)) if (answer := variant(i)) is not None]
        if not calls:
            continue
        judgements = bench.judged(calls)
        score, example = _mean(judgements), _example(calls, judgements)
        if best is None or score > best[0]:
            best = score, example
    return (
        None if best is None else Finding(attack.name, best[0], limit, attack.at_least, best[1], attack.group)
    )


def _mean(judgements: Sequence[Judgement]) -> float:
    """Of the values; a judgement that failed earned nothing."""
    return math.fsum(0.0 if math.isnan(j.value) else j.value for j in judgements) / max(1, len(judgements))


def _example(calls: Sequence[Call], judgements: Sequence[Judgement]) -> str:
    """The answer that earned most, shortened."""
    best = max(
        range(len(calls)), key=lambda i: -1.0 if math.isnan(judgements[i].value) else judgements[i].value
    )
    return _shown(calls[best][1])


def _shown(answer: Answer) -> str:
    text = answer if isinstance(answer, str) else repr(answer)
    return text[:60].encode(errors="backslashreplace").decode()


def _best_constant(bench: Bench, candidates: Sequence[str], limit: float) -> Finding:
    """The constant that earns most: all on some items, the best on all."""
    some = range(0, len(bench.items), math.ceil(len(bench.items) / _FIRST_ITEMS))
    ranked = sorted(candidates, key=lambda text: -_mean(bench.judged([(i, text) for i in some])))
    everywhere = range(len(bench.items))
    scores = {text: _mean(bench.judged([(i, text) for i in everywhere])) for text in ranked[:_FINALISTS]}
    best = max(scores, key=lambda text: scores[text])
    return Finding(_CONSTANT, scores[best], limit, False, _shown(best))


def _formats(bench: Bench, golds: Sequence[str]) -> list[Finding]:
    """How right answers fare that are written in other ways; told, never refused."""
    findings = []
    for name, write in FORMATS.items():
        calls = [(i, text) for i, gold in enumerate(golds) if gold and (text := write(gold)) is not None]
        if calls:
            judgements = bench.judged(calls)
            example = _shown(calls[0][1])
            findings.append(Finding(f"gold as {name}", _mean(judgements), 1.0, False, example, "format"))
    return findings


def _behaviour(bench: Bench, golds: Sequence[str], bounds: Mapping[str, float]) -> list[Finding]:
    """The judge as a program."""
    made = list(bench.judgements)
    faults: dict[str, list[str]] = {"raised": [], "hung": [], "died": [], "returned nonsense": []}
    for judgement in made:
        if judgement.fault is not None:
            faults[judgement.fault[0]].append(judgement.fault[1])
    own = [judgement.error for judgement in made if judgement.error is not None]
    fickle = [judgement for judgement in made if not judgement.same]
    calls = [(i, answer) for i, gold in enumerate(golds) for answer in (gold, golds[i - 1], "0")]
    straight = [judgement.value for judgement in bench.judged(calls)]
    threads = bench.among_threads(calls[:_THREADED])
    grown = growth(bench)
    bench.restart()
    turned = [judgement.value for judgement in bench.judged(calls[::-1])][::-1]
    # Judgements that failed are counted above; here only those that were made count.
    moved = [i for i, (a, b) in enumerate(zip(straight, turned, strict=True)) if a != b and a == a and b == b]
    seconds = [judgement.seconds for judgement in made if judgement.fault is None]
    found = {
        "raises": (len(faults["raised"]) / len(made), faults["raised"]),
        "hangs or dies": ((len(faults["hung"]) + len(faults["died"])) / len(made), faults["hung"] + faults["died"]),
        "returns what is no number from 0 to 1": (
            len(faults["returned nonsense"]) / len(made), faults["returned nonsense"],
        ),
        "reports errors of its own": (len(own) / len(made), own),
        "changes its mind about the same answer": (len(fickle) / len(made), []),
        "judges otherwise in another order": (len(moved) / len(calls), [_shown(calls[i][1]) for i in moved]),
        "judges otherwise among threads": (threads, []),
        _SLOW: (statistics.median(seconds or [0.0]), []),
        "fails on hostile texts": (float(len(grown.unjudged)), grown.unjudged),
        "takes longer than lengths grow (exponent)": (grown.exponent, [grown.shape]),
    }  # fmt: skip
    return [
        Finding(name, score, bounds[name], False, examples[0] if examples else "", "behaviour")
        for name, (score, examples) in found.items()
    ]
