from __future__ import annotations

from pathlib import Path

import pytest
import torch
from compress_networks import make_network
from export_folders import LAYOUTS, VOCABULARY, make_tokenizer, save_folder, save_packed

from kweek.compress.export import export_gguf, import_gguf
from kweek.errors import CheckpointError, KweekError
from kweek.model.checkpoint import load_model, save_model
from kweek.model.gguf import load_gguf
from kweek.model.network import Network
from kweek.store.files import FileOps, use_file_ops
from kweek.tokenize.tokenizer import Tokenizer

TEXT = "The 12 things in the café:\n\tthey're théir <|im_end|> 日本"


def same_values(one: Network, other: Network) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in one.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_there_and_back_changes_no_value(layout: str, dtype: torch.dtype, tmp_path: Path) -> None:
    save_folder(tmp_path / "folder", layout, dtype)
    stored = load_model(tmp_path / "folder")
    found = export_gguf(tmp_path / "folder", tmp_path / "m.gguf")
    assert set(found.errors.values()) == {0.0} and found.notes == []
    import_gguf(tmp_path / "m.gguf", tmp_path / "back")
    back = load_model(tmp_path / "back")
    assert same_values(stored, back)
    assert back.config.rope_scaling == stored.config.rope_scaling
    assert back.config.tied_embeddings == stored.config.tied_embeddings
    one, other = Tokenizer.load(tmp_path / "folder"), Tokenizer.load(tmp_path / "back")
    assert one.encode(TEXT) == other.encode(TEXT) and one.chat_template == other.chat_template
    assert one.stop_ids == other.stop_ids == back.config.eos_token_ids


@pytest.mark.parametrize("layout", ["qwen3", "llama", "qwen2"])
def test_codes_become_q4_0_with_the_same_values(layout: str, tmp_path: Path) -> None:
    network = save_packed(tmp_path / "folder", layout)
    found = export_gguf(tmp_path / "folder", tmp_path / "m.gguf")
    assert found.types["Q4_0"] == 15 and found.types["F16"] == 1  # seven matrices a layer and the head
    assert set(found.errors.values()) == {0.0}
    assert same_values(network, load_gguf(tmp_path / "m.gguf")[0])


def test_types_asked_for(tmp_path: Path) -> None:
    save_folder(tmp_path / "folder")
    sizes = {}
    for kind, largest in (("f32", 0.0), ("f16", 1e-3), ("q8_0", 0.01), ("q4_0", 0.15)):
        found = export_gguf(tmp_path / "folder", tmp_path / f"{kind}.gguf", kind)  # type: ignore[arg-type]
        assert max(found.errors.values()) <= largest
        assert found.types[kind.upper()] >= 14
        assert found.num_bytes == (tmp_path / f"{kind}.gguf").stat().st_size
        sizes[kind] = found.num_bytes
    assert sizes["f32"] > sizes["f16"] > sizes["q8_0"] > sizes["q4_0"]
    assert found.types == {"Q8_0": 2, "Q4_0": 14, "F32": 9}  # embedding and head stay finer


def test_codes_are_not_rounded_again(tmp_path: Path) -> None:
    network = save_packed(tmp_path / "folder")
    found = export_gguf(tmp_path / "folder", tmp_path / "m.gguf", "q4_0")
    assert found.errors["Q4_0"] == 0.0 and found.types["Q4_0"] == 15
    loaded, _ = load_gguf(tmp_path / "m.gguf")
    assert torch.equal(loaded.lm_head.weight, network.lm_head.weight)


def test_rows_that_do_not_fill_blocks_get_a_wider_type_and_it_is_said(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    network = make_network(vocab_size=VOCABULARY, intermediate_size=80)
    save_model(tmp_path / "folder", network)
    tokenizer.save(tmp_path / "folder")
    found = export_gguf(tmp_path / "folder", tmp_path / "m.gguf", "q8_0")
    assert found.types["F16"] == 2  # down_proj of two layers
    assert found.notes == ["2 matrices have rows of 80, no multiple of 32, and are stored as F16"]


def test_values_beyond_fp16_leave_nothing_behind(tmp_path: Path) -> None:
    network = save_folder(tmp_path / "folder")
    with torch.no_grad():
        network.lm_head.weight[3, 5] = 1e6
    save_model(tmp_path / "folder", network)
    (tmp_path / "m.gguf").write_bytes(b"before")
    with pytest.raises(CheckpointError, match="more than fp16"):
        export_gguf(tmp_path / "folder", tmp_path / "m.gguf", "f16")
    assert (tmp_path / "m.gguf").read_bytes() == b"before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "m.gguf"]


class FullDisk(FileOps):
    """Takes some bytes, then no more."""

    def __init__(self, room: int) -> None:
        self.room = room

    def write(self, descriptor: int, data: memoryview) -> int:
        self.room -= len(data)
        if self.room < 0:
            raise OSError(28, "No space left on device")
        return super().write(descriptor, data)


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    save_folder(tmp_path / "folder")
    (tmp_path / "m.gguf").write_bytes(b"before")
    with use_file_ops(FullDisk(200_000)), pytest.raises(KweekError, match="No space left"):
        export_gguf(tmp_path / "folder", tmp_path / "m.gguf")
    assert (tmp_path / "m.gguf").read_bytes() == b"before"


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    save_folder(tmp_path / "folder")
    (tmp_path / "folder" / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
        export_gguf(tmp_path / "folder", tmp_path / "m.gguf")
    assert not (tmp_path / "m.gguf").exists()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_transformers_loads_what_comes_back(layout: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    network = save_folder(tmp_path / "folder", layout)
    export_gguf(tmp_path / "folder", tmp_path / "m.gguf")
    import_gguf(tmp_path / "m.gguf", tmp_path / "back")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back", dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "back")
    ids = Tokenizer.load(tmp_path / "folder").encode(TEXT)
    assert tokenizer.encode(TEXT.replace("<|im_end|>", ""), add_special_tokens=False)
    with torch.no_grad():
        theirs = model(torch.tensor([ids])).logits
        ours = network.logits(network(torch.tensor([ids])))
    assert torch.allclose(ours, theirs, atol=1e-4)
    rendered = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert rendered == "<|im_start|>user\nhi<|im_end|>\n"
