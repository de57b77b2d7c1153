"""Small sentence encoders on disk: the real files of a well-known one (all-MiniLM-L6-v2) with shrunk widths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

WORDS = [
    "a",
    "cat",
    "sat",
    "dog",
    "bark",
    "##s",
    "##ed",
    "the",
    "##e",
    "e",
    "s",
    "t",
    "c",
    ".",
    "[",
    "]",
    "cls",
    "sep",
]
VOCABULARY = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
CONFIG = {
    "architectures": ["BertModel"], "attention_probs_dropout_prob": 0.1, "gradient_checkpointing": False,
    "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": 48, "initializer_range": 0.2,
    "intermediate_size": 80, "layer_norm_eps": 1e-12, "max_position_embeddings": 40, "model_type": "bert",
    "num_attention_heads": 3, "num_hidden_layers": 3, "pad_token_id": 0, "position_embedding_type": "absolute",
    "type_vocab_size": 2, "use_cache": True, "vocab_size": len(VOCABULARY),
}  # fmt: skip
TOKENIZER: dict[str, Any] = {
    "version": "1.0",
    "truncation": {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
    "padding": {
        "strategy": {"Fixed": 4}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
        "pad_token": "[PAD]",
    },
    "added_tokens": [
        {"id": i, "special": True, "content": name, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False} for name, i in list(VOCABULARY.items())[:5]
    ],
    "normalizer": {
        "type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
        "lowercase": True,
    },
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "post_processor": {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                   {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
                           "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]}},
    },
    "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
    "model": {
        "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100, "vocab": VOCABULARY,
    },
}  # fmt: skip
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]
POOLING = {
    "word_embedding_dimension": 48, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True,
    "pooling_mode_max_tokens": False, "pooling_mode_mean_sqrt_len_tokens": False,
}  # fmt: skip


def write_json(path: Path, value: Any) -> None:
    """A JSON file, its folder made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_encoder(folder: Path, *, sentence: bool = True, **changes: Any) -> transformers.BertModel:
    """A folder with random weights, written by transformers; returns its model.

    Args:
        sentence: also write the files of sentence-transformers.
        changes: of `config.json`.
    """
    torch.manual_seed(0)
    config = transformers.BertConfig(**(CONFIG | changes))
    model = transformers.BertModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # gains and biases too, so that leaving one out would show
            parameter.add_(torch.randn(parameter.shape) * 0.2)
    model.save_pretrained(folder)
    write_json(folder / "config.json", CONFIG | changes)
    write_json(folder / "tokenizer.json", TOKENIZER)
    if sentence:
        write_json(folder / "modules.json", MODULES)
        write_json(folder / "1_Pooling" / "config.json", POOLING)
        write_json(folder / "sentence_bert_config.json", {"max_seq_length": 24, "do_lower_case": False})
        write_json(folder / "config_sentence_transformers.json", {"__version__": {"transformers": "4.6.1"}})
    return model


def change_tensors(folder: Path, change: Any) -> None:
    """Rewrite the weights of a folder as `change` (tensors by name, in and out) says."""
    tensors = change(load_file(folder / "model.safetensors"))
    save_file(
        {name: t.contiguous() for name, t in tensors.items()}, folder / "model.safetensors", {"format": "pt"}
    )
