"""What comes back from where a program ran: its result, or why it was not run."""

from __future__ import annotations

import os
from typing import Any, cast

from kweek.sandbox.limits import PORTABLE, Reason, Result, SandboxError, Tier


def to_result(report: Any, tier: Tier) -> Result:
    """The result in a report.

    Raises:
        SandboxError: the report says that something was not enforced.
    """
    if report[0] != b"done":
        said = report[1].decode(errors="replace")
        raise SandboxError(f"this machine does not enforce the sandbox: {said}", fix=PORTABLE)
    _, status, reason, truncated, microseconds, cpu, peak, stdout, stderr, files = report
    return Result(
        exit=status,
        stdout=stdout,
        stderr=stderr,
        truncated=bool(truncated),
        reason=cast(Reason, reason.decode()) or None,
        seconds=microseconds / 1e6,
        cpu_seconds=cpu / 1e6,
        peak_memory_bytes=peak,
        tier=tier,
        files={os.fsdecode(name): content for name, content in files},
    )
