"""Answers that a regular expression describes, matched by RE2 in time linear in their length."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from kweek.align.verifiers.reading import Reading, final_answer
from kweek.align.verifiers.verdict import UNREADABLE, failed, judged
from kweek.protocols import Score


@dataclass(frozen=True)
class Regex:
    """1 when the whole answer is what the gold expression (RE2's syntax) describes.

    There is no search within the answer: an expression that is sought anywhere is met by saying everything.

    Attributes:
        reading: where the answer stands.
    """

    reading: Reading = "whole"

    def __call__(self, answer: str, gold: str) -> Score:
        said = final_answer(answer, self.reading)
        try:
            # An empty answer is tried as such: the audit must see that an expression takes it.
            matched = pc.match_substring_regex(pa.scalar(said or ""), rf"\A(?:{gold})\z").as_py()
        except UnicodeEncodeError:
            return UNREADABLE  # half of a surrogate pair is no text
        except pa.ArrowException as error:
            return failed(f"the gold answer is no regular expression ({str(error).splitlines()[0][:120]})")
        return judged(bool(matched)) if said or matched else UNREADABLE
