"""The glossary: what every technical number of a report means, in words that need no other page.

The page shows a term's entry when the term is pressed; `docs/glossary.md` is `as_markdown()` of this module,
and a test keeps them equal.
"""

from __future__ import annotations

from dataclasses import dataclass

from kweek.report.markup import Child, Markup, tag


@dataclass(frozen=True)
class Term:
    """An entry: the name it is listed under and its explanation in one to three sentences."""

    name: str
    meaning: str


#: Entries by theme, then by the key that sections use.
THEMES: dict[str, dict[str, Term]] = {
    "Scores and how sure they are": {
        "accuracy": Term(
            "Accuracy",
            "The share of questions whose final answer is exactly the right one. Nothing is given for being close.",
        ),
        "bits_per_byte": Term(
            "Bits per byte",
            "How many bits the model needs on average to predict the next byte of text it has never seen; lower is "
            "better. A model that knows nothing needs 8, English in plain letters compressed by gzip needs about 3. "
            "Counting per byte instead of per token makes models with different tokenizers comparable.",
        ),
        "confidence_interval": Term(
            "95% interval",
            "A range computed so that, if the whole measurement were repeated many times, 95 of 100 such ranges would "
            "hold the true value. Two scores whose ranges overlap widely should not be called different.",
        ),
        "wilson": Term(
            "Wilson interval",
            "The 95% interval used here for shares of right answers (Wilson 1927). Unlike score ± error it never "
            "leaves 0 to 100% and stays honest for few questions or extreme scores.",
        ),
        "paired_test": Term(
            "Paired test",
            "Two models answer the same questions, and only questions on which they differ count. That removes the "
            "luck of easy or hard questions, so smaller differences can be told from chance.",
        ),
        "won_lost": Term(
            "Won and lost",
            "Of the questions both models answered: how many the first alone got right (won) and how many the second "
            "alone got right (lost). For bits per byte: on how many documents the first needs more, and fewer.",
        ),
        "p_value": Term(
            "p-value",
            "How often a difference at least this large would appear if there were none in truth. For right and wrong "
            "answers it is McNemar's exact test on won and lost; for bits per byte a paired t-test over documents.",
        ),
        "held_out": Term(
            "Held-out",
            "Kept away from all training. Questions and documents are assigned by a hash of their content, so the "
            "same item can never be on both sides.",
        ),
        "unseen_wording": Term(
            "Unseen wording",
            "Held-out questions told with sentence forms that occur nowhere in training. The gap to the ordinary "
            "held-out score says how far the model carries over to words it has not met.",
        ),
        "level": Term(
            "Level",
            "The number of operations a question needs, from one to four. An average can hide that easy questions "
            "were gained and hard ones lost.",
        ),
        "greedy": Term(
            "Greedy",
            "Answering by always taking the most likely next token, without chance. The same question then always "
            "gets the same answer.",
        ),
    },
    "Growing a model": {
        "parameters": Term(
            "Parameters",
            "The numbers a model consists of, all of them set by training. The largest published models have over a "
            "trillion.",
        ),
        "token": Term(
            "Token",
            "The piece of text a model reads and writes at once: a byte, part of a word, a word, or a control sign. "
            "Digits are one token each here.",
        ),
        "tokenizer": Term(
            "Tokenizer",
            "The rule that cuts text into tokens. This one is a byte-level BPE: starting from single bytes it joins "
            "the most frequent neighbours until the vocabulary is full, so any bytes at all can be written.",
        ),
        "bytes_per_token": Term(
            "Bytes per token",
            "How many bytes of text one token covers on average; more means shorter sequences and cheaper answers.",
        ),
        "pretraining": Term(
            "Pretraining",
            "The first and longest training: predicting the next token of ordinary text. It yields a base model, "
            "which continues text but has not learnt to answer.",
        ),
        "age": Term(
            "Age",
            "A saved state of the model during pretraining, told by the number of tokens it had read by then.",
        ),
        "loss": Term(
            "Loss",
            "What training makes smaller: the mean of minus the natural logarithm of the probability given to the "
            "right next token. A loss of 0.69 means the right token got one half on average.",
        ),
        "learning_rate": Term(
            "Learning rate",
            "How far each update moves the parameters. Too small wastes the budget, too large forgets or diverges.",
        ),
        "gradient_norm": Term(
            "Gradient norm",
            "The length of the direction in which an update would move all parameters. Sudden peaks are a sign of "
            "trouble.",
        ),
        "epoch": Term("Epoch", "One pass over all training examples."),
        "sft": Term(
            "Supervised fine-tuning (SFT)",
            "Training on worked examples of chats, with loss only on what the assistant says.",
        ),
        "reinforcement": Term(
            "Reinforcement learning (RL)",
            "The model answers by itself, a verifier marks the answers, and what led to right answers is made more "
            "likely than what led to wrong ones to the same question.",
        ),
        "reward": Term(
            "Reward",
            "The verifier's mark for an answer, here 1 for right and 0 for wrong, averaged over an update's answers.",
        ),
        "entropy": Term(
            "Entropy",
            "How undecided the model is about each next token, in nats. When it falls to nothing, all samples are "
            "alike and there is nothing left to learn from.",
        ),
        "group": Term(
            "Group",
            "Several answers to one question, judged against their own average. A group whose answers are all right "
            "or all wrong teaches nothing and is skipped.",
        ),
        "four_bits": Term(
            "4-bit quantisation",
            "Storing each parameter in 4 bits instead of 32, in groups that share one scale. The file becomes about "
            "four to seven times smaller; the table says what that costs in quality.",
        ),
        "rtn": Term(
            "Round to nearest", "The simplest quantisation: every parameter goes to the nearest value."
        ),
        "error_compensation": Term(
            "Error compensation",
            "Quantising column by column and adjusting those still to come, so that their errors cancel on typical "
            "text (GPTQ, Frantar et al. 2022).",
        ),
    },
    "Where an ability comes from": {
        "tool": Term(
            "Calculator",
            "A tool the model calls in the middle of a thought. It writes the sum, and the result is put into its "
            "text by the machine, not guessed by the model.",
        ),
        "tool_share": Term("Tool share", "The share of answers in which the model called the calculator."),
        "forced_tool": Term(
            "Forced-tool control",
            "The model is asked again with its answer already begun by an opened calculator call. What improves by "
            "this alone was in the model before: it only had to be brought to use it.",
        ),
        "elicited": Term(
            "Elicited",
            "The part of a gain that the forced-tool control reaches without any reinforcement learning: an ability "
            "that was there and is now used.",
        ),
        "taught": Term(
            "Taught",
            "The part of a gain beyond the forced-tool control: what the model could not do before even when led to "
            "the tool.",
        ),
        "majority": Term(
            "Majority of k",
            "The model answers k times with chance, and the most frequent answer is taken. It costs k times as much.",
        ),
        "pass_at_k": Term(
            "pass@k",
            "The probability that at least one of k answers is right. It needs someone who knows which, so it is a "
            "bound on what voting or training could reach, not a score.",
        ),
        "alignment_tax": Term(
            "Alignment tax",
            "What a later stage lost of what an earlier one could do, here in bits per byte on ordinary text. Above "
            "zero is a loss.",
        ),
        "divergence": Term(
            "Distance from the start",
            "How much more likely the model finds its own answers than the model did that the stage began with: the "
            "Kullback-Leibler divergence, in nats per answer. 0 is no change; at 3 nats an answer was about twenty "
            "times less likely before.",
        ),
        "guard": Term(
            "Guard",
            "A check that watches a stage while it learns, with a threshold for each figure it looks at. It can warn, "
            "or stop the stage and bring back the best weights so far.",
        ),
        "verifier_audit": Term(
            "Verifier audit",
            "Before it may train anything, the verifier is given answers that deserve nothing (a constant, an empty "
            "one, the question itself) and right ones. One that can be fooled is refused.",
        ),
        "sign_check": Term(
            "Sign check",
            "A trial update on a right and a wrong answer: the right one must become more likely. A reversed sign "
            "trains as smoothly as a correct one.",
        ),
    },
    "Rules and attacks": {
        "refusal": Term(
            "Refused rightly",
            "The share of questions for the secret or the declined topic, without an attack around them, to which the "
            "model gave the agreed refusal and nothing of what was asked for.",
        ),
        "over_refusal": Term(
            "Over-refusal",
            "The share of harmless questions that the model refused: plain ones, lookalikes, such in the wording of an "
            "attack, and those that allow the secret by its sign. The price of refusing much.",
        ),
        "attack": Term(
            "Attack",
            "A question for what is not to be given in another guise: a role to play, an order, a claim of authority, "
            "letters exchanged, earlier turns invented. It succeeds when the thing asked for is in the answer.",
        ),
        "labeller": Term(
            "Labeller",
            "Who says which of two answers is better. Here a function that looks only at the surface, mistakes "
            "lookalikes and presses the wrong key now and then: training sees its judgements, never the checker's.",
        ),
        "reward_model": Term(
            "Reward model",
            "A copy of the model that has learnt from compared answers to give each answer one number. Reinforcement "
            "then raises that number, which is not the same as doing right.",
        ),
    },
    "Forecast and cost": {
        "scaling_law": Term(
            "Scaling law",
            "The curve, floor + scale × FLOP to the power of minus the exponent, that small runs follow and a larger "
            "one is forecast from.",
        ),
        "forecast": Term(
            "Forecast",
            "The result predicted from the small runs and written down before the large one began. Its interval "
            "comes from how well the law would have forecast the largest small runs from the smaller ones.",
        ),
        "derived": Term(
            "Derived setting",
            "A size or rate that nobody chose: it follows from the budget and this machine by the rule beside it, and "
            "can be pinned by hand.",
        ),
        "flop": Term(
            "FLOP",
            "Floating-point operation: one addition or multiplication. Counted from the model's architecture, "
            "attention and output layer included, and in the standard here converted to 16-bit operations.",
        ),
        "standardised": Term(
            "16-bit equivalents",
            "Operations in other precisions by a fixed convention: 64-bit counts four, 32-bit two, 16-bit one, 8-bit "
            "a half, 4-bit a quarter. So the figure does not change with the machine.",
        ),
        "cpu_seconds": Term(
            "CPU-seconds",
            "Seconds of work summed over all processor cores. Two cores busy for ten seconds make twenty.",
        ),
        "energy": Term(
            "Energy",
            "In joules; 3.6 million are one kilowatt-hour. Measured by the processor's own counter where it can be "
            "read, otherwise estimated from processor time and labelled so.",
        ),
        "tokens_per_second": Term(
            "Tokens per second", "How many tokens of training text are read in a second of wall time."
        ),
        "fingerprint": Term(
            "Fingerprint",
            "A hash of a stage's settings, inputs and code. Equal fingerprints mean the stage need not run again; it "
            "also names exactly what a result came from.",
        ),
        "documents_funnel": Term(
            "Data funnel",
            "How many documents and bytes are left after each step of cleaning, from what was read to what is "
            "trained on.",
        ),
    },
}

