"""The text of a PDF, page by page; runs in a process of its own, because a file can make any PDF library loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

#: How the library marks a hyphen at the end of a line, with the line's end.
_HYPHENS = ("\ufffe\r\n", "\ufffe", "\x02\r\n", "\x02")


def read_pdf(path: str) -> dict[str, Any]:
    """`{"text", "pages"}`: the text, and where in it (bytes of UTF-8) each page begins. Or `{"bad": reason}`."""
    try:
        import pypdfium2
    except ImportError:
        return {"bad": "reading .pdf needs the package pypdfium2; pip install 'kweek[documents]'"}
    try:
        document = pypdfium2.PdfDocument(Path(path))
    except pypdfium2.PdfiumError as error:
        protected = "password" in str(error).lower()
        return {"bad": "protected by a password" if protected else f"no valid PDF ({error})"}
    pieces: list[str] = []
    pages: list[int] = []
    at = 0
    for number in range(len(document)):
        pages.append(at)
        try:
            page = document[number]
            text = page.get_textpage().get_text_range()
            page.close()
        except pypdfium2.PdfiumError:
            continue  # the other pages may be sound
        for hyphen in _HYPHENS:
            text = text.replace(hyphen, "")
        text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\x00", "")
        if text.strip():
            pieces.append(text.strip() + "\n\n")
            at += len(pieces[-1].encode("utf-8", "replace"))
    if not pieces:
        return {"bad": "holds no text (pictures of pages?); run text recognition over it first"}
    return {"text": "".join(pieces), "pages": pages}
