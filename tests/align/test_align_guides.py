"""The guides to chats, preferences and reinforcement run as they stand there, on a small model and a few rows."""

import json
import re
from pathlib import Path

import pytest
from policy_world import small_policy, small_tokenizer

from kweek.data import stories
from kweek.model.checkpoint import load_model, save_model

DOCS = Path(__file__).parents[2] / "docs"


def code_of(name, **changes):
    """The names that the blocks of a guide define, run one after another."""
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / name).read_text(encoding="utf-8"), re.S)
    source = "\n".join(block for block in blocks if not block.startswith(">>>"))
    for old, new in changes.items():
        assert old.replace("_", " ") in source
        source = source.replace(old.replace("_", " "), new)
    names = {}
    exec(source, names)
    return names


@pytest.fixture
def model(tmp_path):
    save_model(tmp_path / "model", small_policy())
    small_tokenizer().save(tmp_path / "model")
    return tmp_path / "model"


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def changed(folder, model):
    """Whether a saved model has other weights than the one it came from, and answers with the same tokens."""
    new, old = load_model(folder), load_model(model)
    assert (folder / "tokenizer.json").exists() and new.config == old.config
    return any((a != b).any() for a, b in zip(new.parameters(), old.parameters(), strict=True))


def test_chats(model, tmp_path):
    problems = stories.problems("guide", 120, "train")
    rows = [{"question": problem.question, "answer": problem.answer} for problem in problems]
    teach = code_of("chats.md")["teach"]
    assert teach(model, write(tmp_path / "chats.jsonl", rows), tmp_path / "out") > 20
    assert changed(tmp_path / "out", model)


def test_preferences(model, tmp_path):
    names = code_of("preferences.md")
    line = re.search(r'^    (\{"prompt".*\})$', (DOCS / "preferences.md").read_text(encoding="utf-8"), re.M)[
        1
    ]
    problems = stories.problems("guide", 120, "train")
    pairs = [{"prompt": p.question, "chosen": p.answer, "rejected": "no"} for p in problems]
    file = write(tmp_path / "prefs.jsonl", [json.loads(line), *pairs])
    names["prefer"](model, file, tmp_path / "dpo")
    assert changed(tmp_path / "dpo", model)
    found = names["judge"](model, file, tmp_path / "reward")
    assert 0 < found.num_pairs < 30
    thumbs = [
        {"prompt": p.question, "completion": p.answer, "label": n % 2 == 0} for n, p in enumerate(problems)
    ]
    names["like"](model, write(tmp_path / "thumbs.jsonl", thumbs), tmp_path / "kto")
    assert changed(tmp_path / "kto", model)


def test_reinforcement(model, tmp_path):
    names = code_of(
        "reinforcement.md", **{"steps=50,_prompts=24,_samples=8": "steps=1, prompts=2, samples=3"}
    )
    assert names["practise"](model, tmp_path / "rl") == "1 updates"
    assert (tmp_path / "rl" / "tokenizer.json").exists()
