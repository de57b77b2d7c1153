"""What an engine and a server are given that cannot be: each must end in one clear error and cost nobody else anything.

Contexts that are too long, memory that runs out (the address space of a running server is cut, and a model that is
larger than its process may be is opened), a server and a generating process killed in the middle, models broken in
every region of every file (`evidence/broken_models.py`), and grammars that nothing satisfies or that cost too much.
Servers and command lines are real ones, in processes of their own.
"""

from __future__ import annotations

import http.client
import json
import resource
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from harness import ROOT, evidence

from kweek.data import stories
from kweek.model.checkpoint import save_model
from kweek.model.config import ModelConfig
from kweek.model.network import Network
from kweek.tokenize import bpe
from kweek.tokenize.tokenizer import Tokenizer

VOCABULARY, POSITIONS = 384, 2048
LIMIT = 256 << 20  # bytes that a server may take beyond what it has once it stands
SECONDS = 600  # after which an answer counts as none
NEVER = {
    str(token): -100 for token in range(VOCABULARY - 8, VOCABULARY)
}  # control tokens: an answer ends by its length alone
LONG = {"prompt": [3], "max_tokens": 1500, "temperature": 1.0, "seed": 11, "logit_bias": NEVER}


@dataclass(frozen=True)
class Server:
    """`kweek serve`, and plain HTTP to it."""

    process: subprocess.Popen[str]
    url: str

    def open(self, body: dict[str, Any], route: str = "completions") -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=SECONDS)
        connection.request("POST", f"/v1/{route}", json.dumps({"model": "m", **body}))
        return connection.getresponse()

    def ask(self, body: dict[str, Any], route: str = "completions") -> tuple[int, dict[str, Any]]:
        answer = self.open(body, route)
        return answer.status, json.loads(answer.read())


