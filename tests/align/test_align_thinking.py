"""Thinking: told from answering, and held to a budget."""

from typing import ClassVar

import pytest
from policy_world import small_tokenizer

from kweek.align.rollout import Rollout
from kweek.align.sampling import sample
from kweek.align.thinking import marks, thinking_of, within
from kweek.align.word_problems import WordProblems
from kweek.errors import ConfigError
from kweek.protocols import Completion, Score

TOKENIZER = small_tokenizer()
MARKS = marks(TOKENIZER)
STOP = TOKENIZER.special["<|im_end|>"]
WORLD = WordProblems(calculator=False, levels=(2,))


def rollout(answer):
    item = WORLD.items("key", 1, "test")[0]
    ids = [5, 6, 7, *answer]
    return Rollout(item, ids, 3, [True] * len(ids), [0.0] * len(ids), (), Score(1.0, True), "stop", 0.0)


@pytest.mark.parametrize(
    ("answer", "thinking"),
    [
        ([9, STOP], []),
        ([MARKS.open, 8, 9, MARKS.close, 4, STOP], [8, 9]),
        ([8, 9, MARKS.close, 4, STOP], [8, 9]),  # opened by the prompt, or not at all
        ([MARKS.open, MARKS.close, 4, STOP], []),
        ([MARKS.open, 8, 9], [8, 9]),  # never closed
        ([MARKS.open, 8, MARKS.close, 9, MARKS.close, 4], [8, MARKS.close, 9]),
        ([MARKS.close, 4], []),
        ([], []),
    ],
)
def test_what_precedes_the_last_closing_mark_is_thinking(answer, thinking):
    assert thinking_of(rollout(answer), MARKS) == thinking


class Thinker:
    """Thinks two tokens and the right answer; where its thinking was cut, it answers the last token of it."""

    def __init__(self, items):
        self.prompts, self.items = [], {item.messages[0]["content"]: item for item in items}

    def generate(self, requests, on_token=None):
        done = []
        for request in requests:
            self.prompts.append(list(request.prompt_ids))
            begun = list(request.prompt_ids)
            if MARKS.close in begun:  # closed for it: it answers with the last token of what it was let think
                thought = begun[len(begun) - begun[::-1].index(MARKS.open) : -1]
                ids = [*(thought[-1:] or TOKENIZER.encode("0")), STOP]
            else:
                text = TOKENIZER.decode(begun)
                item = next(item for asked, item in self.items.items() if asked in text)
                ids = [
                    MARKS.open,
                    40,
                    41,
                    *TOKENIZER.encode(item.gold),
                    MARKS.close,
                    *TOKENIZER.encode(item.gold),
                    STOP,
                ]
            done.append(Completion(ids, [True] * len(ids), [0.0] * len(ids), "stop", len(begun), 0.0))
        return done


def test_a_budget_cuts_what_is_longer_and_leaves_what_is_not():
    items = WORLD.items("key", 12, "test")
    model = Thinker(items)
    greedy = [group[0] for group in sample(model, TOKENIZER, WORLD, items, samples=1, key="k")]
    assert all(found.score.value == 1.0 for found in greedy)
    longest = max(len(thinking_of(found, MARKS)) for found in greedy)
    model.prompts.clear()
    assert within(model, TOKENIZER, WORLD, greedy, longest) == [1.0] * 12 and not model.prompts
    assert (
        sum(within(model, TOKENIZER, WORLD, greedy, 2)) == 0.0
    )  # the third token of thinking was the answer's first
    assert (
        all(prompt[-4:] == [MARKS.open, 40, 41, MARKS.close] for prompt in model.prompts)
        and len(model.prompts) == 12
    )
    model.prompts.clear()
    within(model, TOKENIZER, WORLD, greedy, 0)
    assert all(prompt[-2:] == [MARKS.open, MARKS.close] for prompt in model.prompts)


def test_a_forced_beginning_is_the_models_prompt_and_not_its_choice():
    items = WORLD.items("key", 3, "test")
    model = Thinker(items)
    groups = sample(
        model, TOKENIZER, WORLD, items, samples=2, key="k", beginning=lambda item: (MARKS.open, MARKS.close)
    )
    for group in groups:
        for found in group:
            assert found.token_ids[found.num_prompt_tokens - 2 : found.num_prompt_tokens] == [*MARKS]
            assert not any(found.sampled[: found.num_prompt_tokens])
            assert found.messages[-1]["content"] == "0"


def test_a_tokenizer_without_marks_is_refused():
    class Bare:
        special: ClassVar[dict[str, int]] = {}

    with pytest.raises(ConfigError, match="no token"):
        marks(Bare())
