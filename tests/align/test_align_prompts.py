"""Prompts with verifiers from a file: every line that is none is named."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kweek.align.audit.environment import audit_environment
from kweek.align.audit.finding import require_sound
from kweek.align.environments.named import environment
from kweek.align.environments.prompts import Prompts, read_items, read_prompts
from kweek.align.verifiers.named import KINDS, named
from kweek.errors import ConfigError, DataError


def write(path, *records):
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_text("\n".join(lines) + "\n")
    return path


def prompt(number, **more):
    return {"prompt": f"What is {number}+{number}?", "gold": str(2 * number), "verifier": "number", **more}


def judged(made, item, answer):
    episode = made.begin(item)
    episode.step({"role": "assistant", "content": answer})
    return episode.score().value


def test_every_line_is_judged_by_its_own_verifier(tmp_path):
    path = write(
        tmp_path / "p.jsonl",
        prompt(6, level="easy"),
        "",
        {"prompt": "Which?", "gold": "B", "verifier": {"kind": "choice", "options": ["red", "blue"]}},
        {"messages": [{"role": "system", "content": "Box it."}, {"role": "user", "content": "One half?"}],
         "answer": "1/2", "verifier": {"kind": "mathematics", "reading": "boxed"}},
        {"prompt": "Greet as JSON.", "gold": {"say": "hi"}, "verifier": "json"},
    )  # fmt: skip
    made = read_prompts(path)
    by_gold = {item.gold: item for split in ("train", "validation", "test") if made.pool.count(split)
               for item in made.items("k", 9, split)}  # fmt: skip
    assert len(by_gold) == 4 and by_gold["12"].level == "easy"
    assert judged(made, by_gold["12"], "12.0") == 1.0 and judged(made, by_gold["12"], "B") == 0.0
    assert judged(made, by_gold["B"], "blue") == 1.0 and judged(made, by_gold["B"], "12") == 0.0
    assert judged(made, by_gold["1/2"], "\\boxed{0.5}") == 1.0 and judged(made, by_gold["1/2"], "0.5") == 0.0
    assert judged(made, by_gold['{"say": "hi"}'], '{"say": "hi"}') == 1.0
    assert by_gold["1/2"].data["reference"] == "\\boxed{1/2}"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "not valid JSON"),
        ("[1]", "not a JSON object"),
        ({"prompt": "x", "verifier": "number"}, "no gold answer"),
        ({"gold": "1", "verifier": "number"}, "the message is empty"),
        ({"messages": [], "gold": "1", "verifier": "number"}, "neither a prompt nor messages"),
        (
            {"messages": [{"role": "boss", "content": "x"}], "gold": "1", "verifier": "number"},
            "no message with a role",
        ),
        ({"messages": [{"role": "user", "content": " "}], "gold": "1", "verifier": "number"}, "is empty"),
        (
            {"messages": [{"role": "assistant", "content": "x"}], "gold": "1", "verifier": "number"},
            "asks nothing",
        ),
        ({"prompt": "\ud800", "gold": "1", "verifier": "number"}, "surrogate"),
        ({"prompt": "x", "gold": "1"}, "no verifier is named"),
        ({"prompt": "x", "gold": "1", "verifier": "numbr"}, "Write 'number'"),
        ({"prompt": "x", "gold": "1", "verifier": "os:system"}, "there is no verifier"),
        (
            {"prompt": "x", "gold": "1", "verifier": {"kind": "number", "tolerance": 1}},
            "no option 'tolerance'",
        ),
        (
            {"prompt": "x", "gold": "1", "verifier": {"kind": "number", "absolute": "a"}},
            "is no value for absolute",
        ),
        (
            {"prompt": "x", "gold": "1", "verifier": {"kind": "number", "reading": "sideways"}},
            "reading of number",
        ),
        (
            {"prompt": "x", "gold": "1", "verifier": {"kind": "program", "run": "x"}},
            "no option 'run'|sandbox",
        ),
        ({"prompt": "x", "gold": "1", "verifier": "number", "promt": "y"}, "the key 'promt' is not known"),
    ],
)
def test_a_line_that_is_no_prompt_is_named(tmp_path, line, words):
    path = write(tmp_path / "p.jsonl", prompt(1), line)
    with pytest.raises(DataError, match=rf"p\.jsonl:2.*{words}"):
        read_prompts(path)


def table(path, *records):
    pq.write_table(pa.Table.from_pylist(list(records)), path)
    return path


def every(made):
    return [
        item
        for split in ("train", "validation", "test")
        if made.pool.count(split)
        for item in made.items("k", 99, split)
    ]


def test_tables_are_read_like_lines(tmp_path):
    choice = {"kind": "choice", "num_options": 2}
    lines = [prompt(i, verifier={"kind": "number"}, level="easy") for i in range(1, 9)]
    lines += [{"prompt": "A or B?", "gold": "B", "verifier": choice, "level": "hard"}]
    asked, found = (
        {(item.id, item.gold, item.level, json.dumps(item.data, sort_keys=True)) for item in every(made)}
        for made in (
            read_prompts(write(tmp_path / "p.jsonl", *lines)),
            read_prompts(table(tmp_path / "p.parquet", *lines)),
        )
    )
    assert asked == found and len(found) == 9
    schema = {"messages": [{"role": "user", "content": "An integer, as JSON."}], "gold": '{"type": "integer"}',
              "verifier": "schema", "reference": "7"}  # fmt: skip
    (tmp_path / "saved").mkdir()
    made = environment(str(table(tmp_path / "saved" / "train.parquet", schema).parent))
    (item,) = every(made)
    assert (
        item.data["reference"] == "7" and judged(made, item, "12") == 1.0 and judged(made, item, "x") == 0.0
    )


def test_names_of_data_sets_are_no_verifiers(tmp_path):
    rows = [
        {"data_source": "openai/gsm8k", "prompt": [{"role": "user", "content": f"What is {i}+1?"}],
         "reward_model": {"style": "rule", "ground_truth": str(i + 1)}}
        for i in range(20)
    ]  # fmt: skip
    path = table(tmp_path / "train.parquet", *rows)
    made = read_prompts(path, verifier="number")
    assert {judged(made, item, item.gold) for item in every(made)} == {1.0}
    with pytest.raises(DataError, match=r"train\.parquet.*there is no verifier 'openai/gsm8k'"):
        read_prompts(path)


def test_tables_that_hold_no_tasks_are_named(tmp_path):
    with pytest.raises(DataError, match=r"train\.parquet.*conversation where a task"):
        read_prompts(table(tmp_path / "train.parquet", {"question": "How many?", "answer": "two"}))
    with pytest.raises(DataError, match=r"gone\.parquet"):
        read_prompts(tmp_path / "gone.parquet")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match=r"nothing\.jsonl.*No such file"):
        read_prompts(tmp_path / "nothing.jsonl")
    with pytest.raises(DataError, match="no items"):
        read_prompts(write(tmp_path / "empty.jsonl", ""))
    with pytest.raises(DataError, match="different answers"):
        read_prompts(write(tmp_path / "p.jsonl", prompt(1), prompt(1, gold="3")))


def test_a_file_passes_the_audit_with_a_verifier_for_all(tmp_path):
    lines = [{key: value for key, value in prompt(i).items() if key != "verifier"} for i in range(1, 60)]
    made = read_prompts(write(tmp_path / "p.jsonl", *lines), verifier="number")
    require_sound(audit_environment(made))


def test_records_of_another_source_are_taken_too():
    items = read_items([("table row 1", prompt(1)), ("table row 2", prompt(2))])
    assert len(Prompts("table", items).pool) == 2


def test_verifiers_by_name():
    for kind in set(KINDS) - {"program", "citation"}:
        assert named(kind)("", "x").value == 0.0
    assert (
        named({"kind": "citation", "documents": {"a": "some text here"}})('"text here" [a]', "here").value
        == 1.0
    )
    with pytest.raises(ConfigError, match="no option"):
        named({"kind": "text", "run": 1})
