"""What alignment is given that cannot be: each must end in one clear error or a counted skip, and cost nothing else.

Chats that nobody can learn from among good ones, calls of tools that do not parse, judges that raise, hang, die or
give what is no number (`evidence/judges.py`), models of another tokenizer, recipes with any of them, and training runs
of four kinds that are killed again and again (`evidence/killed_training.py`). Command lines and killed runs are real
ones, in processes of their own.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import judges
import torch
from bad_chats import ASKED, BAD_CHATS, SAID, chat, good_chat
from harness import ROOT, evidence
from killing import killed

from kweek.align.algorithms import reinforce
from kweek.align.asynchronous import Asynchronous
from kweek.align.chats import load_chats
from kweek.align.collecting import Collected, Collector, Course
from kweek.align.environments.single_turn import SingleTurn
from kweek.align.environments.tool_using import ToolUsing
from kweek.align.environments.tools import CALCULATOR
from kweek.align.learner import Learner
from kweek.align.loop import Loop
from kweek.align.reference import Reference
from kweek.align.reward import RewardModel
from kweek.align.sampling import sample
from kweek.align.sources import Synchronous
from kweek.align.word_problems import WordProblems
from kweek.data import stories
from kweek.engine.engine import Engine
from kweek.errors import KweekError
from kweek.model.checkpoint import save_model
from kweek.model.config import ModelConfig
from kweek.model.network import Network
from kweek.model.scorer import scorer_from
from kweek.protocols import Completion, Request
from kweek.tokenize import bpe
from kweek.tokenize.tokenizer import Tokenizer
from kweek.train.distillation import load_teacher
from kweek.train.optimiser import LearningRates, SplitOptimiser
from kweek.train.trainer import Trainer

SECONDS = 1200  # after which a command hangs
GOOD, VOCABULARY = 60, 416
HERE = Path(__file__).resolve().parents[1]

Cases = dict[str, str]  # name -> what was wrong, empty where nothing was


def network_of(tokenizer: Tokenizer, seed: int = 0) -> Network:
    """Random weights."""
    network = Network(ModelConfig(tokenizer.vocab_size, 32, 64, 2, 1, 1, 32, max_positions=512))
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data.normal_(1.0 if parameter.ndim == 1 else 0.0, 0.2, generator=generator)
    return network


def kweek(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command line, where `judges` can be imported as a module of the user's."""
    path = os.pathsep.join([str(ROOT / "src"), str(HERE), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", "kweek", *words], capture_output=True, text=True, timeout=SECONDS, cwd=cwd,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip


def one_line(done: subprocess.CompletedProcess[str], *words: str) -> str:
    """What is wrong with the end of a command that had to fail; empty where nothing is."""
    said = done.stderr.strip()
    lines = [line for line in said.splitlines() if line.startswith("kweek: ")]
    if done.returncode != 2 or len(lines) != 1 or "Traceback" in said:
        return f"status {done.returncode}: {said[-300:]}"
    missing = [word for word in words if word not in lines[0]]
    return f"the line lacks {missing}: {lines[0]}" if missing else ""


def raised(call: Callable[[], object], *words: str) -> str:
    """What is wrong with an error of Kweek's that had to come; empty where nothing is."""
    try:
        call()
    except KweekError as error:
        missing = [word for word in words if word not in str(error)]
        return f"lacks {missing}: {error}" if missing or "\n" in str(error) else ""
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


# -- chats


def chats(root: Path, tokenizer: Tokenizer, model: Path) -> Cases:
    """Bad chats among good ones are counted, each under its reason; a file of nothing else is one error."""
    found: Cases = {}
    good = [json.dumps(good_chat(number)) for number in range(GOOD)]
    bad = {name: line if isinstance(line, str) else json.dumps(line) for name, (line, _) in BAD_CHATS.items()}
    path, only = root / "some.jsonl", root / "only.jsonl"
    for name, text in bad.items():
        path.write_text("\n".join([*good[:7], text, *good[7:]]) + "\n")
        data = load_chats(path, tokenizer, max_tokens=256)
        kept = {example.origin for example in (*data.train, *data.validation)}
        reasons = [reason for reason in data.report.skipped if BAD_CHATS[name][1] in reason]
        named = [place for reason in reasons for place in data.report.examples[reason] if ":8" in place]
        whole = data.report.num_rows == GOOD == len(kept) + data.num_near and data.report.num_skipped == 1
        only.write_text(text + "\n")
        error = raised(lambda: load_chats(only, tokenizer, max_tokens=256), "only.jsonl")
        found[f"chat: {name}"] = "" if whole and named and not error else f"{data.report.to_dict()} {error}"
    path.write_text("\n".join([*good, *bad.values()]) + "\n")
    shown = kweek("data", "show", str(path), "--model", str(model), "--json")
    report = json.loads(shown.stdout or "{}").get("report", {})
    counted = report.get("rows") == GOOD and sum(one["count"] for one in report["skipped"]) == len(bad)
    found["chats: all of them, on the command line"] = "" if counted else shown.stdout[:300] + shown.stderr
    only.write_text("\n".join(bad.values()) + "\n")
    shown = kweek("data", "show", str(only), "--model", str(model))
    found["chats: nothing else, on the command line"] = one_line(shown, "only.jsonl")
    return found | over_long(root, tokenizer, good)


def over_long(root: Path, tokenizer: Tokenizer, good: list[str]) -> Cases:
    """A chat that does not fit is left out and counted, or cut after the last turn that fits, as one asks."""
    path, only = root / "long.jsonl", root / "only.jsonl"
    answer = {"role": "assistant", "content": "one two three " * 200}
    long = chat(ASKED, SAID, {"role": "user", "content": "And then?"}, answer)
    path.write_text("\n".join([*good, json.dumps(long)]) + "\n")
    left, cut = (load_chats(path, tokenizer, max_tokens=256, over_long=how) for how in ("skip", "cut"))
    only.write_text(json.dumps(chat(ASKED, answer)) + "\n")
    skipped = dict(left.report.skipped)
    return {
        "an over-long chat": ""
        if skipped == {"more tokens than fit": 1} and left.report.num_rows == GOOD
        else f"{skipped}",
        "an over-long chat, cut": "" if cut.report.num_rows == GOOD + 1 else str(cut.report.to_dict()),
        "an over-long chat alone": raised(
            lambda: load_chats(only, tokenizer, max_tokens=256), "only.jsonl", "more tokens than fit"
        ),
    }


# -- rollouts


class Scripted:
    """A model that says given texts one after another, whatever it is asked."""

    def __init__(self, tokenizer: Tokenizer, texts: Sequence[str]) -> None:
        end = tokenizer.special["<|im_end|>"]
        self._said = [[*tokenizer.encode(text), end] for text in texts]

    def generate(self, requests: Sequence[Request], on_token: Any = None) -> list[Completion]:
        """The next texts."""
        said = [self._said.pop(0) for _ in requests]
        return [Completion(ids, [True] * len(ids), [-1.0] * len(ids), "stop", 1, 1.0) for ids in said]

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Nothing is known of them."""
        return [[0.0] * len(sequence) for sequence in sequences]


BAD_CALLS = (
    "<tool_call>?</tool_call>", '<tool_call>{"name": "calculator"', '<tool_call>{"name": 7}</tool_call>',
    '<tool_call>{"name": "calculator", "arguments": [1]}</tool_call>', "<tool_call></tool_call>",
)  # fmt: skip


def calls(tokenizer: Tokenizer) -> Cases:
    """A call that does not parse is told to the model and counted, and the answer after it still earns its reward."""
    world = ToolUsing(WordProblems(levels=(1,)), [CALCULATOR])
    item = world.items("calls", 1, "train")[0]
    found: Cases = {}
    for text in BAD_CALLS:
        model = Scripted(tokenizer, [text, item.gold])
        rollout = sample(model, tokenizer, world, [item], samples=1, key="calls")[0][0]
        told = [str(m["content"]) for m in rollout.messages if m["role"] == "tool"]
        good = (
            rollout.score.value == 1.0 and rollout.score.error is None
            and rollout.score.parts["unreadable calls"] == 1.0 and "cannot be read" in "".join(told)
        )  # fmt: skip
        found[f"call in a rollout: {text[:40]}"] = "" if good else f"{rollout.score} {told}"
    return found


# -- judges


class Odd:
    """Passes something odd on to a bad judge at some calls, and marks the rest itself: longer answers are better.

    The calls are counted in a file, because the judge's process may have been ended by the one before.
    """

    def __init__(self, judge: Callable[[str, str], Any], calls: Path, odd: Callable[[int], bool]) -> None:
        self._judge, self._calls, self._odd = judge, calls, odd

    def __call__(self, answer: str, gold: str) -> Any:
        with self._calls.open("ab") as file:
            file.write(b".")
        if self._odd(self._calls.stat().st_size):
            return self._judge("an odd one", gold)
        return min(1.0, len(answer) / 40)


def learner_of(tokenizer: Tokenizer) -> Learner:
    rates = LearningRates(1e-3, 1e-3, 1e-3, 1e-3)
    network = network_of(tokenizer)
    return Learner(Trainer(network, SplitOptimiser(network, rates, weight_decay=0.0)), reinforce(), limit=8)


def trained(
    tokenizer: Tokenizer, judge: Callable[[str, str], Any], folder: Path, *, beside: bool = False
) -> list[Collected]:
    """A few updates under a judge; what was collected for each."""
    items = judges.sums_of_exact.items("all", 60, "train")
    world = SingleTurn("sums", items, judge, max_new_tokens=8)
    course = Course(3, prompts=10, samples=10, warmup=1)
    learner, seen = learner_of(tokenizer), list[Collected]()
    collector = Collector(world, tokenizer, course, "judged", max_positions=512)
    network = learner.trainer.network
    source = Asynchronous(collector, network) if beside else Synchronous(collector, Engine(network))
    Loop(learner, source, course, folder, on_step=lambda totals, metrics, batch: seen.append(batch)).run()
    return seen


FAULTS = {
    "raises": "ValueError", "hangs": "it took over", "sleeps": "it took over", "nan": "returned nan",
    "dies": "its process died", "eats": "MemoryError|its process died", "says_yes": "returned str",
    "too_much": "outside 0 to 1",
}  # fmt: skip


def training(root: Path, tokenizer: Tokenizer) -> Cases:
    """In training a judge that fails now and then loses those attempts alone; one that fails often ends the run."""
    found: Cases = {}
    rarely = {40, 200, 300}  # in every batch of a hundred one, with the answers that are judged twice
    for name in ("raises", "nan", "dies", "hangs", "sleeps", "eats"):
        judge = Odd(judges.BAD[name], root / f"calls-{name}", rarely.__contains__)
        batches = trained(tokenizer, judge, root / f"rarely-{name}")
        counted = [(sum(map(len, one.groups)), len(one.faults)) for one in batches]
        words = FAULTS[name].split("|")
        named = all(any(word in text for word in words) for one in batches for text in one.faults)
        right = counted == [(99, 1)] * 3 and named
        found[f"judge {name} once in a hundred"] = (
            "" if right else f"{counted} {[one.faults for one in batches]}"
        )
    for name in ("raises", "nan", "dies"):
        for beside in (False, True):
            case = f"{name} often{', beside' if beside else ''}"
            judge = Odd(judges.BAD[name], root / f"calls-{case}", lambda number: number % 3 == 0)
            found[f"judge {case}"] = raised(
                functools.partial(trained, tokenizer, judge, root / case, beside=beside),
                "the judge failed on", FAULTS[name],
            )  # fmt: skip
    return found


def audits() -> Cases:
    """No judge that misbehaves passes the audit, and the one line says how it does."""
    said = {
        "raises": "raises", "hangs": "hangs or dies", "sleeps": "hangs or dies", "dies": "hangs or dies",
        "nan": "no number from 0 to 1", "too_much": "no number from 0 to 1", "says_yes": "raises", "eats": "",
    }  # fmt: skip
    found = {
        f"audit: {name}": one_line(kweek("data", "audit", f"judges:sums_of_{name}"), "verifier", words)
        for name, words in said.items()
    }
    sound = kweek("data", "audit", "judges:sums_of_exact")
    found["audit: a judge as it should be"] = "" if sound.returncode == 0 else sound.stderr[-300:]
    return found


# -- models of another tokenizer


def tokenizers(root: Path, tokenizer: Tokenizer) -> Cases:
    """As many tokens, but others: nothing but the tokenizer's own definition tells them apart."""
    other = bpe.train(
        ["a stranger's words, " * 3 + text for text in stories.sample_texts("other", 300, "train")],
        VOCABULARY,
    )
    assert other.vocab_size == tokenizer.vocab_size
    network = network_of(other)
    save_model(root / "teacher", network)
    save_model(root / "scorer", scorer_from(network))
    for name in ("teacher", "scorer"):
        other.save(root / name)
    small = bpe.train(stories.sample_texts("small", 300, "train"), VOCABULARY - 32)
    return {
        "reward model of another tokenizer": raised(
            lambda: RewardModel.load(root / "scorer", tokenizer), "another tokenizer"
        ),
        "teacher of another tokenizer": raised(
            lambda: load_teacher(root / "teacher", tokenizer), "tokenizer"
        ),
        "reference of another vocabulary": raised(
            lambda: Reference(network_of(small)).require_same_vocabulary(network), "tokens"
        ),
    }


# -- recipes


def recipes(root: Path) -> Cases:
    """What cannot train is refused before anything runs, or before the first update; what was done stays done."""
    folder, recipe = root / "run", root / "judged.yaml"
    whole = (HERE / "spine" / "small_run.yaml").read_text()
    recipe.write_text(whole[: whole.index("  quantized:")])  # up to reinforcement

    def run(environment: str) -> subprocess.CompletedProcess[str]:
        setting = f"stages.rl.environment={environment}"
        return kweek("run", str(recipe), "--out", str(folder), "--threads", "1", "--set", setting)

    def weights() -> dict[str, int]:
        paths = folder.glob("artifacts/*/model.safetensors")
        return {path.parent.name: path.stat().st_mtime_ns for path in paths}

    bad = root / "bad.jsonl"
    bad.write_text(json.dumps({"prompt": "What is 1+1?", "verifier": "number"}) + "\n")
    found = {
        "recipe: a prompt without gold": one_line(run(str(bad)), "bad.jsonl:1", "no gold answer"),
        "recipe: a file that is not there": one_line(run(str(root / "none.jsonl")), "none.jsonl"),
        "recipe: a name that is none": one_line(run("storeys"), "there is no environment"),
    }
    if (folder / "artifacts").exists() and weights():
        found["recipe: nothing runs before"] = f"{sorted(weights())}"
    found["recipe: a judge that raises"] = one_line(run("judges:sums_of_raises"), "the verifier raises")
    before = weights()
    if set(before) != {"base", "sft"}:
        found["recipe: what came before is there"] = f"{sorted(before)}"
    found["recipe: a judge that hangs"] = one_line(run("judges:sums_of_hangs"), "hangs or dies")
    found["recipe: a judge that gives NaN"] = one_line(run("judges:sums_of_nan"), "no number from 0 to 1")
    mended = run("judges:sums_of_exact")
    after = weights()
    kept = all(after.get(name) == changed for name, changed in before.items())
    found["recipe: with the judge mended, the rest stands"] = (
        ""
        if mended.returncode == 0 and "rl" in after and kept
        else f"{mended.returncode} {mended.stderr[-300:]}"
    )
    return found


def run(quick: bool) -> dict[str, Any]:
    """All cases; the quick version kills less often."""
    torch.set_num_threads(1)
    tokenizer = bpe.train(stories.sample_texts("bad input", 400, "train"), VOCABULARY)
    kills, resumed = (2 if quick else 8), dict[str, int]()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        save_model(root / "model", network_of(tokenizer))
        tokenizer.save(root / "model")
        verdicts: Cases = {
            **chats(root, tokenizer, root / "model"), **calls(tokenizer), **training(root, tokenizer), **audits(),
            **tokenizers(root, tokenizer), **recipes(root),
        }  # fmt: skip
        for kind in ("sft", "dpo", "ppo", "behind"):
            verdicts[f"killed {kills} times: {kind}"], resumed[kind] = killed(kind, root, kills)
    passed = sum(not wrong for wrong in verdicts.values())
    return {
        "ours": passed,
        "reference": len(verdicts),
        "unit": "cases with one clear error or a counted skip, and nothing lost",
        "ratio": passed / len(verdicts),
        "interval": None,
        "n": len(verdicts),
        "seeds": [0],
        "passed": passed == len(verdicts),
        "details": {
            "wrong": {case: wrong for case, wrong in verdicts.items() if wrong},
            "cases": sorted(verdicts),
            "kills": kills,
            "lives_that_went_on_from_a_checkpoint": resumed,
        },
    }


evidence(
    "align/bad_input",
    claim="Missing roles, empty turns, over-long chats, calls of tools that do not parse, a judge that raises, hangs "
    "or gives what is no number, a reward model of another tokenizer: one clear error or a counted skip, and nothing "
    "lost; "
    "killed runs go on with optimiser, environment and random state, and end in the same bits.",
    run=run,
)
