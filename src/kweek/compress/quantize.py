"""A network's matrices in 4 bits: rounded to the nearest, or compensated by GPTQ and tuned.

Every linear matrix and an untied head become codes of 4 bits with an fp16 scale per 32 neighbours (4.5 bits a weight);
embedding, norms and biases become fp16. A tied head is the embedding and stays fp16 with it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from kweek.compress.gptq import compensated_codes, output_error
from kweek.compress.head import LIKELY, centred, head_codes, logit_error
from kweek.compress.hessians import Inputs, collect
from kweek.compress.scales import absmax_scales, dequantize, nearest_codes, nearest_scales, searched_scales
from kweek.compress.tuning import tune
from kweek.data.batches import Batch, collate, pack, segment
from kweek.errors import ConfigError, DataError
from kweek.model.checkpoint import save_model
from kweek.model.linear import FusedLinear
from kweek.model.network import Network
from kweek.model.quantized import GROUP_SIZE, QuantizedTensor
from kweek.protocols import Progress, silent
from kweek.store.artifact import ArtifactWriter

#: The last three look at no text: "nearest" rounds by llama.cpp's Q4_0 rule, "nearest_mse" searches each scale first,
#: "nearest_absmax" divides each group's largest magnitude by 7.
Method = Literal["gptq", "nearest", "nearest_mse", "nearest_absmax"]

_RULES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "nearest": nearest_scales,
    "nearest_mse": searched_scales,
    "nearest_absmax": absmax_scales,
}
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
#: Bits of a quantised weight with its share of the scale.
BITS_PER_WEIGHT = 4 + 16 / GROUP_SIZE
#: Calibration tokens behind the second moments; four times as many gave the same.
HESSIAN_TOKENS = 16_384
_ROWS_PER_BATCH = 2  # 512 tokens a step: many small steps tune better than few large ones


@dataclass(frozen=True)
class TensorError:
    """Relative squared error of a matrix's outputs on the calibration text, before tuning.

    For the head the outputs are logits, less what the softmax does not see (see `kweek.compress.head`).
    """

    nearest: float
    gptq: float


@dataclass(frozen=True)
class QuantizedModel:
    """A network in 4 bits.

    Attributes:
        network: fp32 network with exactly the values that are stored, for evaluation.
        tensors: codes and scales by Hugging Face name.
        errors: by Hugging Face name; empty unless the method is "gptq".
        flop: arithmetic spent on calibration and tuning, fp32.
        num_tokens: calibration tokens read.
    """

    network: Network
    tensors: Mapping[str, QuantizedTensor]
    errors: Mapping[str, TensorError] = field(default_factory=dict)
    flop: float = 0.0
    num_tokens: int = 0

    def save(self, out: ArtifactWriter) -> None:
        """Write the folder that transformers, vLLM and Kweek load (see `kweek.model.quantized`)."""
        save_model(out, self.network, torch.float16, quantized_tensors=self.tensors)


def quantize_network(
    network: Network,
    calibration: Sequence[Sequence[int]] = (),
    method: Method = "gptq",
    *,
    row_length: int = 256,
    tune_rest: bool = True,
    seed: int = 0,
    progress: Progress = silent,
) -> QuantizedModel:
    """Quantise all matrices.

    Args:
        network: fp32; not changed.
        calibration: token ids of documents and chats as the network was trained on them; longer ones are cut into
            pieces of `row_length`. Only "gptq" reads them.
        method: see `Method`.
        row_length: tokens of a calibration row; 256 because that is what small networks are trained on.
        tune_rest: after GPTQ, tune what is stored in floating point on all of the calibration text; on, because it
            recovers about half of what GPTQ leaves, for about as many FLOP as training on that text.
        seed: of the order in which rows are read.
        progress: counts batches.

    Raises:
        ConfigError: a matrix whose columns are no multiple of 32.
        DataError: "gptq" without calibration text.
    """
    matrices = _matrices(network)
    if method != "gptq":
        scales = {name: _RULES[method](weight) for name, weight in matrices.items()}
        codes = {name: nearest_codes(weight, scales[name]) for name, weight in matrices.items()}
        return QuantizedModel(*_assemble(network, codes, scales, _rounded(network, codes)))
    batches = calibration_batches(calibration, row_length, seed)
    read = batches[: max(1, HESSIAN_TOKENS // (row_length * _ROWS_PER_BATCH))]
    codes, scales, errors = _compensate(network, matrices, collect(network, read))
    plain = _rounded(network, codes)
    if tune_rest:
        scales, plain = tune(network, codes, scales, batches, progress)
    flop = _num_flops(network, row_length, _num_tokens(read), _num_tokens(batches) if tune_rest else 0)
    result, tensors = _assemble(network, codes, scales, plain)
    return QuantizedModel(result, tensors, errors, flop, _num_tokens(batches))


def _compensate(
    network: Network, matrices: Mapping[str, Tensor], inputs: Inputs
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, TensorError]]:
    """Codes and scales by parameter name, and errors by Hugging Face name."""
    codes, scales, errors = {}, {}, {}
    for name, weight in matrices.items():
        plain_scale = nearest_scales(weight)
        nearest = dequantize(nearest_codes(weight, plain_scale), plain_scale) - weight
        if name == HEAD:
            hidden = inputs.hidden_ND
            target = centred(weight, hidden)
            scales[name] = searched_scales(target)
            codes[name] = head_codes(target, hidden, scales[name])
            change = dequantize(codes[name], scales[name]) - target
            errors[name] = TensorError(
                logit_error(weight, hidden, nearest), logit_error(weight, hidden, change)
            )
            continue
        moments = inputs.moments[name]
        scales[name] = searched_scales(weight)
        codes[name] = compensated_codes(weight, moments, scales[name])
        change = dequantize(codes[name], scales[name]) - weight
        for part, rows in _parts(network, name).items():
            whole = max(output_error(weight[rows], moments), 1e-30)  # a matrix of zeros has no outputs
            errors[part] = TensorError(
                output_error(nearest[rows], moments) / whole, output_error(change[rows], moments) / whole
            )
    return codes, scales, errors


def calibration_batches(sequences: Sequence[Sequence[int]], row_length: int, seed: int) -> list[Batch]:
    """Sequences packed into rows of at most `row_length` tokens, in an order keyed by the seed.

    Sequences in one row do not see each other. Pieces of a long sequence after the first begin without context.

    Raises:
        DataError: no sequence of two tokens or more.
    """
    segments = [
        segment(ids[start : start + row_length + 1])
        for ids in sequences
        for start in range(0, len(ids) - 1, row_length)
    ]
    if not segments:
        raise DataError("there is no calibration text", fix="give documents or chats that are not empty")
    rows = pack(segments, row_length)
    order = np.random.default_rng(seed).permutation(len(rows))
    shuffled = [rows[index] for index in order]
    return [collate(shuffled[at : at + _ROWS_PER_BATCH]) for at in range(0, len(shuffled), _ROWS_PER_BATCH)]


def _matrices(network: Network) -> dict[str, Tensor]:
    """What is quantised, by parameter name: matrices but the embedding, fp32 (R, C)."""
    matrices = {
        name: parameter.detach().to(torch.float32)
        for name, parameter in network.named_parameters()
        if parameter.dim() == 2 and name != EMBEDDING
    }
    for name, weight in matrices.items():
        if weight.shape[1] % GROUP_SIZE:
            raise ConfigError(
                f"{weight.shape[1]} columns do not divide into groups of {GROUP_SIZE}",
                where=name,
                fix=f"quantise a network whose widths are multiples of {GROUP_SIZE}",
            )
    return matrices


def _rounded(network: Network, codes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters without codes, rounded to fp16."""
    return {
        name: parameter.detach().to(torch.float16).to(torch.float32)
        for name, parameter in network.named_parameters()
        if name not in codes
    }


