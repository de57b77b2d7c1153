"""The figures by which people picture computing, each computed again, with its source and how far it is off.

Nothing is smoothed: a claim that its own arithmetic does not bear out shows a ratio far from one, and the
note says why. Where a claim is a range, `value` is the geometric mean of its ends.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from kweek.compute.flops import SECONDS_PER_YEAR, STANDARD_FACTOR

_PEOPLE = 8.1e9  # United Nations, World Population Prospects 2024
_TOKENS_PER_SECOND = 7.0  # the speed that the claims assume, near that of a reader
_GPT4_PARAMETERS = 280e9  # active for one token
_GPT4_TRAINING_TOKENS = 13e12
_GPT4_FLOP_PER_TOKEN = 560e12  # as printed: "560 TFLOPs"
_LLAMA_PARAMETERS = 405e9
_O3_TOKENS = 172 * 33e6 / 100  # a question at high effort: 33M tokens for 100 at low, 172 times the compute
_BRAIN_FLOP_PER_SECOND = math.sqrt(1e18 * 20e18)
_O3_FLOP = math.sqrt(1e21 * 1e22)

_GPT4_LEAK = "SemiAnalysis (July 2023), leaked, never confirmed"
_LLAMA = "Grattafiori et al. 2024, The Llama 3 Herd of Models"
_ARC = "ARC Prize (December 2024), OpenAI o3 on ARC-AGI-Pub"
_CARLSMITH = "Carlsmith 2020, How Much Computational Power Does It Take to Match the Human Brain?"
_RACK = "NVIDIA, GB200 NVL72 data sheet"


@dataclass(frozen=True)
class Yardstick:
    """One figure: `value` as claimed, `computed` from the parts that the source gives."""

    name: str
    claim: str
    source: str
    unit: str
    value: float
    computed: float
    note: str

    @property
    def ratio(self) -> float:
        """The computed figure over the claimed one: 1 where the arithmetic of the claim holds."""
        return self.computed / self.value


_TRAINING = [
    Yardstick(
        name="training GPT-4",
        claim="frontier models take 1e25 to 1e26 FLOP to train, GPT-4 about 2e25",
        source=f"Epoch AI, notable AI models (2.1e25); parts: {_GPT4_LEAK}",
        unit="FLOP",
        value=2e25,
        computed=6 * _GPT4_PARAMETERS * _GPT4_TRAINING_TOKENS,
        note="6 FLOP per active parameter and token: 280e9 parameters, 13e12 tokens",
    ),
    Yardstick(
        name="all people doing sums",
        claim="a frontier training is as many sums as all people do in a billion years, one per five seconds",
        source="United Nations, World Population Prospects 2024: 8.1e9 people",
        unit="years",
        value=1e9,
        computed=math.sqrt(1e25 * 1e26) / (_PEOPLE / 5) / SECONDS_PER_YEAR,
        note="for 3.2e25 FLOP, the middle of the range; 0.2 to 2 billion years for its ends",
    ),
    Yardstick(
        name="reading the training text",
        claim="reading what a model was trained on takes a person 170,000 years",
        source="LeCun 2024: 1e13 tokens, 0.75 words per token, 250 words a minute, 8 hours a day",
        unit="years",
        value=170_000,
        computed=1e13 * 0.75 / 250 / (8 * 60) / 365.25,
        note="at the 13e12 to 15e12 tokens of GPT-4 and Llama 3 it is 220,000 to 260,000 years",
    ),
]

_ANSWERING = [
    Yardstick(
        name="one token of GPT-4",
        claim="560 TFLOP per token",
        source=_GPT4_LEAK,
        unit="FLOP per token",
        value=_GPT4_FLOP_PER_TOKEN,
        computed=2 * _GPT4_PARAMETERS,
        note="2 FLOP per active parameter give a thousandth: 560 GFLOP was meant, or a batch of a thousand",
    ),
    Yardstick(
        name="GPT-4 speaking",
        claim="560 TFLOP per token at 7 tokens/s are 3e15 FLOP/s",
        source=_GPT4_LEAK,
        unit="FLOP/s",
        value=3e15,
        computed=_GPT4_FLOP_PER_TOKEN * _TOKENS_PER_SECOND,
        note=f"at 560 GFLOP per token it would be {2 * _GPT4_PARAMETERS * _TOKENS_PER_SECOND:.1e} FLOP/s",
    ),
    Yardstick(
        name="a 405B model speaking",
        claim="a model of 405e9 parameters works at 3e14 FLOP/s",
        source=_LLAMA,
        unit="FLOP/s",
        value=3e14,
        computed=2 * _LLAMA_PARAMETERS * _TOKENS_PER_SECOND,
        note="2 FLOP per parameter at 7 tokens/s; the claim is 53 times that, as a batch of 53 would be",
    ),
    Yardstick(
        name="a question to o3",
        claim="o3 at high effort spends 1e21 to 1e22 FLOP on one question",
        source=f"{_ARC}: 57e6 tokens; size of o3 unknown, that of GPT-4 taken",
        unit="FLOP",
        value=_O3_FLOP,
        computed=_O3_TOKENS * 2 * _GPT4_PARAMETERS,
        note=f"with 560 TFLOP per token it would be {_O3_TOKENS * _GPT4_FLOP_PER_TOKEN:.1e}, above the range",
    ),
    Yardstick(
        name="the same question to a person",
        claim="o3's 1e21 to 1e22 FLOP stand against 10 to 100 seconds of a person",
        source=f"{_ARC}; a brain at 1 to 20 exaFLOP/s",
        unit="FLOP",
        value=_O3_FLOP,
        computed=math.sqrt(10 * 100) * _BRAIN_FLOP_PER_SECOND,
        note="32 s of a brain at 4.5 exaFLOP/s: by this reckoning the person needs a twentieth",
    ),
    Yardstick(
        name="price span",
        claim="the top model costs 80 times the entry model",
        source="list prices per million output tokens: Anthropic (March 2024), OpenAI (April 2025)",
        unit="times",
        value=80,
        computed=math.sqrt((75 / 1.25) * (40 / 0.40)),
        note="60 for Claude 3 Opus over Haiku ($75, $1.25), 100 for o3 over GPT-4.1 nano ($40, $0.40)",
    ),
]

_BRAIN = [
    Yardstick(
        name="synapses",
        claim="a brain has 1e14 synapses",
        source="Drachman 2005, Neurology 64:2004: 20e9 neurons of the neocortex, 7,000 synapses each",
        unit="synapses",
        value=1e14,
        computed=20e9 * 7000,
        note="neocortex only; estimates for the whole brain reach 1e15",
    ),
    Yardstick(
        name="a brain's work",
        claim="a brain does 1 to 20 exaFLOP/s",
        source=_CARLSMITH,
        unit="FLOP/s",
        value=_BRAIN_FLOP_PER_SECOND,
        computed=math.sqrt(1e13 * 1e17),
        note="the report's range is 1e13 to 1e17, and 1e15 probably suffices; the claim lies above it",
    ),
    Yardstick(
        name="one rack",
        claim="one rack does 1.44 exaFLOP/s",
        source=_RACK,
        unit="FLOP/s in 4 bits, sparse",
        value=1.44e18,
        computed=72 * 20e15,
        note="72 processors, 4-bit numbers, every second weight zero",
    ),
    Yardstick(
        name="one rack, standardised",
        claim="one rack does 1.44 exaFLOP/s",
        source=_RACK,
        unit="FLOP/s in 16-bit equivalents, dense",
        value=1.44e18,
        computed=72 * 10e15 * STANDARD_FACTOR["int4"],
        note="without the zeros, by the table of the standardised figure: what training in 16 bits could use",
    ),
]

#: All of them, in the order in which one would tell them.
YARDSTICKS: list[Yardstick] = [*_TRAINING, *_ANSWERING, *_BRAIN]
