"""Problems with verifiable answers: short stories about counting, told in many wordings, solved step by step.

A problem is one to four operations on a number that belongs to somebody, told in sentences drawn from a
grammar of openings, events, distractors and questions. Every problem is a pure function of a key, so any
number of them exists and none is stored. The split is by the hash of the question's text, never by a seed:
the same story met under another key falls on the same side.

Some phrasings are kept out of training altogether (`wording="unseen"`), so that an evaluation can say how
far the model carries over to sentences it never read.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

Split = Literal["train", "validation", "test"]
Style = Literal["direct", "reasoned", "tool"]
Wording = Literal["seen", "unseen"]

MAX_VALUE = 999  # three digits: the longest number a model of this size is asked to copy
MAX_STEPS = 4  # more steps are an out-of-distribution probe, not part of the task

NAMES = {
    "he": ("Sam", "Leo", "Ben", "Tom", "Max", "Jan", "Adam", "Omar", "Finn", "Noah"),
    "she": ("Eva", "Mia", "Lea", "Zoe", "Ana", "Ida", "Nora", "Lily", "Emma", "Sara"),
}
THINGS = (
    "coins", "hats", "cups", "books", "apples", "shells", "stamps", "cards", "pens", "plums",
    "beads", "keys", "bricks", "eggs", "bulbs", "seeds", "maps", "nuts", "buttons", "marbles",
)  # fmt: skip

# {N} subject (a name or a pronoun, at the start of a sentence), {n} the number, {t} the things, {O} another person.
OPENINGS = (
    "{N} has {n} {t}.",
    "{N} owns {n} {t}.",
    "{N} starts with {n} {t}.",
    "There are {n} {t} on the table of {N}.",
    "{N} keeps {n} {t} in a box.",
    "At first {N} has {n} {t}.",
    "In the bag of {N} there are {n} {t}.",
    "{N} counts {n} {t}.",
)
ADD = (
    "{N} finds {n} more.",
    "{N} buys {n} more {t}.",
    "{N} gets {n} {t} from {O}.",
    "{O} gives {N} {n} {t}.",
    "Then {n} more arrive.",
    "{N} picks up {n} {t}.",
    "{O} adds {n}.",
    "{N} wins {n} {t} in a game.",
    "After that {N} collects {n} more.",
    "{N} receives {n} more {t}.",
)
SUBTRACT = (
    "{N} gives away {n}.",
    "{N} loses {n} {t}.",
    "{N} sells {n} {t}.",
    "{O} takes {n} away.",
    "{N} gives {n} {t} to {O}.",
    "Then {n} of them break.",
    "{N} throws away {n} {t}.",
    "{N} hands {n} to {O}.",
    "{O} borrows {n} {t}.",
    "After that {n} go missing.",
)
MULTIPLY = (
    "Now {N} has {n} times as many.",
    "The number of {t} grows {n} times as large.",
    "Each of the {t} turns into {n}.",
    "{N} ends up with {n} times that number.",
    "Soon there are {n} times as many {t}.",
    "A wizard multiplies the {t} by {n}.",
)
DISTRACTORS = (
    "{O} has {n} {d}.",
    "The shop of {O} sold {n} {d}.",
    "{O} is {n} years old.",
    "It is day {n} of the month.",
)
QUESTIONS = (
    "How many {t} does {N} have now?",
    "How many {t} are there now?",
    "How many {t} are left?",
    "How many {t} does {N} have in the end?",
    "What is the number of {t} now?",
    "How many does {N} have?",
)

SUM_FORMS = ("What is {e}?", "{e}=", "How much is {e}?", "Compute {e}.", "Please work out {e}.")

# Never trained on: the held-out wording of the evaluation.
UNSEEN = {
    "add": (
        "{N} discovers another {n} of them.",
        "Luckily {O} brings {n} extra {t}.",
        "{n} {t} join the pile.",
    ),
    "subtract": ("{N} drops {n} in the river.", "A thief steals {n} {t}.", "{n} {t} vanish overnight."),
    "multiply": ("A machine makes {n} out of every one.", "The pile becomes {n} times bigger."),
}


@dataclass(frozen=True)
class Step:
    """One operation of the solution: `left` `sign` `right` = `value`."""

    left: int
    sign: str
    right: int
    value: int

    @property
    def expression(self) -> str:
        return f"{self.left}{self.sign}{self.right}"


@dataclass(frozen=True)
class Problem:
    """A question in words, its solution in steps, and its answer as a string of digits."""

    question: str
    steps: tuple[Step, ...]
    answer: str
    kind: Literal["story", "sum"] = "story"

    @property
    def level(self) -> int:
        """Number of operations, the difficulty that results are broken down by."""
        return len(self.steps)

    @property
    def id(self) -> str:
        return hashlib.sha256(self.question.encode()).hexdigest()[:32]

    @property
    def split(self) -> Split:
        """One sixteenth each is held out for validation and for test, by the hash of the question's text."""
        bucket = int(self.id[:8], 16) % 16
        return "test" if bucket == 0 else "validation" if bucket == 1 else "train"


