"""Which precision a machine trains fast in."""

from __future__ import annotations

import torch

from kweek.compute.flops import Precision
from kweek.compute.hardware import Peak

WORTHWHILE = 1.5  # below this gain in matrix products the casts around them eat the difference


def fast_dtype(peak: Peak) -> torch.dtype:
    """bf16 where this machine multiplies matrices well faster in it (AVX512-BF16, AMX, GPU), else fp32."""
    bf16 = peak.bf16_flop_per_second
    return torch.bfloat16 if bf16 and bf16 > WORTHWHILE * peak.fp32_flop_per_second else torch.float32


def name_of(dtype: torch.dtype) -> Precision:
    """The name under which the ledger counts a precision that `fast_dtype` gives."""
    return "fp32" if dtype == torch.float32 else "bf16"
