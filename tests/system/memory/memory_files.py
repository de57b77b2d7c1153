"""Small real files of every kind that a memory reads, written by hand so that the tests need no other writer."""

import zipfile
import zlib

DOCUMENT_TYPE = '<?xml version="1.0"?>'
SPACE = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"


def pdf(pages, extra=b""):
    """A PDF of one line of text per page; `extra` goes before the last page's content."""
    objects = [b"<</Type/Catalog/Pages 2 0 R>>", b""]
    kids = []
    font = b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"
    objects.append(font)
    for text in pages:
        escaped = text.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)").encode("latin-1")
        content = zlib.compress(extra + b"BT /F1 12 Tf 50 700 Td (" + escaped + b") Tj ET")
        objects.append(b"<</Length %d/Filter/FlateDecode>>stream\n%s\nendstream" % (len(content), content))
        stream = len(objects)
        objects.append(
            b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents %d 0 R/Resources<</Font<</F1 3 0 R>>>>>>"
            % stream
        )
        kids.append(b"%d 0 R" % len(objects))
    objects[1] = b"<</Type/Pages/Count %d/Kids[%s]>>" % (len(kids), b" ".join(kids))
    return assemble(objects)


def assemble(objects):
    """Objects, numbered from 1, as a file with its table of places."""
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    start = len(out)
    return out + b"xref\n0 %d\n0000000000 65535 f \n%strailer<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n" % (
        len(objects) + 1, table, len(objects) + 1, start,
    )  # fmt: skip


def styled(style):
    """The element that names a paragraph's style."""
    return f'<w:pStyle w:val="{style}"/>' if style else ""


def word_xml(*paragraphs, head=DOCUMENT_TYPE):
    """The main part of a Word document: (style or None, text) for every paragraph."""
    body = "".join(
        f"<w:p><w:pPr>{styled(style)}<w:tabs><w:tab/></w:tabs></w:pPr><w:r><w:t>{text}</w:t></w:r></w:p>"
        for style, text in paragraphs
    )
    return f'{head}<w:document xmlns:w="{SPACE}"><w:body>{body}</w:body></w:document>'


def docx(path, xml, part="word/document.xml"):
    """Write a Word document with one part."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(part, xml)
    return path


def folder_of(path, **texts):
    """A folder of files: names (`__` for a dot) to texts."""
    path.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (path / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return path