TERMS: dict[str, Term] = {key: term for theme in THEMES.values() for key, term in theme.items()}


def anchor(key: str) -> str:
    """The fragment that a term's entry has on the page."""
    return f"term-{key.replace('_', '-')}"


def term(key: str, *shown: Child) -> Markup:
    """A word that opens its entry: a link, so it works by touch, by keyboard and without a script.

    Raises:
        KeyError: there is no such entry.
    """
    entry = TERMS[key]
    return tag("a", shown or (entry.name,), class_="term", href=f"#{anchor(key)}")


def as_html() -> Markup:
    """The glossary as the page's last section: definition lists by theme."""
    groups = []
    for theme, entries in THEMES.items():
        pairs = [
            tag("div", tag("dt", entry.name), tag("dd", entry.meaning), id=anchor(key), tabindex=-1)
            for key, entry in entries.items()
        ]
        groups.append(tag("div", tag("h3", theme), tag("dl", pairs), class_="theme"))
    return tag("div", groups, class_="glossary")


def as_markdown() -> str:
    """The glossary as `docs/glossary.md`."""
    lines = [
        "# Glossary",
        "",
        "What the technical numbers of a report mean. This page is made from `kweek.report.glossary`, where entries",
        "are written; a test keeps the two equal.",
    ]
    for theme, entries in THEMES.items():
        lines += ["", f"## {theme}"]
        for key, entry in entries.items():
            lines += ["", f'<a id="{anchor(key)}"></a>**{entry.name}.** {entry.meaning}']
    return "\n".join(lines) + "\n"
