"""Transcripts: what a model wrote, with its thoughts and its calls of the calculator made visible.

The text is untrusted and often malformed (a model may open a call and never close it); every piece of it is
shown, as text, and whatever is no well-formed call stays as it was written.
"""

from __future__ import annotations

import re

from kweek.report.markup import Child, Markup, join, tag

CALL = re.compile(r"<tool>(?P<sum>[^<]{0,80})<result>(?P<result>[^<]{0,80})</result>")
# What was thought; a model may forget to open its thought, and everything before the end of one is thought.
THOUGHT = re.compile(
    r"\A(?P<begun>(?:(?!<think>).)+?)</think>|<think>(?P<thought>.*?)(?:</think>|\Z)", re.DOTALL
)
ENDINGS = ("<|im_end|>", "<|endoftext|>")
MOST = 600  # characters of a transcript shown; a model that repeats itself would otherwise fill the page


def transcript(raw: str) -> Markup:
    """A whole answer: the thought set apart, then what was said."""
    shown = shortened(raw)
    for ending in ENDINGS:
        shown = shown.removesuffix(ending)
    pieces: list[Child] = []
    at = 0
    for match in THOUGHT.finditer(shown):
        if before := shown[at : match.start()].strip("\n"):
            pieces.append(tag("span", calls(before), class_="said"))
        if thought := match["begun"] or match["thought"]:
            pieces.append(tag("span", calls(thought), class_="thought"))
        at = match.end()
    if rest := shown[at:]:
        pieces.append(tag("span", calls(rest), class_="said"))
    return tag("div", pieces or tag("span", "(nothing)", class_="none"), class_="transcript", dir="auto")


def calls(shown: str) -> Markup:
    """Text in which calls of the calculator stand as the sum and its result."""
    pieces: list[Child] = []
    at = 0
    for match in CALL.finditer(shown):
        pieces.append(shown[at : match.start()])
        pieces.append(
            tag(
                "span",
                tag("span", "calculator: ", class_="aloud"),
                tag("span", match["sum"], class_="sum"),
                tag("span", " gives ", class_="aloud"),
                tag("span", match["result"], class_="result"),
                class_="call",
            )
        )
        at = match.end()
    return join(*pieces, shown[at:])


def shortened(raw: str, most: int = MOST) -> str:
    """The beginning of a long text."""
    return raw if len(raw) <= most else f"{raw[:most]}…"