def _parts(network: Network, name: str) -> dict[str, slice]:
    """Hugging Face names of a parameter's parts, with their rows: a fused matrix has several."""
    module_name = name.removesuffix(".weight")
    module = network.get_submodule(module_name)
    if not isinstance(module, FusedLinear):
        return {name: slice(None)}
    parts, start = {}, 0
    for part, rows in module.sizes.items():
        parts[f"{module_name.rpartition('.')[0]}.{part}.weight"] = slice(start, start + rows)
        start += rows
    return parts


def _assemble(
    network: Network, codes: Mapping[str, Tensor], scales: Mapping[str, Tensor], plain: Mapping[str, Tensor]
) -> tuple[Network, dict[str, QuantizedTensor]]:
    """The quantised network and its stored tensors."""
    result = copy.deepcopy(network)
    tensors = {}
    with torch.no_grad():
        for name, parameter in result.named_parameters():
            parameter.copy_(dequantize(codes[name], scales[name]) if name in codes else plain[name])
    for name in codes:
        for part, rows in _parts(network, name).items():
            tensors[part] = QuantizedTensor.from_codes(codes[name][rows], scales[name][rows])
    return result, tensors


def _num_tokens(batches: Sequence[Batch]) -> int:
    return sum(batch.num_tokens for batch in batches)


def _num_flops(network: Network, row_length: int, num_moment_tokens: int, num_tuning_tokens: int) -> float:
    """Arithmetic of GPTQ and tuning: reading, second moments, factors, compensation; teacher, pupil and gradient."""
    forward = network.config.num_flops_per_token(row_length)
    total = num_moment_tokens * forward + num_tuning_tokens * 4 * forward
    for name, weight in _matrices(network).items():
        rows, columns = weight.shape
        factors = rows if name == HEAD else 1  # the head has moments for each row
        sums = LIKELY if name == HEAD else 1
        total += 2 * sums * num_moment_tokens * columns**2 + factors * 2 * columns**3 + rows * columns**2
    return total
