"""One right answer, written in many ways: which of them a verifier takes is told, not judged.

It is for the model to learn the format, and for the prompt to say it; but a team should know it before it wonders
why a reward is low.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

_WHOLE = re.compile(r"-?[0-9]{1,15}")

#: Name of a way to write, and the answer so written; None where it does not apply.
FORMATS: dict[str, Callable[[str], str | None]] = {
    " 12 ": lambda g: f" {g} ",
    "12\\n": lambda g: f"{g}\n",
    "12.": lambda g: f"{g}.",
    "12.0": lambda g: f"{g}.0" if _WHOLE.fullmatch(g) else None,
    "012": lambda g: f"0{g}" if _WHOLE.fullmatch(g) and g[0] != "-" else None,
    "+12": lambda g: f"+{g}" if _WHOLE.fullmatch(g) and g[0] != "-" else None,
    "1,234": lambda g: f"{int(g):,}" if _WHOLE.fullmatch(g) and abs(int(g)) >= 1000 else None,
    "１２": lambda g: (
        g.translate({ord("0") + d: ord("０") + d for d in range(10)}) if _WHOLE.fullmatch(g) else None
    ),
    "12 units": lambda g: f"{g} units" if _WHOLE.fullmatch(g) else None,
    "ABC / abc": lambda g: g.swapcase() if g.swapcase() != g else None,
    "The answer is 12": lambda g: f"The answer is {g}",
    "Answer: 12": lambda g: f"Answer: {g}",
    "#### 12": lambda g: f"#### {g}",
    "\\boxed{12}": lambda g: f"\\boxed{{{g}}}",
    "$12$": lambda g: f"${g}$",
    "**12**": lambda g: f"**{g}**",
    "(12)": lambda g: f"({g})",
    '"12"': lambda g: json.dumps(g),
    "`12`": lambda g: f"`{g}`",
    "code fence": lambda g: f"```\n{g}\n```",
    "<answer>12</answer>": lambda g: f"<answer>{g}</answer>",
    "after a thought": lambda g: f"<think>It must be so.</think>{g}",
    # Broken markup: a right answer to some, no answer to others; but nothing may break on it.
    "<result>12": lambda g: f"<result>{g}",
    "\\boxed{12": lambda g: f"\\boxed{{{g}",
    '{"answer": 12': lambda g: f'{{"answer": {g}',
    "12}]": lambda g: f"{g}}}]",
    "control characters": lambda g: f"\x00{g}\ufffd",
    "half a surrogate pair": lambda g: f"{g}\ud800",
    "right-to-left mark": lambda g: f"\u200f{g}",
}
