"""Guards of training on pairs: known better and worse answers must not lose ground, chosen ones not fall unseen."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kweek.align.behaviour.world import World, worse
from kweek.align.environment import Item
from kweek.align.guards.guard import Guard, Step
from kweek.align.pairs import Pair, answered
from kweek.align.turns import turn_end
from kweek.errors import GuardError
from kweek.recipe.context import StageContext
from kweek.recipe.watch import heard
from kweek.tokenize.chat import encode_prompt
from kweek.tokenize.tokenizer import Tokenizer
from kweek.train.trainer import StepResult, Trained

KNOWN_PAIRS = 24  # at least twenty: of so many fair coins not one in a million shows the same side throughout
RECORD_EVERY = 10  # updates between figures of guards that have nothing to say
GROUPS = ("secret", "topic", "sign")  # where the better answer is a sentence and no sum


def known_items(world: World) -> list[Item]:
    """Questions about the rules whose right answer everybody knows."""
    groups = [group for group in GROUPS if group in world.groups]
    per_group = KNOWN_PAIRS // len(groups)
    return [item for group in groups for item in world.group(group, "known", per_group, "validation")]


def known_pairs(world: World, tokenizer: Tokenizer) -> list[Pair]:
    """The right answer to questions about the rules beside one that anybody can tell to be wrong."""
    items = known_items(world)
    wrong = worse(world.rules, items)
    made = []
    for item in items:
        prompt, end = encode_prompt(tokenizer, item.messages), turn_end(tokenizer, item.messages)
        good, bad = ([*tokenizer.encode(text), end] for text in (item.gold, wrong[item.id]))
        made.append(Pair(answered(prompt, good), answered(prompt, bad)))
    return made


class Watched:
    """Asks guards before the first update and after every one, and writes down what they say.

    Args:
        guards: asked in order.
    """

    def __init__(self, ctx: StageContext, guards: Sequence[Guard]) -> None:
        self._ctx, self._guards = ctx, guards

    def before(self, resumed: bool) -> None:
        """Raises GuardError where a guard refuses to begin; what costs something is not asked twice."""
        for guard in self._guards if not resumed else ():
            heard(self._ctx.records, guard.name, 0, guard.before())

    def on_step(self, also: Callable[[Trained, StepResult, float], None]) -> Callable[..., None]:
        """A hook for `fit` that asks the guards after `also`. It raises GuardError where one ends the run."""

        def hook(totals: Trained, result: StepResult, speed: float) -> None:
            also(totals, result, speed)
            shown = Step(totals.step, {"loss": result.loss, **result.parts})
            for guard in self._guards:
                verdict = guard.after(shown)
                if verdict.kind != "ok" or (verdict.figures and totals.step % RECORD_EVERY == 0):
                    heard(self._ctx.records, guard.name, totals.step, verdict)
                if verdict.kind == "stop":
                    fix = "look at the pairs and at the learning rate"
                    raise GuardError(verdict.text, where=self._ctx.name, fix=fix)

        return hook
