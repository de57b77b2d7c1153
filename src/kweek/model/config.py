"""The shape of a network: every size, its checks, and what it costs in parameters, FLOP and cache bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from kweek.errors import ConfigError
from kweek.model import flops

Architecture = Literal["qwen3", "qwen2", "llama"]


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3.1's rescaling of the rotary frequencies for contexts longer than those first trained on.

    Wavelengths above `original_max_positions / low_frequency` are stretched by `factor`, those below
    `original_max_positions / high_frequency` are kept, those between are blended (Llama 3, arXiv 2407.21783).
    """

    factor: float
    low_frequency: float
    high_frequency: float
    original_max_positions: int


@dataclass(frozen=True)
class ModelConfig:
    """All sizes and constants of a decoder in the Qwen3, Qwen2 or Llama layout.

    Raises:
        ConfigError: a size below one, key heads that do not divide the heads, an odd head dimension,
            or switches that the layout does not have.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    #: 64 because attention on a CPU is 1.24 times faster with it than with 32.
    head_dim: int = 64
    #: Qwen3 because it trains best among the layouts that every other engine loads.
    architecture: Architecture = "qwen3"
    #: the value of the original paper, right for contexts of a few thousand tokens.
    rope_theta: float = 10_000.0
    #: none, because only contexts beyond the trained ones need it.
    rope_scaling: RopeScaling | None = None
    #: Qwen3's own value.
    norm_epsilon: float = 1e-6
    #: what a small model is ever trained or asked for; the table of rotations grows only as used.
    max_positions: int = 2048
    #: untied because the head then learns at its own rate, the largest single gain at 1M parameters.
    tied_embeddings: bool = False
    #: part of the Qwen3 layout; keeps attention logits bounded.
    qk_norm: bool = True
    #: only the Qwen2 layout has it.
    qkv_bias: bool = False
    #: none until a tokenizer is known.
    eos_token_id: int | tuple[int, ...] | None = None
    #: none, because Kweek's tokenizers open a document with no special token.
    bos_token_id: int | None = None
    #: none, because batches are padded on the right and masked.
    pad_token_id: int | None = None

    def __post_init__(self) -> None:
        for name in (
            "vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads", "num_kv_heads",
            "head_dim", "max_positions",
        ):  # fmt: skip
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"{value!r} is not a whole number of at least 1", where=name)
        if self.architecture not in get_args(Architecture):
            known = ", ".join(get_args(Architecture))
            raise ConfigError(f"unknown architecture {self.architecture!r}", fix=f"use one of {known}")
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(
                f"{self.num_kv_heads} key heads do not divide {self.num_heads} heads", where="num_kv_heads"
            )
        if self.head_dim % 2:
            raise ConfigError(f"{self.head_dim} is odd, so it cannot be rotated in pairs", where="head_dim")
        if not self.rope_theta > 0 or not self.norm_epsilon > 0:
            raise ConfigError("rope_theta and norm_epsilon must be positive")
        if self.qk_norm != (self.architecture == "qwen3"):
            raise ConfigError(f"must be {not self.qk_norm} for {self.architecture}", where="qk_norm")
        if self.qkv_bias != (self.architecture == "qwen2"):
            raise ConfigError(f"must be {not self.qkv_bias} for {self.architecture}", where="qkv_bias")

    @classmethod
    def from_hf(cls, document: dict[str, Any], where: str = "config.json") -> ModelConfig:
        """Read a Hugging Face `config.json` (see `kweek.model.layout`).

        Raises:
            CheckpointError: an unknown architecture or a feature this network does not have.
        """
        from kweek.model.layout import config_from_hf

        return config_from_hf(document, where)

    def to_hf(self) -> dict[str, Any]:
        """The `config.json` with which `transformers` builds the same network without custom code."""
        from kweek.model.layout import config_to_hf

        return config_to_hf(self)

    @property
    def query_size(self) -> int:
        """Width of all query heads together."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of all key heads together, and of all value heads together."""
        return self.num_kv_heads * self.head_dim

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """Every token id that ends a generation."""
        if self.eos_token_id is None:
            return frozenset()
        ids = (self.eos_token_id,) if isinstance(self.eos_token_id, int) else self.eos_token_id
        return frozenset(ids)

    def num_parameters(self) -> dict[str, int]:
        """Number of parameters by part: embedding, attention, mlp, norm, head and their total."""
        return flops.num_parameters(self)

    def num_flops_per_token(
        self,
        context_length: int,
        backward: bool = False,
        *,
        attention: flops.AttentionCount = "causal",
        recomputation: bool = False,
    ) -> float:
        """FLOP per token of a sequence of `context_length` tokens (see `kweek.model.flops`)."""
        return flops.num_flops_per_token(
            self, context_length, backward, attention=attention, recomputation=recomputation
        )

    def num_flops_decode(self, position: int) -> float:
        """FLOP to compute one token at `position` (counted from 0) with the keys before it cached."""
        return flops.num_flops_decode(self, position)

    def num_kv_bytes_per_token(self, bytes_per_value: int = 4) -> int:
        """Bytes of keys and values kept per token (4 per value: the engine's cache is fp32)."""
        return 2 * self.num_layers * self.kv_size * bytes_per_value
