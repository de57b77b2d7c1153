"""Chats to examples: masks, weights, lengths, sides; and packing that no chat notices."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kweek.align.chats import answers, as_item, encode_answer, encode_row, load_chats
from kweek.align.packing import check_packing
from kweek.align.preview import preview
from kweek.align.sft import ChatBatches, weighted
from kweek.data import stories
from kweek.data.batches import collate, pack
from kweek.data.chats import Conversation, Judgement, Preference, Task
from kweek.data.chats_report import BadRow
from kweek.data.prompts import is_validation
from kweek.errors import DataError, GuardError
from kweek.model.config import ModelConfig
from kweek.model.initial import initialise
from kweek.model.network import Network
from kweek.tokenize import bpe
from kweek.tokenize.chat import encode_chat
from kweek.tokenize.tokenizer import Tokenizer
from kweek.train.objective import Likelihood
from kweek.train.optimiser import LearningRates, SplitOptimiser
from kweek.train.trainer import Trainer


def asked(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def said(text: str, **rest: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **rest}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return bpe.train(stories.sample_texts("chats", 200, "train"), 384)


@pytest.fixture(scope="module")
def network(tokenizer: Tokenizer) -> Network:
    made = Network(ModelConfig(tokenizer.vocab_size, 32, 64, 2, 2, 1, head_dim=16, max_positions=512))
    initialise(made, torch.Generator().manual_seed(0))
    with torch.no_grad():  # the start is one without any attention
        for parameter in made.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.05)
    return made


def write(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def story_chats(count: int, key: str = "chats") -> list[dict[str, Any]]:
    items = stories.problems(key, count, "train")
    return [{"messages": [asked(item.question), said(item.answer)]} for item in items]


SEVERAL = (asked("one"), said("eins"), asked("two"), said("zwei"), asked("three"), said("drei"))


def learnt(tokenizer: Tokenizer, ids: Any, weights: Any) -> dict[float, str]:
    """The text of every weight."""
    texts: dict[float, str] = {}
    for index, weight in zip(ids.tolist(), weights.tolist(), strict=True):
        texts[weight] = texts.get(weight, "") + tokenizer.decode([index])
    return texts


# -- one row


def test_weights_of_rows_and_messages_multiply(tokenizer: Tokenizer) -> None:
    messages = (SEVERAL[0], said("eins", weight=0.0), *SEVERAL[2:4], SEVERAL[4], said("drei", weight=2.0))
    ((chat, example),) = encode_row(tokenizer, Conversation(messages, weight=0.5, origin="f:1"), 200)
    texts = learnt(tokenizer, example.ids, example.weights)
    assert texts[0.5] == "zwei<|im_end|>"
    assert texts[1.0] == "drei<|im_end|>"
    assert "eins<|im_end|>" in texts[0.0]
    assert example.question == "one"
    assert example.origin == "f:1"
    part = example.segment()
    assert part.weights.tolist() == example.weights.tolist()[1:]
    assert part.targets.tolist() == chat.token_ids[1:]
    with pytest.raises(BadRow, match="a weight of 0 throughout"):
        encode_row(tokenizer, Conversation(SEVERAL, weight=0.0), 200)


def test_reasoning_of_every_turn_is_learnt_in_an_example_of_its_own(tokenizer: Tokenizer) -> None:
    messages = (SEVERAL[0], said("eins", reasoning_content="count"), *SEVERAL[2:])
    examples = [example for _, example in encode_row(tokenizer, Conversation(messages), 200)]
    texts = [learnt(tokenizer, example.ids, example.weights)[1.0] for example in examples]
    assert texts == ["<think>count</think>eins<|im_end|>", "zwei<|im_end|>drei<|im_end|>"]


def test_long_chats_are_left_out_or_cut_at_the_end_of_a_turn(tokenizer: Tokenizer) -> None:
    row = Conversation(SEVERAL)
    whole = len(encode_chat(tokenizer, SEVERAL).token_ids)
    two = encode_chat(tokenizer, SEVERAL[:4])
    assert len(encode_row(tokenizer, row, whole)[0][0].token_ids) == whole
    with pytest.raises(BadRow, match=f"more tokens than fit .{whole} of {whole - 1}"):
        encode_row(tokenizer, row, whole - 1)
    ((chat, _),) = encode_row(tokenizer, row, whole - 1, "cut")
    assert chat == two
    ((chat, _),) = encode_row(tokenizer, row, len(two.token_ids), "cut")
    assert chat == two
    assert len(encode_row(tokenizer, row, len(two.token_ids) - 1, "cut")[0][0].turns) < len(two.turns)
    with pytest.raises(BadRow, match="more tokens than fit"):
        encode_row(tokenizer, row, 5, "cut")


def test_judged_answers_are_learnt_and_their_prompts_are_not(tokenizer: Tokenizer) -> None:
    prompt = SEVERAL[:3]
    row = Preference(prompt, (said("zwei"),), (said("drei"),))
    for chat, text in zip(answers(tokenizer, row), ("zwei", "drei"), strict=True):
        owned = [i for i, turn in zip(chat.token_ids, chat.turns, strict=True) if turn >= 0]
        assert tokenizer.decode(owned) == f"{text}<|im_end|>"
        assert set(chat.turns) == {-1, 3}
    (good,) = answers(tokenizer, Judgement(prompt, (said("zwei"),), True))
    assert good == answers(tokenizer, row)[0]
    several = (said("a", reasoning_content="r"), asked("?"), said("b"))
    with pytest.raises(BadRow, match="the template rewrites"):
        encode_answer(tokenizer, prompt, several)
    plain = encode_answer(tokenizer, prompt, (said("a"), asked("?"), said("b")))
    assert set(plain.turns) == {-1, 3, 5}


def test_a_task_is_an_item(tokenizer: Tokenizer) -> None:
    item = as_item(Task((asked("one"),), "1", "number", "easy", {"unit": "cm"}))
    assert (item.messages, item.gold, item.level) == ((asked("one"),), "1", "easy")
    assert item.data == {"unit": "cm", "verifier": "number"}


# -- a file


def test_a_file_becomes_training_and_validation(tokenizer: Tokenizer, tmp_path: Path) -> None:
    chats = story_chats(300)
    bad = [{"messages": []}, chats[0], {"messages": [asked("x " * 400), said("y")]}]
    found = load_chats(write(tmp_path / "a.jsonl", [*chats, *bad]), tokenizer, max_tokens=200, share=0.2)
    assert found.report.skipped == {
        "no messages": 1,
        "the same row as one before": 1,
        "more tokens than fit": 1,
    }
    assert found.report.num_rows == 300
    assert len(found.train) + len(found.validation) + found.num_near == 300
    assert all(is_validation(example.question, 0.2) for example in found.validation)
    assert not any(is_validation(example.question, 0.2) for example in found.train)
    assert found.audit.num_chats == found.audit.num_turns == 300
    assert found.audit.last == (("<|im_end|>", 300),)
    assert {example.origin for example in found.train} < {f"a.jsonl:{i}" for i in range(1, 301)}


def test_a_validation_file_of_its_own_is_not_trained_on(tokenizer: Tokenizer, tmp_path: Path) -> None:
    chats = story_chats(60)
    train = write(tmp_path / "a.jsonl", chats[:50])
    held_out = write(tmp_path / "b.jsonl", [*chats[40:], {"messages": None}])
    found = load_chats(train, tokenizer, max_tokens=200, validation=held_out)
    assert len(found.validation) == 20
    assert found.num_near >= 10
    assert not {example.question for example in found.train} & {
        example.question for example in found.validation
    }
    assert any("b.jsonl: 20 rows, 1 left out" in note for note in found.report.notes)
    with pytest.raises(DataError, match="every row asks nearly what validation asks"):
        load_chats(train, tokenizer, max_tokens=200, validation=train)


def test_files_that_cannot_be_trained_on(tokenizer: Tokenizer, tmp_path: Path) -> None:
    chats = write(tmp_path / "a.jsonl", story_chats(20))
    with pytest.raises(DataError, match=r"nothing in it can be used .* 20 x more tokens than fit"):
        load_chats(chats, tokenizer, max_tokens=5)
    pairs = write(tmp_path / "b.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "c"}])
    with pytest.raises(DataError, match=r"b\.jsonl:1: a preference where a conversation is needed"):
        load_chats(pairs, tokenizer, max_tokens=200)
    without = Tokenizer(tokenizer.definition, tokenizer.config, None, name="models/base")
    with pytest.raises(GuardError, match="models/base: there is no chat template"):
        load_chats(chats, without, max_tokens=200)
    endless = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% endfor %}"
    endless += "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    broken = Tokenizer(tokenizer.definition, tokenizer.config, endless, name="models/endless")
    with pytest.raises(GuardError, match=r"a\.jsonl:1: the last token learnt .* answers would never stop"):
        load_chats(chats, broken, max_tokens=200)
    ahead = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    ahead += "{% if add_generation_prompt %}<|im_start|>assistant\n<think>{% endif %}"
    thinking = Tokenizer(tokenizer.definition, tokenizer.config, ahead, name="models/ahead")
    with pytest.raises(GuardError, match="models/ahead: message 1 would be learnt behind"):
        load_chats(chats, thinking, max_tokens=200)


def test_what_the_template_does_not_take_is_counted(tokenizer: Tokenizer, tmp_path: Path) -> None:
    source = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    ours = Tokenizer(tokenizer.definition, tokenizer.config, source)
    chats: list[dict[str, Any]] = story_chats(40)
    chats[3]["messages"].insert(0, {"role": "system", "content": "Be brief."})
    chats[5]["messages"][1]["reasoning_content"] = "hm"
    found = load_chats(write(tmp_path / "a.jsonl", chats), ours, max_tokens=200, share=0.2)
    assert found.report.skipped == {"not for this chat template": 2}
    assert found.report.examples["not for this chat template"][1].startswith(
        "a.jsonl:6: the chat template shows no"
    )


# -- packing


def test_packing_changes_no_token(tokenizer: Tokenizer, network: Network, tmp_path: Path) -> None:
    found = load_chats(write(tmp_path / "a.jsonl", story_chats(40)), tokenizer, max_tokens=200, share=0.2)
    segments = [example.segment() for example in found.train]
    assert 0.0 < check_packing(network, segments, 256) < 1e-4
    assert check_packing(network, segments, 8) == 0.0


def test_chats_that_see_each_other_are_refused(
    tokenizer: Tokenizer, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = load_chats(write(tmp_path / "a.jsonl", story_chats(40)), tokenizer, max_tokens=200, share=0.2)
    forward: Callable[..., torch.Tensor] = network.forward

    def careless(
        ids_BT: torch.Tensor, *, positions_BT: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        return forward(ids_BT, positions_BT=positions_BT, mask=None)  # as a kernel that knows no such masks

    monkeypatch.setattr(network, "forward", careless)
    with pytest.raises(GuardError, match="chats of one row see each other"):
        check_packing(network, [example.segment() for example in found.train], 256)


def test_a_packed_loss_is_the_sum_of_its_parts(
    tokenizer: Tokenizer, network: Network, tmp_path: Path
) -> None:
    found = load_chats(write(tmp_path / "a.jsonl", story_chats(30)), tokenizer, max_tokens=200, share=0.2)
    segments = [example.segment() for example in found.train]

    def loss(rows: list[Any]) -> float:
        batch = collate(rows)
        hidden = network(batch.ids_BT, positions_BT=batch.positions_BT, mask=batch.mask_B1TT)
        return float(Likelihood()(network, hidden, batch).value.detach())

    packed = loss(pack(segments, 256))
    assert np.isclose(packed, sum(loss([[part]]) for part in segments), rtol=1e-5)


# -- the preview


def test_a_preview_shows_what_training_would_see(tokenizer: Tokenizer, tmp_path: Path) -> None:
    chats = [*story_chats(30), {"messages": [asked("a"), asked("b")]}]
    chats.append(chats[0])
    chats[1]["weight"] = 0.5
    found = preview(write(tmp_path / "a.jsonl", chats), tokenizer, num_samples=2, max_tokens=300)
    first, second = found.samples
    assert "".join(text for text, _, _ in first.tokens) == tokenizer.decode(
        encode_chat(tokenizer, chats[0]["messages"]).token_ids
    )
    assert [text for text, weight, _ in first.tokens if weight][-1] == "<|im_end|>"
    assert {weight for _, weight, _ in second.tokens} == {0.0, 0.5}
    assert [special for text, _, special in first.tokens if text == "<|im_start|>"] == [True, True]
    assert found.report.skipped == {"no answer in the chat": 1, "the same row as one before": 1}
    assert found.report.num_rows == 30
    assert found.num_measured == len(found.lengths) == 30
    assert found.audit is not None
    assert found.audit.num_learnt == sum(found.learnt)
    marks = found.to_dict()["tokens"]
    assert marks["p50"] <= marks["p90"] <= marks["p100"] == max(found.lengths)
    assert found.faults == []


def test_a_preview_of_judgements_and_tasks(tokenizer: Tokenizer, tmp_path: Path) -> None:
    pairs = write(tmp_path / "a.jsonl", [{"prompt": "Ünï🦜", "chosen": "good", "rejected": "bad"}])
    chosen, rejected = preview(pairs, tokenizer).samples
    assert [chosen.title, rejected.title] == ["chosen", "rejected"]
    assert "".join(text for text, weight, _ in rejected.tokens if weight) == "bad<|im_end|>"
    assert "Ünï🦜" in "".join(text for text, _, _ in chosen.tokens)
    tasks = write(tmp_path / "b.jsonl", [{"prompt": "1+1?", "gold": "2"}])
    (task,) = preview(tasks, tokenizer).samples
    assert (task.title, task.gold) == ("task", "2")
    assert not any(weight for _, weight, _ in task.tokens)
    judged = write(tmp_path / "c.jsonl", [{"prompt": "1+1?", "completion": "2", "label": False}])
    assert preview(judged, tokenizer).samples[0].title == "bad"


def test_a_preview_says_what_training_would_refuse(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [*story_chats(20), {"messages": [asked("x " * 300), said("y")]}])
    opened = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
    )
    broken = Tokenizer(tokenizer.definition, tokenizer.config, opened)
    found = preview(path, broken, max_tokens=200, num_samples=0)
    assert len(found.faults) == 2
    assert "would never stop" in " ".join(found.faults)
    assert "asked for behind" in " ".join(found.faults)
    assert found.audit is None
    assert found.unfit.skipped == {"more tokens than fit": 1}


def test_a_sample_of_a_large_file_does_not_depend_on_its_order(tokenizer: Tokenizer, tmp_path: Path) -> None:
    chats = story_chats(200)
    one = preview(write(tmp_path / "a.jsonl", chats), tokenizer, num_measured=20)
    two = preview(write(tmp_path / "b.jsonl", chats[::-1]), tokenizer, num_measured=20)
    assert one.num_measured == 20
    assert sorted(one.lengths) == sorted(two.lengths)
    assert one.report.num_rows == 200


def test_a_network_learns_a_persons_chats(tokenizer: Tokenizer, network: Network, tmp_path: Path) -> None:
    """From the file to falling losses on both sides."""
    chats = [
        {"messages": [asked(f"Say {word}."), said(f"{word}, {word}.")]}
        for word in (*stories.THINGS, *stories.NAMES["he"])
    ]
    found = load_chats(write(tmp_path / "a.jsonl", chats), tokenizer, max_tokens=100, share=0.2)
    batches = ChatBatches(
        [example.segment() for example in found.train], batch_size=8, epochs=40, seed=0, row_length=100
    )
    held_out = weighted([example.segment() for example in found.validation], [], 0.0, 100)
    trainer = Trainer(network, SplitOptimiser(network, LearningRates(3e-3, 3e-3, 3e-3, 3e-3)))
    before = float(trainer.loss(held_out).value.detach())
    losses = [trainer.step([batch], 1.0).loss for batch in batches()]
    assert batches.num_steps == len(losses) > 60
    assert losses[-1] < 0.3 * losses[0]
    assert (
        float(trainer.loss(held_out).value.detach()) < 0.8 * before
    )  # words that it never saw stay unlikely
