"""The process that compiles what strangers send: `python -m kweek.engine.constraints.worker`.

First a vocabulary arrives, then jobs, one at a time; each is answered. Memory is bounded by the kernel for each job,
and so is processor time, in case the parent that would kill it is gone. The end of standard input ends it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

from kweek.engine.constraints.frames import read_frame, write_frame
from kweek.engine.constraints.jobs import Answer, answer
from kweek.engine.constraints.library import is_installed
from kweek.engine.constraints.limits import GrammarError, Limits
from kweek.engine.constraints.vocabulary import Vocabulary

_STACK_BYTES = 2 << 20  # a quarter of the main thread's: what recurs deeper fails here, not in the parent
_RETIRE_SHARE = 0.5  # of the memory limit still held after a job: a fresh process is better


def _answer(message: dict[str, Any], vocabulary: Vocabulary) -> Answer:
    """Compile, with whatever happens turned into an answer."""
    try:
        return answer(message, vocabulary)
    except GrammarError as error:
        return {"error": error.what, "where": error.where, "fix": error.fix}, []
    except MemoryError:
        return {"error": "it needs more memory than allowed", "fix": "make the grammar smaller"}, []
    except UnicodeEncodeError:
        return {"error": "it holds half of a surrogate pair, which is not text"}, []
    except RecursionError:
        return {"error": "it nests too deep", "fix": "flatten the grammar"}, []
    except BaseException as error:  # a panic of the library is no Exception; nothing may end the worker
        return {
            "error": " ".join(f"it cannot be compiled ({type(error).__name__}: {error})".split())[:300]
        }, []


def _data_bytes() -> int | None:
    """Private writable memory, None where the system does not say. Address space is no measure: heaps reserve it."""
    with contextlib.suppress(OSError, ValueError):
        return int(Path("/proc/self/statm").read_text().split()[5]) * os.sysconf("SC_PAGE_SIZE")
    return None


def _restrain(limits: Limits, base: int | None) -> None:
    """Bound memory and processor time of the job to come; without the module (Windows) the parent's clock must do."""
    with contextlib.suppress(ImportError):
        import resource

        if base is not None:
            resource.setrlimit(
                resource.RLIMIT_DATA, (base + int(limits.memory_bytes), resource.RLIM_INFINITY)
            )
        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = int(used.ru_utime + used.ru_stime + limits.seconds) + 2
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def serve() -> None:
    """Read the vocabulary, then answer jobs until there are no more."""
    source, target = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not become an answer
    if (first := read_frame(source)) is None:
        return
    head, (lengths, joined) = first
    ends = np.cumsum(np.frombuffer(lengths, dtype=np.int32)).tolist()
    pieces = [joined[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    vocabulary = Vocabulary(pieces, head["eos"], head["control"], head["names"])
    if is_installed():
        _ = vocabulary.guidance  # before memory is bounded, and once
    base = _data_bytes()
    while (frame := read_frame(source)) is not None:
        _restrain(Limits(**frame[0]["limits"]), base)
        head, blobs = _answer(frame[0], vocabulary)
        held = _data_bytes()
        grown = 0 if base is None or held is None else held - base
        head["retire"] = grown > _RETIRE_SHARE * frame[0]["limits"]["memory_bytes"]
        write_frame(target, head, blobs)


def main() -> None:
    """Serve on a thread with a small stack."""
    threading.stack_size(_STACK_BYTES)
    thread = threading.Thread(target=serve, name="compiler")
    thread.start()
    thread.join()


if __name__ == "__main__":
    main()
