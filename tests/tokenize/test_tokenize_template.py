"""Foreign templates: what they may do, what they may not, and that nothing they do hangs or hurts."""

from __future__ import annotations

import gc
import os
import time
from pathlib import Path

import jinja2
import pytest

from kweek.errors import CheckpointError, DataError
from kweek.tokenize import template as module
from kweek.tokenize.rendering import Refused, compile_template
from kweek.tokenize.template import ChatTemplate, default_chat_template

MESSAGES = [{"role": "user", "content": "Hi"}]


def render(source: str) -> str:
    return ChatTemplate(source, name="folder").render(MESSAGES)


def test_helpers_are_those_of_transformers() -> None:
    assert render("{{ messages | tojson }}") == '[{"role": "user", "content": "Hi"}]'
    assert (
        render("{{ {'b': '<é>', 'a': 1} | tojson(indent=1, sort_keys=True) }}")
        == '{\n "a": 1,\n "b": "<é>"\n}'
    )
    assert render("{{ strftime_now('%Y') }}") == time.strftime("%Y")
    assert render("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}") == "01"
    assert render("  {% if true %}\nx\n  {% endif %}\n") == "x\n"
    assert render("a{% generation %}b{% endgeneration %}") == "ab"


def test_variables_and_the_generation_prompt_arrive() -> None:
    template = ChatTemplate(
        "{{ bos_token }}{{ x }}{{ add_generation_prompt }}", variables={"bos_token": "<s>"}
    )
    assert template.render(MESSAGES, add_generation_prompt=True, x=3) == "<s>3True"


def test_refusal_by_the_template_is_the_chats_fault() -> None:
    with pytest.raises(
        DataError, match="folder: the chat template refuses these messages: roles must alternate"
    ):
        render("{{ raise_exception('roles must alternate') }}")


@pytest.mark.parametrize(
    "source", ["{% for %}", "{{ x", "{% include 'x' %}{% nonsense %}", "{{ 'a' | nofilter }}"]
)
def test_broken_templates_are_refused_at_once(source: str) -> None:
    with pytest.raises(CheckpointError, match="folder: the chat template is broken"):
        ChatTemplate(source, name="folder")


def test_templates_are_limited_in_size() -> None:
    with pytest.raises(CheckpointError, match="more than 262144"):
        ChatTemplate("x" * 300_000)


SUBCLASSES = "''.__class__.__mro__[1].__subclasses__()"
ATTACKS = [
    "{{ " + SUBCLASSES + " }}",
    "{% for c in " + SUBCLASSES + " %}{{ c.__name__ }}{% endfor %}",
    "{{ ''['__class__'] }}{{ ''['__cl' ~ 'ass__'].__mro__ }}",
    "{{ (''|attr('__class__'))|attr('__mro__') }}",
    "{{ ('' | attr('\\x5f\\x5fclass\\x5f\\x5f')).mro() }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ joiner.__init__.__globals__ }}",
    "{{ namespace.__init__.__globals__['__builtins__']['open']('/etc/passwd').read() }}",
    "{{ raise_exception.__globals__['sys'].modules['os'].system('true') }}",
    "{{ strftime_now.__globals__.sys.exit() }}",
    "{{ strftime_now.__closure__[0].cell_contents }}",
    "{{ messages.__class__.__base__ }}",
    "{{ self.__init__.__globals__ }}",
    "{{ self._TemplateReference__context.environment.loader }}",
    "{{ '{0.__class__.__mro__}'.format('') }}",
    "{{ '{x.__class__}'.format_map({'x': 1}) }}",
    "{{ ('%s' | format('x')).__class__ }}",
    "{{ messages | map(attribute='__class__') | list }}",
    "{{ [messages] | map('attr', '__class__') | list | first }}",
    "{{ ['__class__'] | map('last').__class__ }}",
    "{{ lipsum.__globals__ }}",
    "{{ get_flashed_messages.__globals__ }}",
    "{{ range.__class__.__call__ }}",
    "{{ (1).__class__.__bases__ }}",
    "{{ dict.mro() }}",
    "{{ ''.__getattribute__('__class__') }}",
    "{% set x = messages.append({}) %}",
    "{{ messages.pop() }}",
    "{{ messages[0].update({'role': 'system'}) }}",
    "{{ messages[0].clear() }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os }}",
    "{% extends '/etc/passwd' %}",
    "{% from 'os' import system %}",
    "{% for x in (1).__dir__() %}{{ x }}{% endfor %}",
    "{% macro f() %}{% endmacro %}{{ f.__globals__ }}",
    "{% macro f() %}{% endmacro %}{{ f._func.__globals__ }}",
    "{% call(x) joiner() %}{% endcall %}{{ caller.__class__ }}",
    "{{ cycler('a').__class__.__init__.__code__ }}",
    "{{ (messages | tojson).__class__ }}",
    "{{ ((1,) | first).real.__class__ }}",
    "{{ messages.__reduce_ex__(2) }}",
]