@contextmanager
def serving(folder: Path, *words: str) -> Iterator[Server]:
    command = [sys.executable, "-m", "kweek", "serve", str(folder), "--name", "m", "--json", *words]
    command += [] if "--port" in words else ["--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield Server(process, json.loads(process.stdout.readline())["url"])
    finally:
        process.kill()
        process.wait()


def kweek(*words: str, memory: int | None = None) -> tuple[int, str]:
    """Status and standard error of a command; `memory` bytes of address space at the most."""
    limit = None if memory is None else lambda: resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    command = [sys.executable, "-m", "kweek", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, preexec_fn=limit)
    return done.returncode, done.stderr


def make_model(folder: Path, tokenizer: Tokenizer, **sizes: int) -> None:
    """Random weights: what is said means nothing, but must be the same whenever it is said."""
    network = Network(
        ModelConfig(vocab_size=tokenizer.vocab_size, head_dim=32, max_positions=POSITIONS, **sizes)
    )
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data.normal_(1.0 if parameter.ndim == 1 else 0.0, 0.08, generator=generator)
    save_model(folder, network)
    tokenizer.save(folder)


def one_line(status: int, said: str, *words: str) -> str:
    """What is wrong with the end of a command that had to fail; empty where nothing is.

    What computes the model is said before it is asked anything, and is no part of the error.
    """
    lines = [line for line in said.strip().splitlines() if not line.startswith("Computed by ")]
    if status != 2 or len(lines) != 1 or not lines[0].startswith("kweek: "):
        return f"status {status}, {len(lines)} lines: {said[-300:]}"
    missing = [word for word in words if word not in said]
    return f"the line lacks {missing}: {said}" if missing else ""


def refused(answer: tuple[int, dict[str, Any]], status: int, *words: str) -> str:
    """The same for an answer of the server."""
    found, body = answer
    message = body.get("error", {}).get("message", "") if isinstance(body.get("error"), dict) else ""
    missing = [word for word in words if word not in message]
    return (
        "" if found == status and message and not missing else f"{found}, lacks {missing}: {str(body)[:300]}"
    )


# -- the cases: name -> what was wrong


def contexts(folder: Path) -> dict[str, str]:
    """Numbers of the prompt and of the context in every error, and nothing cut."""
    with serving(folder) as server:
        many = server.ask({"prompt": [3] * 2000, "max_tokens": 49})
        exact = server.ask({"prompt": [3] * 2000, "max_tokens": 48})
        text = server.ask({"prompt": "bee " * 9000, "max_tokens": 4})
        chat = server.ask({"messages": [{"role": "user", "content": "bee " * 2500}]}, "chat/completions")
        usage = exact[1].get("usage", {})
    asked = kweek("chat", str(folder), "-m", "bee " * 2500)
    return {
        "token prompt too long": refused(many, 400, "2000", "49", str(POSITIONS)),
        "prompt that just fits is whole": "" if usage.get("prompt_tokens") == 2000 else str(exact)[:300],
        "text prompt too long": refused(text, 400, str(POSITIONS), "prompt has"),
        "chat too long": refused(chat, 400, str(POSITIONS), "prompt has"),
        "question too long on the command line": one_line(*asked, "tokens; the model has room for"),
    }


def memory(folder: Path, huge: Path) -> dict[str, str]:
    """A server whose memory ends while it works, and a model that never fits."""
    with serving(folder) as server:
        alone = server.ask(LONG | {"max_tokens": 300})[1]["choices"][0]["text"]
        pid = server.process.pid
        used = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
        resource.prlimit(pid, resource.RLIMIT_AS, (used + LIMIT, used + LIMIT))
        beside: list[tuple[int, dict[str, Any]]] = []
        other = threading.Thread(target=lambda: beside.append(server.ask(LONG | {"max_tokens": 300})))
        other.start()
        prompts = [[number, *[5] * 1990] for number in range(1, 41)]
        failed = server.ask({"prompt": prompts, "max_tokens": 20, "temperature": 0})
        other.join()
        after = server.ask(LONG | {"max_tokens": 300})
        alive = server.process.poll() is None
    same = [answer.get("choices", [{}])[0].get("text") == alone for _, answer in (*beside, after)]
    return {
        "forty long texts where few fit": refused(failed, 500, "not enough memory"),
        "the request beside them": "" if same[0] else str(beside)[:300],
        "the request after them": "" if same[1] and alive else str(after)[:300],
        "a model larger than memory": one_line(
            *kweek("chat", str(huge), "-m", "hi", memory=6 << 30), "not enough memory"
        ),
    }


def make_huge(folder: Path, tokenizer: Tokenizer) -> None:
    """A folder of 8 GiB of weights that takes no disk: a file with a hole."""
    folder.mkdir()
    small = folder.with_name("huge-part")
    rows = 1 << 21
    config = ModelConfig(
        tokenizer.vocab_size, 1024, 64, 1, 2, 1, 64, tied_embeddings=True, max_positions=POSITIONS
    )
    save_model(small, Network(config))
    data = (small / "model.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    grown = rows * 1024 * 4 - tokenizer.vocab_size * 1024 * 4
    order = sorted((key for key in header if key != "__metadata__"), key=lambda k: header[k]["data_offsets"])
    at = 0
    for name in order:
        start, end = header[name]["data_offsets"]
        more = grown if name == "model.embed_tokens.weight" else 0
        header[name]["data_offsets"] = [at, at + end - start + more]
        at += end - start + more
    header["model.embed_tokens.weight"]["shape"][0] = rows
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)
    document = json.loads((small / "config.json").read_text()) | {"vocab_size": rows}
    (folder / "config.json").write_text(json.dumps(document))
    tokenizer.save(folder)


def read_stream(answer: http.client.HTTPResponse, stop: Callable[[int], None]) -> tuple[str, bool]:
    """Text of a stream, and whether it came to its end; `stop` is told how many pieces there are."""
    text, pieces = "", 0
    try:
        while line := answer.readline():
            if line.startswith(b"data: [DONE]"):
                return text, True
            if line.startswith(b"data: "):
                text += json.loads(line[6:])["choices"][0]["text"]
                pieces += 1
                stop(pieces)
    except (OSError, http.client.HTTPException, ValueError):
        pass
    return text, False


def killed_server(folder: Path) -> dict[str, str]:
    """Killed in the middle of a stream: the client is told at once, and the same port and seed give the whole text."""
    body = LONG | {"stream": True}
    with serving(folder) as server:
        port = str(urlsplit(server.url).port)
        killed_at = 0.0

        def kill(pieces: int) -> None:
            nonlocal killed_at
            if pieces == 5:
                server.process.kill()
                killed_at = time.monotonic()

        part, whole = read_stream(server.open(body), kill)
        seconds = time.monotonic() - killed_at
    with serving(folder, "--port", port) as again:
        text, ended = read_stream(again.open(body), lambda pieces: None)
    return {
        "stream of a killed server ends": "" if part and not whole and seconds < 10 else f"{whole} {seconds}",
        "the restarted server has the port": "" if ended else "the stream does not end",
        "the same seed gives what was lost": ""
        if text.startswith(part) and len(text) > len(part)
        else text[:99],
    }


def killed_generation(folder: Path, times: int) -> dict[str, str]:
    """A process that puts its generations into a file after every step, killed again and again, is always resumable."""
    script = textwrap.dedent("""
        import json, sys
        from pathlib import Path
        from kweek.engine.engine import Engine
        from kweek.engine.suspended_file import read_suspended, write_suspended
        from kweek.model.checkpoint import load_model
        from kweek.protocols import Request
        engine, path, keep = Engine(load_model(sys.argv[1])), Path(sys.argv[2]), sys.argv[3] == "keep"
        if path.exists():
            tickets = [engine.resume(one) for one in read_suspended(path)]
        else:
            tickets = [engine.submit(Request([i, 7], 400, 1.0, seed=i, num_top=1)) for i in range(4)]
        done = {}
        print("running", flush=True)
        while engine.num_active:
            for _ in range(10 if keep else 400):
                done |= {ticket: completion.token_ids for ticket, completion in engine.step()}
            if keep:
                held = engine.suspend()
                write_suspended(path, held)
                tickets = [engine.resume(one) for one in held]
        print(json.dumps([done[ticket] for ticket in tickets]))
    """)

    def start(path: Path, keep: str) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", script, str(folder), str(path), keep]
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "waiting.json"
        undisturbed = start(Path(name) / "none.json", "whole").communicate(timeout=SECONDS)[0]
        kills = 0
        for number in range(times):
            process = start(path, "keep")
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.01 + 0.003 * number)  # all of them together well within the time the texts take
            kills += process.poll() is None
            process.send_signal(signal.SIGKILL)
            process.communicate()
            if path.exists() and '"generations": []' in path.read_text():
                break
        said, errors = start(path, "whole").communicate(timeout=SECONDS)
    same = kills == times and said.splitlines()[-1:] == undisturbed.splitlines()[-1:] and len(said) > 100
    return {
        f"generations of a process killed {times} times": "" if same else f"{kills} kills: {errors[-300:]}"
    }


