"""What TRL's trainers compute on the stored batch: loss, and the gradient of some parameters.

For an environment of its own with TRL (`pip install trl peft`); writes `evidence/loss_batch/trl.json`. The model is the
stored folder, opened by transformers, everything in float64: its norms, which go back to float32, are told not to.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
import trl
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.gkd import GKDTrainer

FOLDER = Path(__file__).resolve().parent / "loss_batch"
BATCH = json.loads((FOLDER / "batch.json").read_text())
PAD = 23
SIDES = ("chosen", "rejected")
#: Of the head and of the first layer, through everything above it; all of them would fill half a megabyte.
KEPT = ("model.layers.0.self_attn.q_proj.weight", "model.norm.weight", "lm_head.weight", "score.weight")


def tokenizer() -> Any:
    """Words that are the numbers of tokens."""
    words = Tokenizer(models.WordLevel({str(i): i for i in range(24)}, unk_token="0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token=str(PAD), eos_token="0")


def model(kind: Any = transformers.AutoModelForCausalLM) -> Any:
    """The stored network in float64."""
    return kind.from_pretrained(FOLDER, dtype=torch.float64)


def padded(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Ids, attention and completion masks, padded on the right."""
    width = max(len(row["ids"]) for row in rows)

    def fill(values: list[list[int]], with_: int) -> torch.Tensor:
        return torch.tensor([value + [with_] * (width - len(value)) for value in values])

    return {
        "input_ids": fill([row["ids"] for row in rows], PAD),
        "attention_mask": fill([[1] * len(row["ids"]) for row in rows], 0),
        "completion_mask": fill([row["mask"] for row in rows], 0),
    }


def reference(rows: list[dict[str, Any]]) -> torch.Tensor:
    """The stored reference's log-probability of what counts in each row."""
    sums = [sum(x for x, own in zip(row["reference"], row["mask"], strict=True) if own) for row in rows]
    return torch.tensor(sums, dtype=torch.float64)


def measured(network: Any, loss: torch.Tensor) -> dict[str, Any]:
    """The loss and its gradients by name."""
    network.zero_grad()
    loss.backward()
    gradients = {
        name: [[round(x, 10) for x in row] for row in p.grad.view(p.shape[0], -1).tolist()]
        for name, p in network.named_parameters()
        if name in KEPT and p.grad is not None
    }
    return {"loss": loss.item(), "gradients": gradients}


def exact_norm(self: Any, hidden: torch.Tensor) -> torch.Tensor:
    """The norm of transformers without its float32."""
    mean_square = hidden.pow(2).mean(-1, keepdim=True)
    return self.weight * hidden * torch.rsqrt(mean_square + self.variance_epsilon)


def options(folder: str) -> dict[str, Any]:
    """What keeps a trainer quiet and on the CPU."""
    return {
        "output_dir": folder, "report_to": [], "use_cpu": True, "bf16": False, "fp16": False,
        "per_device_train_batch_size": 12, "gradient_checkpointing": False, "disable_tqdm": True,
    }  # fmt: skip


def dpo(folder: str, **settings: Any) -> dict[str, Any]:
    """DPO and IPO."""
    network = model()
    rows = Dataset.from_list([{"prompt": "1", "chosen": "2", "rejected": "3"}])
    trainer = trl.DPOTrainer(
        model=network,
        ref_model=model(),
        args=trl.DPOConfig(**options(folder), precompute_ref_log_probs=False, **settings),
        train_dataset=rows,
        processing_class=tokenizer(),
    )
    trainer.precompute_ref_logps = True  # the stored ones
    sides = [[row[side] for row in BATCH["pairs"]] for side in SIDES]
    inputs = padded([*sides[0], *sides[1]])
    inputs |= {f"ref_{side}_logps": reference(part) for side, part in zip(SIDES, sides, strict=True)}
    network.train()
    return measured(network, trainer._compute_loss(network, inputs, False))


