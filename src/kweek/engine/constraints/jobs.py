"""One grammar to compile: read in whatever form it comes, and given to the provider that suits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kweek.engine.constraints import guidance
from kweek.engine.constraints.automaton import build
from kweek.engine.constraints.library import INSTALL, is_installed
from kweek.engine.constraints.limits import BeyondAutomaton, GrammarError, Limits, check_text
from kweek.engine.constraints.pattern import Pattern, rust_regex, trie
from kweek.engine.constraints.schema import check_patterns, parse_json, schema_pattern
from kweek.engine.constraints.syntax import parse_regex
from kweek.engine.constraints.tools import Call, ToolForm, calls_pattern, calls_rules, read_tools
from kweek.engine.constraints.vocabulary import Vocabulary

_OWN_TOKENS = 8_192  # up to here the first mask of a state takes the automaton 0.2 ms, and it is kept
_UNROLL = 3  # a list of lists of lists; each more doubles the states of a tree

Answer = tuple[dict[str, Any], list[bytes]]


@dataclass(frozen=True)
class Job:
    """One grammar in the forms that the providers take, made when asked for.

    Attributes:
        pattern: the regular form, recursion unrolled so many times.
        grammar: llguidance's form.
        controls: control tokens that it may say.
    """

    pattern: Callable[[int], Pattern]
    grammar: Callable[[], str]
    controls: frozenset[int] = frozenset()


def read(kind: str, source: str, form: ToolForm, limits: Limits, vocabulary: Vocabulary) -> Job:
    """The job that a text of some kind means.

    Args:
        kind: "regex", "choice" (a JSON list), "schema", "tools" (a JSON list) or "lark".
        source: the text.
        form: of tool calls.
        limits: bounds on all of it.
        vocabulary: of the model.

    Raises:
        GrammarError: it is wrong, or beyond the limits.
    """
    match kind:
        case "lark":
            check_text(source, limits, brackets="()[]{}")
            return Job(_no_pattern, lambda: guidance.lark_grammar(source))
        case "regex":
            expression = parse_regex(source, limits)
            return Job(lambda _: expression, lambda: guidance.regex_grammar(rust_regex(expression)))
        case "choice":
            words = trie([word.encode() for word in _choices(parse_json(source, limits))])
            return Job(lambda _: words, lambda: guidance.regex_grammar(rust_regex(words)))
        case "schema":
            schema = parse_json(source, limits)
            if not isinstance(schema, dict | bool):
                raise GrammarError("the schema is neither an object nor a boolean")
            check_patterns(schema, limits)
            return Job(
                lambda unroll: schema_pattern(schema, limits, unroll), lambda: guidance.schema_grammar(schema)
            )
        case "tools":
            calls = [_call(tool, form, vocabulary) for tool in read_tools(parse_json(source, limits))]
            for call in calls:
                check_patterns(call.arguments, limits)
            pieces = [piece for call in calls for piece in (*call.before, *call.after)]
            return Job(
                lambda unroll: calls_pattern(calls, limits, unroll),
                lambda: guidance.lark_grammar(*calls_rules(calls)),
                frozenset(piece for piece in pieces if isinstance(piece, int)),
            )
    raise GrammarError(f"unknown kind of grammar {kind!r}")


def _no_pattern(unroll: int) -> Pattern:
    raise BeyondAutomaton("a grammar in Lark's form is not regular", fix="use llguidance")


def _choices(value: Any) -> list[str]:
    if not isinstance(value, list) or not value or not all(isinstance(word, str) for word in value):
        raise GrammarError("the choices are not a list of texts with at least one in it")
    return value


def _call(tool: tuple[str, Any], form: ToolForm, vocabulary: Vocabulary) -> Call:
    """One tool in its form. The name is kept apart from the form's own text, so it never spells a control token."""
    name, arguments = tool

    def pieces(template: str) -> list[bytes | int]:
        found: list[bytes | int] = []
        for index, part in enumerate(template.split("{name}")):
            found += [name.encode()] * (index > 0) + vocabulary.split(part)
        return found

    return Call(name, pieces(form.prefix), arguments, pieces(form.suffix), form.body)


def answer(message: dict[str, Any], vocabulary: Vocabulary) -> Answer:
    """Compile one grammar with the provider asked for, or the one that suits.

    Raises:
        GrammarError: it cannot be.
    """
    limits = Limits(**message["limits"])
    job = read(message["kind"], message["source"], ToolForm(**message["form"]), limits, vocabulary)
    provider = message["provider"]
    if provider == "auto" and (len(vocabulary) <= _OWN_TOKENS or not is_installed()):
        try:
            # llguidance, where it is there, reads recursion whole.
            return _automaton(job, limits, vocabulary, 0 if is_installed() else _UNROLL)
        except BeyondAutomaton as error:
            if not is_installed():
                raise GrammarError(error.what, where=error.where, fix=INSTALL) from None
    elif provider == "own":
        return _automaton(job, limits, vocabulary, _UNROLL)
    text = job.grammar()
    guidance.GuidanceGrammar(vocabulary, text, job.controls).trial(limits)
    return {"provider": "llguidance", "grammar": text, "controls": sorted(job.controls)}, []


def _automaton(job: Job, limits: Limits, vocabulary: Vocabulary, unroll: int) -> Answer:
    head, blobs = build(job.pattern(unroll), vocabulary.units, limits).pack()
    return {"provider": "own", **head}, blobs
