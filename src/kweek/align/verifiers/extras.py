"""Libraries that only some verifiers and environments need."""

from __future__ import annotations

from importlib.util import find_spec

from kweek.errors import ConfigError


def require(module: str, extra: str, purpose: str) -> None:
    """Make sure that a library is there.

    Raises:
        ConfigError: it is not; says how to get it.
    """
    if find_spec(module) is None:
        raise ConfigError(
            f"{purpose} needs {module}, which is not installed", fix=f"pip install 'kweek[{extra}]'"
        )
