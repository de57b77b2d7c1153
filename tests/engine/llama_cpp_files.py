"""GGUF files of layouts that Kweek does not load, written from small models of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

VOCABULARY = 300


def _tokenizer(writer: gguf.GGUFWriter) -> None:
    """A SentencePiece vocabulary: unknown, begin, end, single bytes, letters with and without a blank before."""
    letters = [chr(97 + i) for i in range(19)]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", *letters]
    tokens += [f"\u2581{letter}" for letter in letters]
    tokens += [f"<unused{i}>" for i in range(VOCABULARY - len(tokens))]
    kinds = [2, 3, 3, *[6] * 256, *[1] * (1 + 2 * len(letters))]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(i) for i in range(VOCABULARY)])
    writer.add_token_types(kinds + [5] * (VOCABULARY - len(kinds)))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_chat_template(
        "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}a{% endif %}"
    )


def _finish(writer: gguf.GGUFWriter, tensors: dict[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        writer.add_tensor(name, np.ascontiguousarray(tensor.detach().float().numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _randomise(model: torch.nn.Module, spread: float) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "A_log" not in name:
                parameter.normal_(0, spread, generator=generator)


def write_gpt2(path: Path) -> Any:
    """A GPT-2: learnt positions, biases, layer norms. Returns the model of transformers."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=VOCABULARY, n_positions=128, n_embd=64, n_layer=2, n_head=2)
    model = GPT2LMHeadModel(config).eval()
    _randomise(model, 0.15)
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_block_count(2)
    writer.add_context_length(128)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(256)
    writer.add_head_count(2)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    _tokenizer(writer)
    state = model.transformer.state_dict()
    tensors = {"token_embd.weight": state["wte.weight"], "position_embd.weight": state["wpe.weight"]}
    parts = {
        "attn_norm": "ln_1", "attn_qkv": "attn.c_attn", "attn_output": "attn.c_proj", "ffn_norm": "ln_2",
        "ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj",
    }  # fmt: skip
    for layer in range(2):
        for theirs, ours in parts.items():
            for kind in ("weight", "bias"):
                value = state[f"h.{layer}.{ours}.{kind}"]
                tensors[f"blk.{layer}.{theirs}.{kind}"] = value.T if value.ndim == 2 else value
    for kind in ("weight", "bias"):
        tensors[f"output_norm.{kind}"] = state[f"ln_f.{kind}"]
    _finish(writer, tensors)
    return model


def write_mamba(path: Path) -> Any:
    """A Mamba, whose state cannot go back to an earlier token. Returns the model of transformers."""
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(
        vocab_size=VOCABULARY, hidden_size=64, num_hidden_layers=2, state_size=16, expand=2, conv_kernel=4,
        time_step_rank=4,
    )  # fmt: skip
    model = MambaForCausalLM(config).eval()
    _randomise(model, 0.15)
    writer = gguf.GGUFWriter(path, "mamba")
    writer.add_block_count(2)
    writer.add_context_length(512)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_ssm_conv_kernel(4)
    writer.add_ssm_inner_size(128)
    writer.add_ssm_state_size(16)
    writer.add_ssm_time_step_rank(4)
    writer.add_layer_norm_rms_eps(config.layer_norm_epsilon)
    _tokenizer(writer)
    state = model.backbone.state_dict()
    tensors = {"token_embd.weight": state["embeddings.weight"], "output_norm.weight": state["norm_f.weight"]}
    for layer in range(2):
        mixer = f"layers.{layer}.mixer"
        tensors |= {
            f"blk.{layer}.attn_norm.weight": state[f"layers.{layer}.norm.weight"],
            f"blk.{layer}.ssm_in.weight": state[f"{mixer}.in_proj.weight"],
            f"blk.{layer}.ssm_conv1d.weight": state[f"{mixer}.conv1d.weight"][:, 0],
            f"blk.{layer}.ssm_conv1d.bias": state[f"{mixer}.conv1d.bias"],
            f"blk.{layer}.ssm_x.weight": state[f"{mixer}.x_proj.weight"],
            f"blk.{layer}.ssm_dt.weight": state[f"{mixer}.dt_proj.weight"],
            f"blk.{layer}.ssm_dt.bias": state[f"{mixer}.dt_proj.bias"],
            f"blk.{layer}.ssm_a": -state[f"{mixer}.A_log"].exp(),
            f"blk.{layer}.ssm_d": state[f"{mixer}.D"],
            f"blk.{layer}.ssm_out.weight": state[f"{mixer}.out_proj.weight"],
        }
    _finish(writer, tensors)
    return model
