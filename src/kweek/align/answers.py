"""The same questions answered before and after a stage: which answers changed most, and by how much."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from kweek.align.environment import Environment, Item
from kweek.align.rollout import Rollout
from kweek.errors import KweekError
from kweek.protocols import LanguageModel, Message, Request
from kweek.tokenize.tokenizer import Tokenizer

#: Samples to show: as many as a reader takes in side by side.
MOST = 8


@dataclass(frozen=True)
class Answer:
    """One answer, as people read it.

    Attributes:
        prompt: what was asked.
        text: what the model wrote, with its thoughts and calls.
        reward: what the judge of the stage gives it.
        length: new tokens, results of tools among them.
        gold: the right answer, where there is one.
    """

    prompt: str
    text: str
    reward: float
    length: int
    gold: str = ""


def of_rollout(tokenizer: Tokenizer, rollout: Rollout, reward: float | None = None) -> Answer:
    """A judged rollout for people to read: what follows its prompt, without the mark that ends it.

    Args:
        reward: of another judge than the environment.
    """
    written = list(rollout.token_ids[rollout.num_prompt_tokens :])
    length = len(written)
    if written and written[-1] in tokenizer.stop_ids:
        written.pop()
    item, value = rollout.item, rollout.score.value if reward is None else reward
    return Answer(asked(item.messages), tokenizer.decode(written), value, length, item.gold)


def continued(
    model: LanguageModel, tokenizer: Tokenizer, environment: Environment, items: Sequence[Item]
) -> tuple[list[Answer], float]:
    """Answers of a model that has seen no chat, and their FLOP: it continues the prompt, its last line is judged.

    Raises:
        KweekError: an answer could not be generated.
    """
    tool = environment.interceptor(tokenizer)
    requests = [
        Request(
            [tokenizer.eos_id, *tokenizer.encode(asked(item.messages) + "\n")], environment.max_new_tokens,
            stop_ids=tokenizer.stop_ids, interceptor=tool,
        )
        for item in items
    ]  # fmt: skip
    found, flop = [], 0.0
    for item, done in zip(items, model.generate(requests), strict=True):
        if done.error is not None:
            raise KweekError(done.error)
        text = tokenizer.decode(
            [index for index in done.token_ids if index not in tokenizer.stop_ids]
        ).strip()
        reward = _judged(environment, item, text.rsplit("\n", 1)[-1])
        found.append(Answer(asked(item.messages), text, reward, len(done.token_ids), item.gold))
        flop += done.flop
    return found, flop


def _judged(environment: Environment, item: Item, answer: str) -> float:
    """What an answer earns; nothing where the judge fails, whom the audit of the stage tells of."""
    episode = environment.begin(item)
    try:
        episode.step({"role": "assistant", "content": answer})
        return episode.score().value
    except Exception:
        return 0.0


def asked(messages: Sequence[Message]) -> str:
    """A prompt for people to read: a single message as it is, several with their roles before them."""
    if len(messages) == 1:
        return str(messages[0].get("content") or "")
    return "\n".join(f"{message.get('role')}: {message.get('content') or ''}" for message in messages)


def most_changed(before: Sequence[Answer], after: Sequence[Answer], most: int = MOST) -> list[int]:
    """The places of the answers that changed most, so that neither gains nor losses are left out.

    Half of the room is for the largest gains of reward, a quarter for the largest losses, and what remains for the
    answers of unchanged reward whose words changed most. Equal changes keep the order in which they were asked.
    Empty where nothing changed.

    Raises:
        ValueError: the two are not answers to the same prompts.
    """
    require_same(before, after)
    places = range(len(before))
    gains = [b.reward - a.reward for a, b in zip(before, after, strict=True)]
    up = sorted((at for at in places if gains[at] > 0), key=lambda at: -gains[at])
    down = sorted((at for at in places if gains[at] < 0), key=lambda at: gains[at])
    worded = {at: rewording(before[at].text, after[at].text) for at in places if gains[at] == 0}
    same = sorted((at for at in worded if worded[at] > 0), key=lambda at: -worded[at])
    losses = down[: max(1, most // 4, most - len(up) - len(same))]
    wins = up[: max(most // 2, most - len(losses) - len(same))]
    return [*wins, *losses, *same[: most - len(wins) - len(losses)]][:most]


def rewording(before: str, after: str) -> float:
    """Share of the words of two texts that the other does not have: 0 for the same words, 1 for none in common."""
    ours, theirs = Counter(before.split()), Counter(after.split())
    total = ours.total() + theirs.total()
    return 1 - 2 * (ours & theirs).total() / total if total else 0.0


def require_same(before: Sequence[Answer], after: Sequence[Answer]) -> None:
    """Raises ValueError unless the two are answers to the same prompts in the same order."""
    if [answer.prompt for answer in before] != [answer.prompt for answer in after]:
        raise ValueError(f"{len(before)} answers before and {len(after)} after are not of the same prompts")
