"""TRL's GRPOTrainer, a block of steps at a time: run by `evidence/align/rollout_speed.py` in TRL's own environment.

    python trl_grpo.py JOB.json

JOB: `model` (folder), `scratch` (folder), `steps` (prompts and golds of every step), `samples`, `new_tokens`, `rate`,
`seed`, `close` (text that ends thinking). It says {"ready": true} once everything is imported and built, then for every
line "N" on its input it trains N steps and says {"seconds": …, "rewards": […], "lengths": […]}. Nothing of Kweek is
imported.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TRANSFORMERS_VERBOSITY": "error"}

import torch
import trl
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

torch.set_num_threads(1)
SAID = sys.stdout
sys.stdout = sys.stderr  # what libraries print is no answer


def say(**fields: Any) -> None:
    """One line for the other side."""
    print(json.dumps(fields), file=SAID, flush=True)


class Blocks(TrainerCallback):
    """Waits before the first step of every block until it is told to go, and reports at its end."""

    def __init__(self) -> None:
        self.left, self.started = 0, 0.0
        self.rewards: list[float] = []
        self.lengths: list[float] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """See `TrainerCallback`."""
        if self.left == 0:
            line = sys.stdin.readline()
            if not line:
                raise SystemExit(0)
            self.left, self.started = int(line), time.perf_counter()
            self.rewards, self.lengths = [], []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """See `TrainerCallback`."""
        self.left -= 1
        if self.left == 0:
            say(seconds=time.perf_counter() - self.started, rewards=self.rewards, lengths=self.lengths)


def main() -> None:
    """Build the trainer and train as told."""
    job = json.loads(Path(sys.argv[1]).read_text())
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)
    stops = model.generation_config.eos_token_id
    stop_ids = set(stops if isinstance(stops, list) else [stops])
    close = tokenizer.convert_tokens_to_ids(job["close"])
    blocks = Blocks()

    def reward(prompts: Any, completions: Any, completion_ids: Any, gold: Any, **_: Any) -> list[float]:
        """1 for the right number after the last mark that ends thinking."""
        found = []
        for ids, right in zip(completion_ids, gold, strict=True):
            ids = [i for i in ids if i not in stop_ids]
            if close in ids:
                ids = ids[len(ids) - ids[::-1].index(close) :]
            text = tokenizer.decode(ids).strip()
            found.append(float(re.fullmatch(r"-?\d{1,12}", text) is not None and int(text) == int(right)))
        blocks.rewards.append(sum(found) / len(found))
        blocks.lengths.append(sum(map(len, completion_ids)) / len(completion_ids))
        return found

    rows = [row for step in job["steps"] for row in step]
    first = tokenizer.apply_chat_template(rows[0]["prompt"], add_generation_prompt=True, tokenize=False)
    if tokenizer(first, add_special_tokens=False)["input_ids"] != rows[0]["ids"]:
        raise SystemExit("the prompt is not the same tokens")
    dataset = Dataset.from_list([{"prompt": row["prompt"], "gold": row["gold"]} for row in rows])
    size = len(job["steps"][0]) * job["samples"]
    config = trl.GRPOConfig(
        output_dir=job["scratch"], use_cpu=True, bf16=False, fp16=False, gradient_checkpointing=False,
        per_device_train_batch_size=size, gradient_accumulation_steps=1, num_generations=job["samples"],
        max_completion_length=job["new_tokens"], temperature=1.0, top_p=1.0, top_k=0, beta=0.0, num_iterations=1,
        loss_type="dr_grpo", scale_rewards="none", shuffle_dataset=False, max_steps=len(job["steps"]),
        learning_rate=job["rate"], lr_scheduler_type="constant", warmup_steps=0, weight_decay=0.0, adam_beta1=0.9,
        adam_beta2=0.95, max_grad_norm=1.0, seed=job["seed"], report_to="none", save_strategy="no",
        logging_steps=10**9, disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = trl.GRPOTrainer(
        model=model, reward_funcs=reward, args=config, train_dataset=dataset, processing_class=tokenizer,
        callbacks=[blocks],
    )  # fmt: skip
    say(ready=True, trl=trl.__version__, torch=torch.__version__)
    trainer.train()


if __name__ == "__main__":
    main()
