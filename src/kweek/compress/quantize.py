"""A network's matrices in few bits: rounded to the nearest, or compensated by GPTQ and tuned.

Every linear matrix and an untied head become codes of 4 bits, unless told otherwise, with an fp16 scale per 32
neighbours (4.5 bits a weight); norms and biases become fp16, and so do the embedding and a head tied to it unless
they are given fewer bits too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from kweek.compress.gptq import compensated_codes, output_error
from kweek.compress.head import LIKELY, MAX_OWN_WORK, centred, head_codes, logit_error
from kweek.compress.hessians import Inputs, collect
from kweek.compress.scales import absmax_scales, dequantize, nearest_codes, nearest_scales, searched_scales
from kweek.compress.tuning import tune
from kweek.compress.widths import EMBEDDING, FULL, HEAD, check, uniform
from kweek.data.batches import Batch, collate, pack, segment
from kweek.errors import DataError
from kweek.model.checkpoint import save_model
from kweek.model.linear import FusedLinear
from kweek.model.network import Network
from kweek.model.quantized import GROUP_SIZE, NUM_BITS, QuantizedTensor
from kweek.protocols import Progress, silent
from kweek.store.artifact import ArtifactWriter

#: The last three look at no text: "nearest" rounds by llama.cpp's Q4_0 rule, "nearest_mse" searches each scale first,
#: "nearest_absmax" divides each group's largest magnitude by the largest code.
Method = Literal["gptq", "nearest", "nearest_mse", "nearest_absmax"]

_RULES: Mapping[str, Callable[[Tensor, int], Tensor]] = {
    "nearest": nearest_scales,
    "nearest_mse": searched_scales,
    "nearest_absmax": absmax_scales,
}
#: Bits of a weight quantised by default, with its share of the scale.
BITS_PER_WEIGHT = NUM_BITS + 16 / GROUP_SIZE
#: Calibration tokens behind the second moments; four times as many gave the same.
HESSIAN_TOKENS = 16_384
_ROWS_PER_BATCH = 2  # 512 tokens a step: many small steps tune better than few large ones


@dataclass(frozen=True)
class TensorError:
    """Relative squared error of a matrix's outputs on the calibration text, before tuning.

    For the head the outputs are logits, less what the softmax does not see (see `kweek.compress.head`); for an
    embedding of its own they are its rows.
    """

    nearest: float
    gptq: float


@dataclass(frozen=True)
class QuantizedModel:
    """A network in few bits.

    Attributes:
        network: fp32 network with exactly the values that are stored, for evaluation.
        tensors: codes and scales by Hugging Face name.
        codes, scales: the same by parameter name, int8 (R, C) and fp32 (R, G), for whoever goes on from them.
        errors: by Hugging Face name; empty unless the method is "gptq".
        flop: arithmetic spent on calibration and tuning, fp32.
        num_tokens: calibration tokens read.
    """

    network: Network
    tensors: Mapping[str, QuantizedTensor]
    codes: Mapping[str, Tensor]
    scales: Mapping[str, Tensor]
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
    widths: Mapping[str, int] | None = None,
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
        widths: bits of every matrix (see `kweek.compress.widths`); 4, and the embedding in fp16, unless given.
        row_length: tokens of a calibration row; 256 because that is what small networks are trained on.
        tune_rest: after GPTQ, tune what is stored in floating point on all of the calibration text; on, because it
            recovers about half of what GPTQ leaves, for about as many FLOP as training on that text.
        seed: of the order in which rows are read.
        progress: counts batches.

    Raises:
        ConfigError: a matrix whose columns are no multiple of 32.
        DataError: "gptq" without calibration text.
    """
    if widths is None:
        widths = uniform(network.config, NUM_BITS)
    check(network.config, widths)
    matrices = _matrices(network, widths)
    if method != "gptq":
        rule = _RULES[method]

        def rounded(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
            scale = rule(weight, bits)
            return nearest_codes(weight, scale, bits), scale

        codes, scales = {}, {}
        for name, weight in matrices.items():
            codes[name], scales[name] = _by_part(network, name, weight, widths, rounded)
        return assemble(network, widths, codes, scales, _rounded(network, codes))
    batches = calibration_batches(calibration, row_length, seed)
    read = batches[: max(1, HESSIAN_TOKENS // (row_length * _ROWS_PER_BATCH))]
    codes, scales, errors = _compensate(network, matrices, widths, collect(network, read), progress)
    plain = _rounded(network, codes)
    if tune_rest:
        scales, plain = tune(network, codes, scales, batches, progress)
    flop = _num_flops(
        network, matrices, row_length, _num_tokens(read), _num_tokens(batches) if tune_rest else 0
    )
    return assemble(
        network, widths, codes, scales, plain, errors=errors, flop=flop, num_tokens=_num_tokens(batches)
    )


def _compensate(
    network: Network,
    matrices: Mapping[str, Tensor],
    widths: Mapping[str, int],
    inputs: Inputs,
    progress: Progress,
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, TensorError]]:
    """Codes and scales by parameter name, and errors by Hugging Face name."""
    codes, scales, errors = {}, {}, {}
    for number, (name, weight) in enumerate(matrices.items()):
        progress(number, len(matrices), "compensate")
        target, compensated = way_of(network, name, weight, inputs)
        codes[name], scales[name] = _by_part(network, name, target, widths, compensated)
        change = dequantize(codes[name], scales[name]) - target
        plain, plain_scale = _by_part(network, name, weight, widths, _plainly)
        nearest = dequantize(plain, plain_scale) - weight
        for part, rows in parts_of(network, name).items():
            errors[part] = TensorError(
                output_loss(network, name, weight, inputs, nearest, rows),
                output_loss(network, name, weight, inputs, change, rows),
            )
    return codes, scales, errors


#: Codes and scales of a matrix at a number of bits.
_Way = Callable[[Tensor, int], tuple[Tensor, Tensor]]


def _plainly(weight_RC: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    scale = nearest_scales(weight_RC, bits)
    return nearest_codes(weight_RC, scale, bits), scale


def way_of(network: Network, name: str, weight: Tensor, inputs: Inputs) -> tuple[Tensor, _Way]:
    """What a parameter is compensated towards, and how: as a head, as an embedding, or as any other matrix."""
    hidden = inputs.hidden_ND
    tied = network.config.tied_embeddings

    def as_head(target: Tensor, bits: int) -> tuple[Tensor, Tensor]:
        scale = searched_scales(target, bits)
        return head_codes(target, hidden, scale, bits), scale

    def as_embedding(target: Tensor, bits: int) -> tuple[Tensor, Tensor]:
        scale = searched_scales(target, bits)
        return nearest_codes(target, scale, bits), scale

    def as_linear(target: Tensor, bits: int) -> tuple[Tensor, Tensor]:
        scale = searched_scales(target, bits)
        return compensated_codes(target, inputs.moments[name], scale, bits), scale

    if name == HEAD:
        return centred(weight, hidden), as_head
    if name == EMBEDDING:  # a tied one is not centred, because its rows are inputs too
        return weight, as_head if tied else as_embedding
    return weight, as_linear


def output_loss(
    network: Network, name: str, weight: Tensor, inputs: Inputs, change: Tensor, rows: slice
) -> float:
    """Relative squared error of the outputs of a parameter's rows under a change of it (see `TensorError`)."""
    if name == HEAD or (name == EMBEDDING and network.config.tied_embeddings):
        return logit_error(weight, inputs.hidden_ND, change)
    if name == EMBEDDING:
        return float(change.square().sum() / weight.square().sum().clamp_min(1e-30))
    moments = inputs.moments[name]
    whole = max(output_error(weight[rows], moments), 1e-30)  # a matrix of zeros has no outputs
    return output_error(change[rows], moments) / whole


def _by_part(
    network: Network, name: str, weight: Tensor, widths: Mapping[str, int], way: _Way
) -> tuple[Tensor, Tensor]:
    """Codes and scales of a parameter whose parts may differ in bits.

    All rows are worked out at each number of bits, and each part takes its own: rows do not depend on one another.
    """
    parts = parts_of(network, name)
    made = {bits: way(weight, bits) for bits in sorted({widths[part] for part in parts})}
    if len(made) == 1:
        return next(iter(made.values()))
    chosen = [(made[widths[part]], rows) for part, rows in parts.items()]
    return tuple(torch.cat([pair[at][rows] for pair, rows in chosen]) for at in (0, 1))  # type: ignore[return-value]


def calibration_batches(
    sequences: Sequence[Sequence[int]], row_length: int, seed: int, rows_per_batch: int = _ROWS_PER_BATCH
) -> list[Batch]:
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
    return [collate(shuffled[at : at + rows_per_batch]) for at in range(0, len(shuffled), rows_per_batch)]


def _matrices(network: Network, widths: Mapping[str, int]) -> dict[str, Tensor]:
    """What is quantised, by parameter name, fp32 (R, C); the embedding last, as it was before it could be."""
    found = {
        name: parameter.detach().to(torch.float32)
        for name, parameter in network.named_parameters()
        if parameter.dim() == 2 and all(widths[part] != FULL for part in parts_of(network, name))
    }
    return {name: weight for name, weight in found.items() if name != EMBEDDING} | found


def _rounded(network: Network, codes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters without codes, rounded to fp16."""
    return {
        name: parameter.detach().to(torch.float16).to(torch.float32)
        for name, parameter in network.named_parameters()
        if name not in codes
    }


def parts_of(network: Network, name: str) -> dict[str, slice]:
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


def assemble(
    network: Network,
    widths: Mapping[str, int],
    codes: Mapping[str, Tensor],
    scales: Mapping[str, Tensor],
    plain: Mapping[str, Tensor],
    **figures: Any,
) -> QuantizedModel:
    """The quantised network with its stored tensors; `figures` are the further attributes of `QuantizedModel`."""
    result = copy.deepcopy(network)
    tensors = {}
    with torch.no_grad():
        for name, parameter in result.named_parameters():
            parameter.copy_(dequantize(codes[name], scales[name]) if name in codes else plain[name])
    for name in codes:
        for part, rows in parts_of(network, name).items():
            tensors[part] = QuantizedTensor.from_codes(codes[name][rows], scales[name][rows], widths[part])
    return QuantizedModel(result, tensors, codes, scales, **figures)


def _num_tokens(batches: Sequence[Batch]) -> int:
    return sum(batch.num_tokens for batch in batches)


def _num_flops(
    network: Network,
    matrices: Mapping[str, Tensor],
    row_length: int,
    num_moment_tokens: int,
    num_tuning_tokens: int,
) -> float:
    """Arithmetic of GPTQ and tuning: reading, second moments, factors, compensation; teacher, pupil and gradient."""
    forward = network.config.num_flops_per_token(row_length)
    total = num_moment_tokens * forward + num_tuning_tokens * 4 * forward
    for name, weight in matrices.items():
        rows, columns = weight.shape
        own = name == HEAD and rows * columns**3 <= MAX_OWN_WORK
        factors = rows if own else 1  # the head has moments for each row
        sums = LIKELY if own else 1
        total += 2 * sums * num_moment_tokens * columns**2 + factors * 2 * columns**3 + rows * columns**2
    return total
