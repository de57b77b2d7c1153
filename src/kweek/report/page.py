"""The page: one HTML file that needs nothing but itself.

The content policy allows exactly one style sheet and one script, by the hash of their text; there is nothing
else that a browser could load, run or send.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib import resources

from kweek.report import glossary
from kweek.report.markup import Child, Markup, join, tag
from kweek.report.section import Missing, Section

#: A sprout: two leaves on a stem.
LOGO = "M12 22V11M12 13C12 8.5 8.5 6 3 6C3 11 6.5 13 12 13ZM12 11C12 6.5 15.5 3 21 3C21 8.5 17.5 11 12 11Z"


@cache
def asset(name: str) -> str:
    """Text of the style sheet or of the script."""
    return resources.files("kweek.report").joinpath(name).read_text(encoding="utf-8")


def style_sheet() -> str:
    """The style sheet with the colours of the dark theme where they apply: by the system's wish unless the
    reader chose light, or by the reader's; never on paper."""
    dark = asset("dark.css")
    blocks = (
        '@media screen and (prefers-color-scheme: dark) { :root:not([data-theme="light"]) {\n'
        f'{dark}}} }}\n@media screen {{ :root[data-theme="dark"] {{\n{dark}}} }}'
    )
    return asset("page.css").replace("/* @dark */", blocks)


def digest(source: str) -> str:
    """A source's hash as content policies name it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


def policy(style: str, script: str) -> str:
    """The content policy: nothing from anywhere but the two texts whose hashes it names."""
    rules = [
        "default-src 'none'",
        f"style-src {digest(style)}",
        f"script-src {digest(script)}",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    return "; ".join(rules)


def page(
    title: str, head: Child, sections: Sequence[Section], missing: Sequence[Missing], foot: Child
) -> str:
    """The whole document."""
    style, script = style_sheet(), asset("page.js")
    explained = Section("glossary", "Glossary", "What every technical number here means.", glossary.as_html())
    shown = [*sections, explained]
    meta = [
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy(style, script)),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", title),
        Markup(f"<style>{style}</style>"),
    ]
    body = [
        tag("a", "To the content", href="#content", class_="skip"),
        _bar(),
        tag("main", head, _contents(shown), [_section(s) for s in shown], _missing(missing), id="content"),
        tag("footer", foot),
        tag("dialog", id="definition", aria_labelledby="definition-name"),
        Markup(f"<script>{script}</script>"),
    ]
    return f"<!doctype html>\n{tag('html', tag('head', meta), tag('body', body), lang='en')}\n"


def _bar() -> Markup:
    logo = tag("svg", tag("path", d=LOGO), viewBox="0 0 24 24", aria_hidden="true", class_="logo")
    toggle = tag("button", "Dark", type="button", id="theme", hidden=True)
    return tag("div", tag("p", logo, "Kweek", class_="brand"), toggle, class_="bar")


def _contents(sections: Sequence[Section]) -> Markup:
    links = [tag("li", tag("a", section.title, href=f"#{section.key}")) for section in sections]
    return tag("nav", tag("h2", "On this page", id="contents"), tag("ul", links), aria_labelledby="contents")


def _section(section: Section) -> Markup:
    heading = f"{section.key}-heading"
    head = tag("div", tag("h2", section.title, id=heading), tag("p", section.lede), class_="about")
    return tag(
        "section", head, tag("div", section.body, class_="content"), id=section.key, aria_labelledby=heading
    )


def _missing(missing: Sequence[Missing]) -> Child:
    if not missing:
        return None
    items = [tag("li", tag("b", item.title), ": needs ", item.needs) for item in missing]
    body = Section(
        "missing",
        "Not in this report",
        "These parts have no records: their stage did not run, or has not got so far.",
        tag("ul", items),
    )
    return join(_section(body))
