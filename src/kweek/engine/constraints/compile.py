"""From what a user asks for to a grammar that generations can start under.

Every text from outside is compiled in a worker process first (see `kweek.engine.constraints.workers`). An automaton
comes back as arrays, which are checked. For llguidance its text comes back, compiled and tried there under the same
limits, and is compiled once more here; that then takes no more than it took.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal, Protocol

from kweek.engine.constraints.automaton import Automaton
from kweek.engine.constraints.guidance import GuidanceGrammar
from kweek.engine.constraints.limits import GrammarError, Limits, check_text
from kweek.engine.constraints.own import AutomatonGrammar
from kweek.engine.constraints.tools import JSON_FORM, ToolForm
from kweek.engine.constraints.vocabulary import Vocabulary
from kweek.protocols import Constraint

#: "auto" takes the own automaton up to 8,192 tokens where the grammar is regular, else llguidance if it is there.
Provider = Literal["auto", "own", "llguidance"]
Json = Mapping[str, Any] | Sequence[Any] | bool
LIMITS = Limits()


class Grammar(Protocol):
    """Which texts a generation may be; shared by any number of generations."""

    @property
    def provider(self) -> str:
        """Who decides: "own" or "llguidance"."""
        ...

    def start(self, max_tokens: int | None = None) -> Constraint:
        """A fresh constraint, at the beginning of a text; `Request.constraint` takes this very method.

        Args:
            max_tokens: the text is complete, its end token included, within that many tokens: from where it would be
                too late on, only tokens that lead to an end in time are allowed. Automata only.

        Raises:
            GrammarError: that few tokens may not be enough, or the provider does not know.
        """
        ...


def compile_regex(
    expression: str, vocabulary: Vocabulary, *, provider: Provider = "auto", limits: Limits = LIMITS
) -> Grammar:
    """Texts that are, as a whole, what a regular expression says; its syntax is in `kweek.engine.constraints.syntax`.

    Raises:
        GrammarError: the expression is wrong, not regular, unsatisfiable with this vocabulary, or beyond the limits.
    """
    return _compile("regex", expression, vocabulary, provider, limits)


def compile_choice(
    choices: Sequence[str], vocabulary: Vocabulary, *, provider: Provider = "auto", limits: Limits = LIMITS
) -> Grammar:
    """One of some texts.

    Raises:
        GrammarError: as `compile_regex`.
    """
    if isinstance(choices, str):
        raise GrammarError("the choices are one text, not a list")
    return _compile("choice", _dump(list(choices)), vocabulary, provider, limits)


def compile_json_schema(
    schema: Json | str | bytes,
    vocabulary: Vocabulary,
    *,
    provider: Provider = "auto",
    limits: Limits = LIMITS,
) -> Grammar:
    """JSON that is valid under a schema (draft 2020-12), written on one line as `json.dumps` does.

    Args:
        schema: as a value or as JSON text. What is not supported is refused, never ignored.
        vocabulary: of the model.
        provider: who decides.
        limits: what compiling may cost.

    Raises:
        GrammarError: as `compile_regex`; `where` is the path to the part of the schema.
    """
    return _compile("schema", _dump(schema), vocabulary, provider, limits)


def compile_tools(
    tools: Sequence[Mapping[str, Any]] | str | bytes,
    vocabulary: Vocabulary,
    *,
    form: ToolForm = JSON_FORM,
    provider: Provider = "auto",
    limits: Limits = LIMITS,
) -> Grammar:
    """A call of one of some tools, with arguments under its schema.

    Args:
        tools: in OpenAI's form ({"type": "function", "function": {"name", "parameters"}}), or the inner part.
        vocabulary: of the model.
        form: how a call is written.
        provider: who decides.
        limits: what compiling may cost.

    Raises:
        GrammarError: as `compile_regex`.
    """
    return _compile("tools", _dump(tools), vocabulary, provider, limits, form)


def compile_lark(
    grammar: str, vocabulary: Vocabulary, *, provider: Provider = "auto", limits: Limits = LIMITS
) -> Grammar:
    """Texts of a context-free grammar in llguidance's variant of Lark; needs the extra.

    Raises:
        GrammarError: as `compile_regex`.
    """
    return _compile("lark", grammar, vocabulary, provider, limits)


def _dump(value: Any) -> str:
    """As JSON text."""
    try:
        if isinstance(value, bytes):
            return value.decode()
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, allow_nan=False)
    except UnicodeDecodeError as error:
        raise GrammarError(f"byte {error.start} is not UTF-8") from None
    except RecursionError:
        raise GrammarError("it nests too deep", fix="flatten the grammar") from None
    except (TypeError, ValueError) as error:
        raise GrammarError(f"it is not a JSON value ({error})") from None


def _compile(
    kind: str,
    source: str,
    vocabulary: Vocabulary,
    provider: Provider,
    limits: Limits,
    form: ToolForm = JSON_FORM,
) -> Grammar:
    if provider not in ("auto", "own", "llguidance"):
        raise GrammarError(f"unknown provider {provider!r}", fix='use "auto", "own" or "llguidance"')
    if not isinstance(source, str):
        raise GrammarError(f"a {type(source).__name__} is no grammar", fix="give a text")
    check_text(source, limits)
    job = {"kind": kind, "source": source, "provider": provider, "form": asdict(form)}
    head, blobs = vocabulary.workers.compile(job, limits)
    if head["provider"] == "own":
        return AutomatonGrammar(vocabulary, Automaton.unpack(head, blobs))
    return GuidanceGrammar(vocabulary, head["grammar"], frozenset(head["controls"]))
