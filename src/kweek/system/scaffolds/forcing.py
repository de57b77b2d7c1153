"""Budget forcing: thoughts of at least and at most so many tokens (Muennighoff et al. 2025, arXiv 2501.19393).

Where the thinking ends too early its end is taken back and "Wait" is written instead; where it takes too long it is
ended. Known: most of the published curve comes from the cutting, and "Wait" lets a model waver (arXiv 2507.14419).
"""

from __future__ import annotations

from kweek.errors import KweekError
from kweek.system.context import Context
from kweek.system.scaffolds.asking import Way
from kweek.system.task import Answer, Task
from kweek.tokenize.chat import END_THINK

MOST_WAITS = 8  # a model that ends its thoughts at once each time would wait for ever


def budget_forcing(
    context: Context,
    task: Task,
    *,
    least: int = 0,
    most: int = 512,
    wait: str = " Wait",
    way: Way | None = None,
) -> Answer:
    """One answer after thoughts of `least` to `most` tokens.

    Args:
        context, task: as for every scaffold.
        least, most: tokens of the thoughts; up to 512 in all because longer ones need more than one page of context.
        wait: what is written where the thoughts end too early.
        way: how to ask for the answer after the thoughts.

    Raises:
        KweekError: the model has no tokens for its thoughts.
    """
    way = way or Way(temperature=0.0)
    role = context.role(way.role)
    closing = role.tokenizer.special.get(END_THINK)
    if closing is None:
        raise KweekError("this model has no thoughts that could be forced", fix="use chain_of_thought")
    prompt = context.encode(way.role, task.messages, think=True)
    thoughts: list[int] = []
    waits = 0
    while len(thoughts) < most:
        part = context.generate(
            way.role, [*prompt, *thoughts], max_new_tokens=most - len(thoughts),
            temperature=way.temperature, stop_ids=[closing],
        )[0]  # fmt: skip
        ends = [*role.tokenizer.stop_ids, closing]
        ended = bool(part.token_ids) and part.token_ids[-1] in ends
        thoughts += part.token_ids[:-1] if ended else part.token_ids
        if not ended or len(thoughts) >= least or waits == MOST_WAITS:
            break
        thoughts += role.tokenizer.encode(wait)
        waits += 1
    final = context.generate(
        way.role,
        [*prompt, *thoughts, closing],
        max_new_tokens=way.max_new_tokens,
        temperature=way.temperature,
    )[0]
    data = {"thought_tokens": len(thoughts), "waits": waits}
    return Answer(way.answer_of(final) or final.text, finished=final.finished, data=data)