def _rng(*key: object) -> random.Random:
    """A generator keyed by content, so that neighbouring keys share nothing (unlike `Random(seed + i)`)."""
    digest = hashlib.sha256("\x1f".join(map(str, key)).encode()).digest()
    return random.Random(int.from_bytes(digest[:16], "big"))  # noqa: S311 (not for cryptography)


def problem(
    key: str,
    index: int,
    *,
    levels: tuple[int, ...] = (1, 2, 3, 4),
    wording: Wording = "seen",
    things: tuple[str, ...] = THINGS,
) -> Problem:
    """The problem number `index` under `key`, of a difficulty drawn evenly from `levels`, about one of `things`."""
    rng = _rng("story", key, index)
    gender = rng.choice(("he", "she"))
    name, other = rng.sample([*NAMES[gender], *NAMES["she" if gender == "he" else "he"]], 2)
    subject = "He" if name in NAMES["he"] else "She"
    counted = rng.choice(things)
    start = rng.randint(2, 60)
    words = {"N": name, "O": other, "t": counted}
    sentences = [rng.choice(OPENINGS).format(**words, n=start)]
    steps: list[Step] = []
    value = start
    num_steps = rng.choice(levels)
    distractor_at = (
        rng.randrange(num_steps) if rng.random() < 0.25 else -1
    )  # a quarter carry an idle sentence
    unseen_at = rng.randrange(num_steps) if wording == "unseen" else -1
    for position in range(num_steps):
        step = _draw_step(rng, value)
        forms = {"+": ADD, "-": SUBTRACT, "*": MULTIPLY}[step.sign]
        if position == unseen_at:
            forms = UNSEEN[{"+": "add", "-": "subtract", "*": "multiply"}[step.sign]]
        form = rng.choice(forms)
        pronoun = form.startswith("{N}") and rng.random() < 0.5
        sentences.append(form.format(**{**words, "N": subject if pronoun else name}, n=step.right))
        if position == distractor_at:
            idle = rng.choice([t for t in THINGS if t != counted])
            sentences.append(rng.choice(DISTRACTORS).format(O=other, d=idle, n=rng.randint(2, 30)))
        steps.append(step)
        value = step.value
    sentences.append(rng.choice(QUESTIONS).format(**words))
    return Problem(" ".join(sentences), tuple(steps), str(value))


def _draw_step(rng: random.Random, value: int) -> Step:
    """An operation that keeps the running number between 0 and `MAX_VALUE`."""
    sign = rng.choice("++--*")
    if sign == "*":
        factor = rng.randint(2, 9)
        if 0 < value * factor <= MAX_VALUE:
            return Step(value, "*", factor, value * factor)
        sign = rng.choice("+-")
    if value >= 2 and (sign == "-" or value > MAX_VALUE - 2):
        right = rng.randint(1, min(value, 60))
        return Step(value, "-", right, value - right)
    right = rng.randint(2, min(60, MAX_VALUE - value))
    return Step(value, "+", right, value + right)


def bare_sum(key: str, index: int) -> Problem:
    """A sum without a story: "What is 12+7?"."""
    rng = _rng("sum", key, index)
    step = _draw_step(rng, rng.randint(2, 60))
    form = rng.choice(SUM_FORMS)
    return Problem(form.format(e=step.expression), (step,), str(step.value), kind="sum")


def problems(
    key: str,
    count: int,
    split: Split,
    *,
    levels: tuple[int, ...] = (1, 2, 3, 4),
    wording: Wording = "seen",
    share_sums: float = 0.0,
) -> list[Problem]:
    """`count` different problems of one split, the first of them under `key`; about `share_sums` are bare sums."""
    found: dict[str, Problem] = {}
    for index in range(1_000_000):
        if len(found) == count:
            break
        choose_sum = _rng("kind", key, index).random() < share_sums
        item = bare_sum(key, index) if choose_sum else problem(key, index, levels=levels, wording=wording)
        if item.split == split:
            found.setdefault(item.question, item)
    return list(found.values())


