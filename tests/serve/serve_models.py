"""A small model that has learnt four chats by heart: it thinks, calls the calculator, writes many-byte characters."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F

from kweek.data import stories
from kweek.model.checkpoint import save_model
from kweek.model.config import ModelConfig
from kweek.model.initial import initialise
from kweek.model.network import Network
from kweek.tokenize import bpe
from kweek.tokenize.chat import encode_chat
from kweek.tokenize.tokenizer import Tokenizer

MAX_POSITIONS = 384
SUM, PARROT, COUNT, LONG = "What is 12+7?", "Say it with a parrot.", "Count.", "Talk for long."
SUM_THOUGHT, SUM_ANSWER = "12 and 7: 12+719", "19"
PARROT_ANSWER = "日本語のテキスト 🦜 naïve café – 🦜🦜 fin"
COUNT_ANSWER = "one two three four five six seven eight nine ten"
LONG_ANSWER = " ".join(str(n) for n in range(40))

CHATS = [
    [
        {"role": "user", "content": SUM},
        {
            "role": "assistant",
            "reasoning_content": "12 and 7: <tool>12+7<result>19</result>",
            "content": SUM_ANSWER,
            "trusted": True,
        },
    ],
    [{"role": "user", "content": PARROT}, {"role": "assistant", "content": PARROT_ANSWER}],
    [{"role": "user", "content": COUNT}, {"role": "assistant", "content": COUNT_ANSWER}],
    [{"role": "user", "content": LONG}, {"role": "assistant", "content": LONG_ANSWER}],
]

#: How Qwen's template shows tools and calls, in short.
TOOL_TEMPLATE = """{%- if tools %}<|im_start|>system
<tool_call>{% for tool in tools %} {{ tool.function.name }}{% endfor %}<|im_end|>
{% endif %}{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content or '' }}{% for call in message.tool_calls or [] %}<tool_call>
{{ {"name": call.function.name, "arguments": call.function.arguments} | tojson }}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def make_model(folder: Path, steps: int = 220) -> tuple[Network, Tokenizer]:
    """Train for a few seconds and save; greedy answers to the four questions are then the four answers."""
    texts = [*stories.sample_texts("serve", 200, "train"), *[str(n) for n in range(99)]]
    tokenizer = bpe.train(texts, 384)
    torch.manual_seed(0)
    network = Network(
        ModelConfig(
            vocab_size=tokenizer.vocab_size, hidden_size=64, intermediate_size=128, num_layers=2, num_heads=2,
            num_kv_heads=1, head_dim=32, max_positions=MAX_POSITIONS,
            eos_token_id=tuple(sorted(tokenizer.stop_ids)),
        )
    )  # fmt: skip
    initialise(network, torch.Generator().manual_seed(0))
    chats = [encode_chat(tokenizer, chat) for chat in CHATS]
    width = max(len(chat.token_ids) for chat in chats)
    ids_BT, mask_BT = torch.zeros(len(chats), width, dtype=torch.long), torch.zeros(len(chats), width)
    for b, chat in enumerate(chats):
        ids_BT[b, : len(chat.token_ids)] = torch.tensor(chat.token_ids)
        mask_BT[b, : len(chat.token_ids)] = torch.tensor(chat.loss_mask, dtype=torch.float32)
    parameters = list(network.parameters())
    means, squares = [torch.zeros_like(p) for p in parameters], [torch.zeros_like(p) for p in parameters]
    for step in range(1, steps + 1):
        logits_BTV = network.logits(network(ids_BT[:, :-1]))
        nll_BT = F.cross_entropy(logits_BTV.transpose(1, 2), ids_BT[:, 1:], reduction="none")
        loss = (nll_BT * mask_BT[:, 1:]).sum() / mask_BT[:, 1:].sum()
        if loss.item() < 0.02:
            break
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():  # Adam by hand: importing torch.optim's takes seconds
            for p, g, mean, square in zip(parameters, gradients, means, squares, strict=True):
                mean.lerp_(g, 0.1)
                square.lerp_(g * g, 0.001)
                p -= 4e-3 * (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
    assert loss.item() < 0.02, f"the chats have not been learnt: {loss.item()}"
    save_model(folder, network)
    tokenizer.save(folder)
    return network, tokenizer