def broken_models(folders: dict[str, Path], count: int) -> tuple[dict[str, str], dict[str, Any]]:
    """What of all the broken copies was neither refused with one line nor answered."""
    verdicts: dict[str, str] = {}
    counts: dict[str, Any] = {}
    for seed, (name, folder) in enumerate(folders.items()):
        words = [
            sys.executable,
            str(ROOT / "evidence" / "broken_models.py"),
            str(folder),
            str(count),
            str(seed),
        ]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode != 0:
            verdicts[f"broken: {name}"] = f"status {done.returncode}: {done.stderr[-300:]}"
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        counts[name] = {"tried": found["tried"], **found["counts"]}
        verdicts[f"broken: {name}"] = json.dumps(found["wrong"]) if found["wrong"] else ""
    return verdicts, counts


IMPOSSIBLE: dict[str, tuple[dict[str, Any], str]] = {
    "bounds that exclude each other": ({"type": "integer", "minimum": 5, "maximum": 3}, "nothing satisfies"),
    "a reference to nowhere": ({"$ref": "#/$defs/none"}, "none"),
    "a schema that only contains itself": ({"$ref": "#"}, "nothing satisfies"),
    "an expression that is none": ({"type": "string", "pattern": "("}, "not closed"),
    "an expression of a billion states": ({"type": "string", "pattern": "((a{1000}){1000}){1000}"}, ""),
    "no type at all": ({"type": "wish"}, "type"),
    "a schema of a million levels": (
        json.loads('{"items":' * 900 + "{}" + "}" * 900) | {"type": "array"},
        "",
    ),
}