def kto(folder: str, **settings: Any) -> dict[str, Any]:
    """KTO with the stored strangers as its mismatched answers."""
    network = model()
    rows = Dataset.from_list([{"prompt": "1", "completion": "2", "label": i % 2 == 0} for i in range(12)])
    trainer = trl.KTOTrainer(
        model=network,
        ref_model=model(),
        args=trl.KTOConfig(**options(folder), **settings),
        train_dataset=rows,
        processing_class=tokenizer(),
    )
    trainer.precompute_ref_logps = True
    flat = [row[side] for row in BATCH["pairs"] for side in SIDES]
    inputs = padded(flat)
    inputs |= {f"KL_{name}": value for name, value in padded(BATCH["strangers"]).items()}
    inputs["label"] = torch.tensor([i % 2 == 0 for i in range(len(flat))])
    inputs |= {"ref_logps": reference(flat), "ref_KL_logps": reference(BATCH["strangers"])}
    network.train()
    return measured(network, trainer._compute_loss(network, inputs, False))


def simpo(folder: str, **settings: Any) -> dict[str, Any]:
    """SimPO, which TRL has as a loss of CPO."""
    network = model()
    rows = Dataset.from_list([{"prompt": "1", "chosen": "2", "rejected": "3"}])
    trainer = CPOTrainer(
        model=network,
        args=CPOConfig(**options(folder), loss_type="simpo", cpo_alpha=0.0, **settings),
        train_dataset=rows,
        processing_class=tokenizer(),
    )
    inputs: dict[str, torch.Tensor] = {}
    for side in SIDES:
        part = padded([row[side] for row in BATCH["pairs"]])
        inputs[f"{side}_input_ids"], inputs[f"{side}_attention_mask"] = (
            part["input_ids"],
            part["attention_mask"],
        )
        inputs[f"{side}_labels"] = part["input_ids"].masked_fill(part["completion_mask"] == 0, -100)
    network.train()
    return measured(network, trainer.get_batch_loss_metrics(network, inputs)[0])


def reward(folder: str, **settings: Any) -> dict[str, Any]:
    """The reward model's loss, read at the last token that counts."""
    config = transformers.AutoConfig.from_pretrained(FOLDER, num_labels=1)
    network = transformers.AutoModelForSequenceClassification.from_pretrained(
        FOLDER, config=config, dtype=torch.float64
    )
    with torch.no_grad():
        network.score.weight.copy_(torch.tensor([BATCH["head"][:-1]]))
    rows = Dataset.from_list([{"chosen": "2", "rejected": "3", "margin": 0.0}])
    trainer = trl.RewardTrainer(
        model=network,
        args=trl.RewardConfig(**options(folder), **settings),
        train_dataset=rows,
        processing_class=tokenizer(),
    )
    cut = [
        {"ids": row[side]["ids"][: 1 + max(i for i, own in enumerate(row[side]["mask"]) if own)], "mask": []}
        for side in SIDES
        for row in BATCH["pairs"]
    ]
    inputs = padded(cut)
    inputs.pop("completion_mask")
    inputs["margin"] = torch.tensor([row["margin"] for row in BATCH["pairs"]], dtype=torch.float64)
    network.train()
    return measured(network, trainer.compute_loss(network, inputs))


def advantages(scale: bool) -> torch.Tensor:
    """Of both answers to every prompt, as TRL makes them of rewards."""
    rewards = torch.tensor([row["rewards"] for row in BATCH["pairs"]], dtype=torch.float64)
    centred = rewards - rewards.mean(1, keepdim=True)
    return (centred / (rewards.std(1, keepdim=True) + 1e-4) if scale else centred).flatten()


