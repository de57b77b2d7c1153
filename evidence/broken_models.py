"""Model folders with something broken in them, each opened and asked as `kweek chat` does.

`python evidence/broken_models.py FOLDER COUNT SEED` breaks copies of a folder in every region of every file: bits
turned, the end cut off, blocks of nought, files emptied and removed. Every copy must be refused with one line, or
answer; a folder with a manifest must be refused whenever a file that the manifest names has changed. Prints one JSON
object.
"""

from __future__ import annotations

import json
import random
import resource
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kweek.cli.chat import find_model
from kweek.engine.engine import Engine
from kweek.errors import KweekError
from kweek.model.checkpoint import load_model
from kweek.protocols import Request
from kweek.store.artifact import MANIFEST
from kweek.tokenize.chat import encode_prompt
from kweek.tokenize.tokenizer import Tokenizer

MORE_MEMORY = (
    2 << 30
)  # bytes of address space that opening a small broken model may take beyond what is there
FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    MANIFEST,
)


@dataclass(frozen=True)
class Break:
    """The content of one file of a folder after something happened to it; None where it is gone."""

    what: str
    file: str
    data: bytes | None


def regions(file: str, data: bytes) -> dict[str, tuple[int, int]]:
    """The parts of a file that are read differently."""
    if not file.endswith(".safetensors"):
        return {"whole": (0, len(data))}
    end = 8 + int.from_bytes(data[:8], "little")
    return {"length of the header": (0, 8), "header": (8, end), "values": (end, len(data))}


def breaks(folder: Path, count: int, draw: random.Random) -> Iterator[Break]:
    """`count` turned bits in each region of each file, half as many blocks of nought, a fourth as many cuts."""
    for file in FILES:
        if not (folder / file).exists():
            continue
        data = (folder / file).read_bytes()
        yield Break(f"{file}: removed", file, None)
        yield Break(f"{file}: empty", file, b"")
        for name, (start, end) in regions(file, data).items():
            for _ in range(count):
                changed = bytearray(data)
                changed[draw.randrange(start, end)] ^= 1 << draw.randrange(8)
                yield Break(f"{file}: bit of {name}", file, bytes(changed))
            for _ in range(count // 2):
                at, size = draw.randrange(start, end), draw.choice([1, 8, 512])
                changed = data[:at] + bytes(min(size, len(data) - at)) + data[at + size :]
                if changed != data:
                    yield Break(f"{file}: nought in {name}", file, changed)
            for _ in range(max(1, count // 4)):
                yield Break(f"{file}: cut in {name}", file, data[: draw.randrange(start, end)])


def ask(folder: Path) -> str:
    """Open and ask: "answered", "refused", or what else happened."""
    try:
        found, _ = find_model(folder, None)
        network, tokenizer = load_model(found), Tokenizer.load(found)
        prompt = encode_prompt(tokenizer, [{"role": "user", "content": "What is 12+7? Ünï 🦜"}])
        done = Engine(network, num_slots=1).generate([Request(prompt, 4)])[0]
        tokenizer.decode(done.token_ids)
    except KweekError as error:
        return "refused" if "\n" not in str(error) else f"{str(error).count(chr(10)) + 1} lines: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "refused" if done.stop_reason == "error" else "answered"


def main() -> None:
    folder, count, draw = Path(sys.argv[1]), int(sys.argv[2]), random.Random(sys.argv[3])
    warnings.simplefilter("ignore")
    assert ask(folder) == "answered", ask(folder)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MORE_MEMORY,) * 2)
    named = json.loads((folder / MANIFEST).read_text())["files"] if (folder / MANIFEST).exists() else {}
    counts: Counter[str] = Counter()
    wrong: dict[str, str] = {}
    tried: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        for number, one in enumerate(breaks(folder, count, draw)):
            place = Path(name) / str(number)
            shutil.copytree(folder, place)
            (place / one.file).unlink() if one.data is None else (place / one.file).write_bytes(one.data)
            tried[one.what] += 1
            verdict = ask(place)
            shutil.rmtree(place)
            if verdict == "answered" and one.file in named:
                verdict = "answered, though the manifest names another content"
            counts[verdict if verdict in ("answered", "refused") else "wrong"] += 1
            if verdict not in ("answered", "refused"):
                wrong.setdefault(one.what, verdict[:300])
    print(json.dumps({"tried": sum(tried.values()), "counts": counts, "wrong": wrong, "kinds": len(tried)}))


main()
