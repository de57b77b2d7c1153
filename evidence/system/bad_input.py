"""What a system is given that cannot be: each must end in one clear error that the model or the user sees."""

from __future__ import annotations

from typing import Any

from bad_memories import memory_cases
from bad_tools import tool_cases
from harness import evidence


def run(quick: bool) -> dict[str, Any]:
    """All cases in both versions; they take a minute."""
    cases = tool_cases() | memory_cases()
    failures = {name: wrong for name, wrong in cases.items() if wrong}
    return {
        "ours": len(cases) - len(failures),
        "reference": len(cases),
        "unit": "cases that end as they must",
        "ratio": (len(cases) - len(failures)) / len(cases),
        "interval": None,
        "n": len(cases),
        "seeds": 1,
        "passed": not failures,
        "details": {"failures": failures, "cases": sorted(cases)},
    }


if __name__ == "__main__":
    evidence(
        "system/bad_input",
        claim="Malformed tool JSON, a tool that hangs, raises or returns 100 MB, a corrupt index (detected, rebuilt "
        "from its documents), an unknown tool (an error the model sees), a PDF that loops.",
        run=run,
    )