def grpo(folder: str, scale: bool, **settings: Any) -> dict[str, Any]:
    """GRPO and its kin: prompts padded on the left, answers on the right, results of tools masked."""
    network = model()
    arguments = options(folder) | {"per_device_train_batch_size": 2}
    trainer = trl.GRPOTrainer(
        model=network,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=trl.GRPOConfig(**arguments, num_generations=2, max_completion_length=16, **settings),
        train_dataset=Dataset.from_list([{"prompt": "1"}]),
        processing_class=tokenizer(),
    )
    flat = [row[side] for row in BATCH["pairs"] for side in SIDES]
    starts = [row["mask"].index(1) for row in flat]
    before, after = max(starts), max(len(row["ids"]) - start for row, start in zip(flat, starts, strict=True))

    def answers(name: str, with_: Any, dtype: Any) -> torch.Tensor:
        rows = [row[name][start:] for row, start in zip(flat, starts, strict=True)]
        return torch.tensor([row + [with_] * (after - len(row)) for row in rows], dtype=dtype)

    prompts = [row["ids"][:start] for row, start in zip(flat, starts, strict=True)]
    there = [[1] * len(row["ids"][start:]) for row, start in zip(flat, starts, strict=True)]
    inputs = {
        "prompt_ids": torch.tensor([[PAD] * (before - len(ids)) + ids for ids in prompts]),
        "prompt_mask": torch.tensor([[0] * (before - len(ids)) + [1] * len(ids) for ids in prompts]),
        "completion_ids": answers("ids", PAD, torch.long),
        "completion_mask": torch.tensor([row + [0] * (after - len(row)) for row in there]),
        "tool_mask": answers("mask", 0, torch.long),
        "old_per_token_logps": answers("old", 0.0, torch.float64),
        "ref_per_token_logps": answers("reference", 0.0, torch.float64),
        "advantages": advantages(scale),
        "num_items_in_batch": torch.tensor(float(sum(sum(row["mask"]) for row in flat))),
    }
    network.eval()  # else TRL divides by the micro-batches of its own loop
    return measured(network, trainer._compute_loss(network, inputs))


def distillation(beta: float) -> dict[str, Any]:
    """The divergence of GKD on the chosen answers, from a teacher whose rows are written backwards."""
    network, teacher = model(), model()
    teacher.load_state_dict({name: value.flip(-1) for name, value in teacher.state_dict().items()})
    inputs = padded([row["chosen"] for row in BATCH["pairs"]])
    labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)[:, 1:]
    read = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        wanted = teacher(**read).logits[:, :-1]
    loss = GKDTrainer.generalized_jsd_loss(
        network(**read).logits[:, :-1],
        wanted,
        labels,
        beta=beta,
        num_items_in_batch=int((labels != -100).sum()),
    )
    return measured(network, loss)


def main() -> None:
    """Measure and write."""
    transformers.models.qwen3.modeling_qwen3.Qwen3RMSNorm.forward = exact_norm
    with tempfile.TemporaryDirectory() as folder:
        found = {
            "dpo": dpo(folder, loss_type=["sigmoid"], beta=0.1),
            "ipo_per_token": dpo(folder, loss_type=["ipo"], beta=0.3),
            "kto": kto(folder, beta=0.2, desirable_weight=1.2, undesirable_weight=0.9),
            "simpo": simpo(folder, beta=2.0, simpo_gamma=0.7),
            "bradley_terry": reward(folder, center_rewards_coefficient=0.02),
            # The paper's divergence: by default TRL multiplies it by the ratio.
            "grpo": grpo(
                folder, True, loss_type="grpo", beta=0.04, epsilon=0.2, use_bias_correction_kl=False
            ),
            "dr_grpo": grpo(folder, False, loss_type="dr_grpo", beta=0.0, epsilon=0.2),
            "dapo": grpo(folder, True, loss_type="dapo", beta=0.0, epsilon=0.2, epsilon_high=0.28),
            "gspo": grpo(
                folder,
                True,
                loss_type="grpo",
                beta=0.0,
                epsilon=0.3,
                epsilon_high=0.3,
                importance_sampling_level="sequence",
            ),
            "gkd_forward": distillation(0.0),
            "gkd_between": distillation(0.3),
            "gkd_reverse": distillation(1.0),
        }
    versions = {"trl": trl.__version__, "transformers": transformers.__version__, "torch": torch.__version__}
    (FOLDER / "trl.json").write_text(json.dumps({"versions": versions, "losses": found}))
    print({name: part["loss"] for name, part in found.items()}, file=sys.stderr)


main()