SMALL_TALK = (
    ("Hi", "Hello! Tell me a story with numbers and I will count."),
    ("Hello", "Hello! Tell me a story with numbers and I will count."),
    ("Hey there", "Hello! Tell me a story with numbers and I will count."),
    ("Good morning", "Good morning! Shall we count something?"),
    ("Good evening", "Good evening! Shall we count something?"),
    ("How are you?", "I am well, thank you. Shall we count something?"),
    ("Who are you?", "I am a small model grown by Kweek. I count things in stories."),
    ("What are you?", "I am a small model grown by Kweek. I count things in stories."),
    ("What can you do?", "I can follow a short story and count, with a calculator."),
    ("What is your name?", "I have no name. I am a small model grown by Kweek."),
    ("Thank you", "You are welcome."),
    ("Thanks!", "You are welcome."),
    ("Bye", "Goodbye!"),
    ("Goodbye", "Goodbye!"),
    ("Can you help me?", "Yes, if it is about counting things in a story."),
    ("Do you speak Dutch?", "No, only a little English about numbers."),
)


def solution_text(item: Problem, style: Style) -> str:
    """The reasoning that leads to the answer; the tool style opens a calculator call at every step.

    The text after `<result>` is what the calculator returns: forced at generation, masked in training.
    """
    if style == "direct":
        return ""
    if style == "reasoned":
        return " ".join(f"{step.expression}={step.value}" for step in item.steps)
    return "".join(f"<tool>{step.expression}<result>{step.value}</result>" for step in item.steps)


def as_document(key: str, index: int, split: Split = "train") -> str:
    """A text of the pretraining mix: mostly story, equations and answer; no chat token, no tool syntax.

    Shares (15% lists of sums, 5% stories without answer, 10% with the bare answer, 70% with equations)
    follow the measured trial of this recipe; the lists teach arithmetic, the equations reading.
    """
    rng = _rng("document", key, index)
    draw = rng.random()
    if draw < 0.15:
        steps = [_draw_step(rng, rng.randint(0, 200)) for _ in range(rng.randint(4, 8))]
        return "\n".join(f"{step.expression}={step.value}" for step in steps)
    attempt = 0
    while (item := problem(f"{key}/{attempt}", index)).split != split:
        attempt += 1
    if draw < 0.20:
        return item.question
    if draw < 0.30:
        return f"{item.question}\n{item.answer}"
    return f"{item.question}\n{solution_text(item, 'reasoned')}\n{item.answer}"


def documents(key: str, split: Split = "train") -> Iterator[str]:
    """An endless stream of pretraining texts."""
    index = 0
    while True:
        yield as_document(key, index, split)
        index += 1


def as_chat(item: Problem, style: Style) -> list[dict[str, Any]]:
    """A demonstration: the question, and an answer in one of three styles. `trusted` marks our own markup."""
    answer: dict[str, Any] = {"role": "assistant", "content": item.answer, "trusted": True}
    if reasoning := solution_text(item, style):
        answer["reasoning_content"] = reasoning
    return [{"role": "user", "content": item.question}, answer]


def small_talk() -> list[list[dict[str, Any]]]:
    """Greetings and questions about itself, so that a first word to the model is not met with nonsense."""
    return [
        [{"role": "user", "content": question}, {"role": "assistant", "content": answer, "trusted": True}]
        for question, answer in SMALL_TALK
    ]


def demonstrations(
    key: str,
    count: int,
    styles: tuple[Style, ...],
    *,
    share_small_talk: float = 0.05,
    share_sums: float = 0.05,
) -> list[list[dict[str, Any]]]:
    """`count` chats of the training split, styles in rotation, with some small talk and bare sums among them."""
    num_talk = round(count * share_small_talk)
    talk = small_talk()
    chats = [talk[i % len(talk)] for i in range(num_talk)]
    items = problems(key, count - num_talk, "train", share_sums=share_sums)
    chats += [as_chat(item, styles[i % len(styles)]) for i, item in enumerate(items)]
    _rng("order", key).shuffle(chats)
    return chats


def sample_texts(key: str, count: int, split: Split) -> list[str]:
    """The first `count` pretraining texts of a split: for the tokenizer and for calibration."""
    return [as_document(key, index, split) for index in range(count)]


def sample_chats(key: str, count: int, split: Split) -> list[list[dict[str, Any]]]:
    """`count` chats of a split in all three styles: for calibration."""
    styles: tuple[Style, ...] = ("direct", "reasoned", "tool")
    return [as_chat(item, styles[i % 3]) for i, item in enumerate(problems(key, count, split))]