@pytest.mark.parametrize("source", ATTACKS)
def test_attacks_reach_nothing(source: str) -> None:
    """Every known way out of a template: an error, or nothing of the interpreter in the text."""
    try:  # in this process: the sandbox has to hold without the process around it
        text = compile_template(source, "<")({"messages": MESSAGES})
    except (jinja2.TemplateError, TypeError, AttributeError, Refused):
        return
    for leak in (
        "<class",
        "<built-in",
        "<function",
        "<module",
        "0x",
        "root:",
        "uid=",
        "subprocess",
        "loader",
    ):
        assert leak not in text


CATASTROPHES = [
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{% macro g(n) %}{% if n %}{{ g(n-1) }}{{ g(n-1) }}{% endif %}"
    "{% endmacro %}{{ g(60) }}",
    "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
    "{{ 'x' * 10 ** 12 }}",
    "{{ 'x'.center(10 ** 12) }}",
    "{{ 'x' | center(10 ** 12) }}",
    "{{ '%1000000000000s' % 'x' }}",
    "{{ 9 ** (9 ** 9) }}",
    "{{ messages[0].content * 10 ** 9 ** 2 }}",
    "{% for i in range(99999) %}{{ 'x' * 9999 }}{% endfor %}",
    "{{ range(10 ** 9) | list }}",
    "{{ " + "(" * 100_000 + ")" * 100_000 + " }}",
]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_RENDER_SECONDS", 0.4)
    monkeypatch.setattr(module, "MAX_START_SECONDS", 2.5)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("source", CATASTROPHES)
def test_catastrophes_are_cut_short(source: str) -> None:
    start = time.monotonic()
    with pytest.raises(CheckpointError, match="folder: "):
        render(source)
    assert time.monotonic() - start < 8


@pytest.mark.usefixtures("impatient")
def test_a_killed_template_goes_on_with_the_next_chat() -> None:
    endless = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    template = ChatTemplate("{% if messages | length > 1 %}" + endless + "{% endif %}ok", name="folder")
    with pytest.raises(CheckpointError, match="takes more than"):
        template.render(MESSAGES * 2)
    assert template.render(MESSAGES) == "ok"


def test_nothing_is_imported_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("json", "jinja2", "resource", "kweek"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('hijacked')")
    monkeypatch.chdir(tmp_path)
    assert render("ok") == "ok"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_fork_has_its_own_process() -> None:
    template = ChatTemplate("{{ messages[0].content }}!", name="folder")
    assert template.render(MESSAGES) == "Hi!"
    child = os.fork()
    if child == 0:
        ok = template.render([{"role": "user", "content": "child"}]) == "child!"
        del template
        gc.collect()
        os._exit(0 if ok else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert template.render(MESSAGES) == "Hi!"


def test_no_process_outlives_its_template() -> None:
    template = ChatTemplate("{{ messages }}", name="folder")
    process = template._render._process  # type: ignore[attr-defined]
    del template
    gc.collect()
    assert process.poll() is not None


def test_packaged_template_is_rendered_here_and_equals_its_rendering_elsewhere() -> None:
    source = default_chat_template()
    messages = [*MESSAGES, {"role": "assistant", "content": " 36 ", "reasoning_content": "12*3=36"}]
    here, there = ChatTemplate(source), ChatTemplate(source + "{# the same #}")
    for prompt in (False, True):
        assert here.render_marked(messages, add_generation_prompt=prompt) == there.render_marked(
            messages, add_generation_prompt=prompt
        )