def grammars(folder: Path) -> dict[str, str]:
    """Each impossible grammar is an error of its own request while another request streams on."""
    found: dict[str, str] = {}
    with serving(folder) as server:
        expected, _ = read_stream(server.open(LONG | {"stream": True}), lambda pieces: None)
        beside: list[tuple[str, bool]] = []
        stream = server.open(LONG | {"stream": True})
        other = threading.Thread(target=lambda: beside.append(read_stream(stream, lambda pieces: None)))
        other.start()
        for name, (schema, said) in IMPOSSIBLE.items():
            form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
            body = {
                "messages": [{"role": "user", "content": "hi"}],
                "max_tokens": 30,
                "response_format": form,
            }
            started = time.monotonic()
            found[f"grammar: {name}"] = refused(server.ask(body, "chat/completions"), 400, said)
            if time.monotonic() - started > 60:
                found[f"grammar: {name}"] = "took more than a minute"
        other.join()
        found["the stream beside them"] = "" if beside == [(expected, True)] else "another text"
    return found


def run(quick: bool) -> dict[str, Any]:
    """All cases; the quick version breaks fewer copies."""
    torch.set_num_threads(1)
    tokenizer = bpe.train(stories.sample_texts("bad input", 500, "train"), VOCABULARY)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        small, wide = root / "small", root / "wide"
        make_model(
            small, tokenizer, hidden_size=64, intermediate_size=96, num_layers=2, num_heads=2, num_kv_heads=1
        )
        # Much memory for keys and values and little arithmetic: 16 KiB a token.
        make_model(
            wide, tokenizer, hidden_size=64, intermediate_size=64, num_layers=8, num_heads=8, num_kv_heads=8
        )
        make_huge(root / "huge", tokenizer)
        packed = root / "packed"
        words = ["quantize", str(small), "--out", str(packed), "--bits", "4", "--method", "rtn", "--json"]
        status, errors = kweek(*words)
        if status != 0:
            raise SystemExit(f"kweek quantize failed: {errors}")
        bare = root / "bare"
        bare.mkdir()
        for file in packed.iterdir():
            if file.is_file() and file.name != "artifact.json":
                (bare / file.name).write_bytes(file.read_bytes())
        kinds = {"32 bits": small, "4 bits, with manifest": packed, "4 bits, without manifest": bare}
        broken, counts = broken_models(kinds, 10 if quick else 200)
        verdicts = {
            **contexts(small), **memory(wide, root / "huge"), **killed_server(small),
            **killed_generation(small, 4 if quick else 12), **grammars(small), **broken,
        }  # fmt: skip
    passed = sum(not wrong for wrong in verdicts.values())
    return {
        "ours": passed,
        "reference": len(verdicts),
        "unit": "cases with one clear error and nothing lost",
        "ratio": passed / len(verdicts),
        "interval": None,
        "n": len(verdicts) + sum(kind["tried"] for kind in counts.values()),
        "seeds": [0, 1, 2],
        "passed": passed == len(verdicts),
        "details": {
            "wrong": {case: wrong for case, wrong in verdicts.items() if wrong},
            "cases": sorted(verdicts),
            "broken_copies": counts,
        },
    }


evidence(
    "engine/bad_input",
    claim="A context too long (both numbers, never cut), out of memory, a killed process, a corrupt or truncated model "
    "and an impossible grammar each give one clear error, and nothing of other requests or of finished work is lost.",
    run=run,
)
