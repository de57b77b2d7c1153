"""Rendering of a chat template in Jinja's immutable sandbox, and the process that does it for foreign ones.

    python -m kweek.tokenize.rendering

reads one JSON value per line: first {"source", "characters"}, answered by {} or {"error"}; then lists of the
variables of some renderings, answered by {"texts"} or, for the first that fails, {"error", "refused"}. The
process may be killed at any time; it limits its own memory. Nothing is imported, read or written on a
template's behalf.
"""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from kweek.tokenize.shield import CLOSE, OPEN, Disguise

MAX_OUTPUT_CHARACTERS = 16 << 20  # a chat of a million tokens is about 4 MiB
MAX_MEMORY_BYTES = 1 << 30  # address space of the process that renders foreign templates


class Refused(Exception):
    """The template itself called `raise_exception`: it does not take these messages."""


class GenerationBlock(Extension):
    """`{% generation %}` as `transformers` has it: the part of a turn that the model writes."""

    tags = {"generation"}  # noqa: RUF012 (declared so by the base class)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller: Callable[[], str]) -> str:
        return OPEN + caller() + CLOSE


def compile_template(source: str, characters: str) -> Callable[[Mapping[str, Any]], str]:
    """The function from variables to rendered text, with the names that `transformers` gives to templates.

    Args:
        source: Jinja source.
        characters: those that are disguised in content (`Shield.characters`); JSON is disguised anew.

    Raises:
        jinja2.TemplateSyntaxError: the source is not a template.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlock, loopcontrols]
    )

    disguise = Disguise(characters)

    def tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        known = {key: options[key] for key in ("indent", "separators", "sort_keys") if key in options}
        return disguise.put_on(json.dumps(_revealed(value, disguise), ensure_ascii=ensure_ascii, **known))

    environment.filters["tojson"] = tojson

    def refuse(message: str) -> None:
        raise Refused(disguise.take_off(str(message)))

    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    del environment.globals["lipsum"]  # random text
    template = environment.from_string(source)

    def render(variables: Mapping[str, Any]) -> str:
        parts, size = [], 0
        for part in template.generate(**variables):
            size += len(part)
            if size > MAX_OUTPUT_CHARACTERS:
                raise jinja2.TemplateRuntimeError(f"more than {MAX_OUTPUT_CHARACTERS} characters of output")
            parts.append(part)
        return "".join(parts)

    return render


def _revealed(value: Any, disguise: Disguise) -> Any:
    """A JSON value with every string as it was before its disguise."""
    if isinstance(value, str):
        return disguise.take_off(value)
    if isinstance(value, Mapping):
        return {_revealed(key, disguise): _revealed(entry, disguise) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_revealed(entry, disguise) for entry in value]
    return value


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows: the time limit alone bounds what a template can take
        return
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))


def _answer(value: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Serve renderings of one template until standard input ends."""
    _limit_memory()
    try:
        render = compile_template(**json.loads(sys.stdin.readline()))
    except Exception as error:
        _answer({"error": f"{type(error).__name__}: {error}"})
        return
    _answer({})
    for line in sys.stdin:
        try:
            _answer({"texts": [render(variables) for variables in json.loads(line)]})
        except Refused as error:
            _answer({"error": str(error), "refused": True})
        except Exception as error:  # whatever a hostile template brings about is an answer, not a crash
            _answer({"error": f"{type(error).__name__}: {error}", "refused": False})


if __name__ == "__main__":
    main()
