"""Running programs that nobody trusts: `run(source)`, within limits, or not at all.

Two tiers of one meaning: `ns`, a process in Linux namespaces behind a list of system calls, with all of Python; and
`wasm`, Python compiled to WebAssembly, for machines that do not let an ordinary user have namespaces.
"""

from kweek.sandbox.limits import Limits, Reason, Result, SandboxError, Tier
from kweek.sandbox.run import run

__all__ = ["Limits", "Reason", "Result", "SandboxError", "Tier", "run"]
