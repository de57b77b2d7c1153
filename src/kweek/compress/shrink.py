"""The smallest model that is good enough: candidates in order of size, examined until the matter is decided.

Each is asked questions in growing numbers, and given up as soon as an upper bound lies below the target; the first
whose lower bound reaches it is taken. All bounds together hold with 95%: several candidates looked at several times
share what may go wrong by chance (Bonferroni), else the smallest would be the luckiest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from scipy import stats

from kweek.errors import ConfigError
from kweek.protocols import ShouldStop, never

ERROR = 0.05  # that some bound of the search is wrong
LOOKS = (50, 100, 200, 400, 800, 1600)  # questions after which a verdict is sought
Verdict = Literal["meets", "misses", "open"]
M = TypeVar("M")


@dataclass(frozen=True)
class Candidate(Generic[M]):
    """A model that could be made.

    Attributes:
        name: for people: "20 layers, 4 bits".
        num_bytes: of its weights on disk, known before it is made.
        make: makes it.
    """

    name: str
    num_bytes: int
    make: Callable[[], M]


@dataclass(frozen=True)
class Judged:
    """What became of a candidate.

    Attributes:
        name, num_bytes: which.
        right, asked: questions; fewer asked where the matter was clear.
        lo, hi: bounds of its share of right answers.
        verdict: `meets`, the lower bound reaches the target; `misses`, the upper one does not; `open`, neither.
    """

    name: str
    num_bytes: int
    right: int
    asked: int
    lo: float
    hi: float
    verdict: Verdict


@dataclass(frozen=True)
class Search(Generic[M]):
    """The outcome.

    Attributes:
        judged: every candidate looked at, the smallest first.
        found: the model that is good enough, None where none is.
    """

    judged: list[Judged]
    found: M | None


def smallest(
    candidates: Sequence[Candidate[M]],
    examine: Callable[[M, int, int], Sequence[bool]],
    num_questions: int,
    target: float,
    *,
    on_judged: Callable[[Judged], None] = lambda judged: None,
    should_stop: ShouldStop = never,
) -> Search[M]:
    """Look for the smallest candidate whose lower bound reaches the target.

    Args:
        candidates: in any order.
        examine: asks a model the questions from one number to another; right or wrong one by one.
        num_questions: that there are.
        target: share of right answers, above 0 and below 1.
        on_judged: told of each candidate.

    Raises:
        ConfigError: a target that no number of right answers could show, or no candidate.
    """
    looks = [look for look in LOOKS if look < num_questions] + [num_questions]
    if not candidates:
        raise ConfigError("there is nothing to choose from", fix="give a model and some bits")
    error = ERROR / (2 * len(looks) * len(candidates))
    best = bounds(num_questions, num_questions, error)[0]
    if not 0 < target <= best:
        raise ConfigError(
            f"{num_questions} right answers of {num_questions} would show {best:.3f} at least, and no more",
            where="--target",
            fix=f"give a target above 0 and at most {best:.2f}, or more questions",
        )
    judged = []
    for candidate in sorted(candidates, key=lambda one: one.num_bytes):
        if should_stop():
            break
        model = candidate.make()
        result = _judge(candidate, model, examine, looks, target, error)
        judged.append(result)
        on_judged(result)
        if result.verdict == "meets":
            return Search(judged, model)
    return Search(judged, None)


def _judge(
    candidate: Candidate[M],
    model: M,
    examine: Callable[[M, int, int], Sequence[bool]],
    looks: Sequence[int],
    target: float,
    error: float,
) -> Judged:
    right = asked = 0
    lo, hi = 0.0, 1.0
    verdict: Verdict = "open"
    for look in looks:
        right += sum(examine(model, asked, look))
        asked = look
        lo, hi = bounds(right, asked, error)
        if lo >= target or hi < target:
            verdict = "meets" if lo >= target else "misses"
            break
    return Judged(candidate.name, candidate.num_bytes, right, asked, lo, hi, verdict)


def bounds(right: int, asked: int, error: float) -> tuple[float, float]:
    """Exact lower and upper bound of a share, each wrong with at most `error` (Clopper & Pearson 1934)."""
    lo = float(stats.beta.ppf(error, right, asked - right + 1)) if right else 0.0
    hi = float(stats.beta.isf(error, right + 1, asked - right)) if right < asked else 1.0
    return lo, hi
