"""The text of a web page, in time linear in its length.

The standard library's `html.parser` needs time quadratic in the length of some malformed pages (17 s for
40 kB of repeated "<a "), which would let one bad file hold up a corpus. Extracting text needs no tree and no
attributes: this scanner skips over tags, drops what is not prose, and starts a new line at block elements.
"""

from __future__ import annotations

import html
import re

_MAX_TAG_CHARS = 4096  # how far a ">" inside quotes is looked past

#: Their content is not prose: programs, styles, drawings, navigation and forms.
_DROPPED = {
    "script", "style", "template", "noscript", "svg", "nav", "form", "select", "iframe", "object", "canvas",
}  # fmt: skip
#: What stands between these is its own paragraph (two line breaks) or line (one).
_PARAGRAPHS = {
    "p", "div", "section", "article", "main", "aside", "header", "footer", "blockquote", "ul", "ol", "dl",
    "table", "pre", "figure", "figcaption", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "title", "body", "head",
}  # fmt: skip
_LINES = {"br", "li", "tr", "dt", "dd", "option", "caption"}
_CELLS = {"td", "th"}

_OPENING = re.compile(r"<(?=[a-zA-Z/!?])")  # any other "<" is text
_NAME = re.compile(r"</?([a-zA-Z][a-zA-Z0-9]*)")
_ATTRIBUTE_OR_END = re.compile(r"=\s*[\"']|>")
_BLANKS = re.compile(r"\s+")
_SPACES_AROUND_BREAK = re.compile(r" *\n *")
_BREAKS = re.compile(r"\n{3,}")


def html_text(page: str) -> str:
    """The readable text of an HTML page: entities decoded, blanks folded outside `<pre>`."""
    out: list[str] = []
    position = 0
    preformatted = 0
    while (found := _OPENING.search(page, position)) is not None:
        opening = found.start()
        _add(out, page[position:opening], preformatted)
        match = _NAME.match(page, opening)
        if match is None:
            position = _skip_other(page, opening)
            continue
        position = _tag_end(page, opening)
        name, closing = match[1].lower(), page[opening + 1] == "/"
        if name in _DROPPED:
            position = position if closing else _skip_element(page, position, name)
        elif name == "pre":
            preformatted = max(0, preformatted - 1) if closing else preformatted + 1
        if name in _PARAGRAPHS:
            out.append("\n\n")
        elif name in _LINES and not closing:
            out.append("\n")
        elif name in _CELLS:
            out.append(" ")
    _add(out, page[position:], preformatted)
    return _tidy("".join(out))


def _add(out: list[str], text: str, preformatted: int) -> None:
    """Keep a run of text. Line breaks that count are marked, as those of running text do not."""
    if text:
        plain = html.unescape(text)
        out.append(plain.replace(" ", "\x1f") if preformatted else _BLANKS.sub(" ", plain))


def _tidy(text: str) -> str:
    folded = re.sub(r" {2,}", " ", text)
    folded = _SPACES_AROUND_BREAK.sub("\n", folded)
    return _BREAKS.sub("\n\n", folded).replace("\x1f", " ").strip("\n")


def _skip_other(page: str, opening: int) -> int:
    """Pass over a comment, a declaration or a closing tag without a name."""
    markers = (("<!--", "-->"), ("<![CDATA[", "]]>"), ("<", ">"))
    start, end = next(pair for pair in markers if page.startswith(pair[0], opening))
    found = page.find(end, opening + len(start))
    return found + len(end) if found >= 0 else len(page)


def _tag_end(page: str, opening: int) -> int:
    """The position after a tag's ">", one that stands inside a quoted attribute not counted."""
    end = page.find(">", opening)
    if end < 0:
        return len(page)
    position, limit = opening, opening + _MAX_TAG_CHARS
    while (match := _ATTRIBUTE_OR_END.search(page, position, limit)) is not None:
        if match[0] == ">":
            return match.end()
        closing = page.find(match[0][-1], match.end(), limit)
        if closing < 0:
            break
        position = closing + 1
    return end + 1  # a quotation mark that nobody closed


def _skip_element(page: str, position: int, name: str) -> int:
    """The position after the end tag of a dropped element; the page's end when it is never closed."""
    if page[position - 2 : position] == "/>":
        return position
    closing = re.compile(rf"</{name}\b", re.IGNORECASE).search(page, position)
    return _tag_end(page, closing.start()) if closing else len(page)
