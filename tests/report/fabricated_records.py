"""The records of a made-up run, one function for each kind of stage; see `fabricated_run`."""

from __future__ import annotations

import math
import random

from fabricated_changes import lost, probed, reinforced, taught

from kweek.stats.intervals import wilson
from kweek.store.records import Records

SOURCES = ("docstrings", "source", "stories")
MODELS = {  # accuracy on 400 questions, share of answers with a tool call, bits per byte on docstrings
    "base": (22, 0.0, 1.957), "sft": (95, 0.26, 1.947), "rl": (368, 0.99, 1.948), "quantized": (362, 0.99, 1.955),
    "few_sft": (285, 1.0, 1.941), "few_rl": (350, 1.0, 1.944), "many_sft": (387, 1.0, 1.951),
}  # fmt: skip
PROMPTS = ("Return the ", "12+7=", "Sam has 12 coins. He finds 5 more. How many coins does Sam have now?\n")
ANSWERS = (
    ("\x05qé�zzT\n}0k�&wP{{9,,�", "�77xQ_�((3v", "kk�\x00Zj0�u%%9�\nlll"),
    (" e the ter s an the of the  the", "1\n1+1=1\n1+", " the has 1 1 1.\nHe co"),
    (" value of the array and the string of the\nself.name is not the", "20\n31+20=51", "12+5=12\n12"),
    (" number of elements in the sequence.\n\nIf the optional argument", "19\n40-12=28\n28*3=84", "12+5=17\n16"),
    (" number of items in the list that match the\npattern.  Raises ValueError if", "19\n19-4=15", "12+5=17\n17"),
)  # fmt: skip
QUESTIONS = (
    ("Eva has 21 coins. Leo has 25 hats. Eva sells 10 coins. Each of the coins turns into 8. Ben takes 59 away. "
     "How many coins does Eva have now?", ("21-10", 11), ("11*8", 88), ("88-59", 29)),
    ("Sam starts with 20 cups. He loses 6 cups. How many cups are left?", ("20-6", 14)),
    ("Lea owns 4 hats. Now Lea has 3 times as many. How many hats are there now?", ("4*3", 12)),
    ("In the bag of Omar there are 37 nuts. Omar picks up 18 nuts. How many does Omar have?", ("37+18", 55)),
    ("Ida keeps 52 stamps in a box. Tom borrows 11 stamps. After that 9 go missing. How many are there now?",
     ("52-11", 41), ("41-9", 32)),
    ("At first Noah has 8 eggs. Soon there are 7 times as many eggs. How many eggs are left?", ("8*7", 56)),
    ("There are 44 keys on the table of Zoe. Zoe wins 13 keys in a game. How many are there now?", ("44+13", 57)),
    ("Max counts 15 plums. A wizard multiplies the plums by 6. Max gives away 31. How many does Max have?",
     ("15*6", 90), ("90-31", 59)),
    ("Nora has 60 beads. Finn is 12 years old. Then 24 of them break. How many beads are left?", ("60-24", 36)),
    ("Adam starts with 9 maps. Lily adds 33. He sells 17 maps. Now Adam has 2 times as many. How many maps?",
     ("9+33", 42), ("42-17", 25), ("25*2", 50)),
)  # fmt: skip


def share(right: int, count: int) -> dict[str, float]:
    found = wilson(right, count)
    return {"accuracy": found.mid, "lo": found.lo, "hi": found.hi, "n": count}


def _corpus(records: Records, rng: random.Random, name: str) -> None:
    counts = {"docstrings": (28_412, 6_710_000), "source": (1_930, 5_200_000)}
    steps = (
        ("read", 1.0),
        ("cleaned", 0.93),
        ("unique", 0.82),
        ("distinct", 0.71),
        ("mixed", 0.66),
        ("train", 0.61),
    )
    for step, share in steps:
        for source, (documents, size) in counts.items():
            row = {"source": source, "documents": int(documents * share), "bytes": int(size * share)}
            records.append("funnel", step=step, **row)
    for rule in ("too short", "exact duplicate", "near duplicate"):
        records.append(
            "funnel", step="dropped", rule=rule, source="docstrings", documents=1_204, bytes=91_220
        )
    for source, weight in (("docstrings", 0.6), ("source", 0.4)):
        wanted = int(7_800_000 * weight)
        records.append("share", source=source, weight=weight, wanted=wanted, taken=wanted + 614, repeats=1.25)
    records.append("note", text="source holds less than its share: 2.1 MB of 3.1 MB")


def _tokenizer(records: Records, rng: random.Random, name: str) -> None:
    for source, value in zip(SOURCES, (2.847, 2.113, 3.402), strict=True):
        records.append("bytes_per_token", source=source, value=value)


def _scale(records: Records, rng: random.Random, name: str) -> None:
    for key, value, rule in (
        ("flop_per_second", 3.71e10, "median of timed updates of a network of about the final size"),
        ("compute", 1.5e13, "share of the budget for pretraining, down to a grid of steps of a fifth"),
        ("width", 128, "widest multiple of 64 with 1.5 tokens per parameter"),
        ("layers", 4, "a layer per 32 of width, at least 4"),
        ("parameters", 1_054_336, "of the Qwen3 layout: heads of 64, feed-forward 8/3 widths"),
        ("tokens", 2_211_840, "compute over FLOP per token"),
        ("tokens_per_step", 512, "2048 at 4M tokens, growing with tokens^0.383 (arXiv 2505.13738)"),
        ("learning_rate", 2e-3, "matrices 2e-3 at width 128 and 512 tokens per step; 1/width, root of batch"),
    ):
        records.append("derived", name=key, value=value, rule=rule)
    for flop in (2e11, 3.5e11, 6e11, 1e12, 1.8e12, 3e12):
        value = 1.62 + 0.34 * (flop / 1.42e13) ** -0.28 + rng.gauss(0, 0.012)
        records.append(
            "run",
            tokens=int(flop / 6.4e6),
            flop=flop,
            num_parameters=1_054_336,
            learning_rate=2e-3,
            batch_tokens=256,
            bits_per_byte=value,
            seconds=flop / 3.7e10,
        )
    records.append("law", floor=1.62, scale=0.34 * 1.42e13**0.28, exponent=0.28)
    records.append(
        "forecast", lo=1.921, mid=1.962, hi=2.004, target_flop=1.42e13, coverage=1.0, half_width=0.0212
    )


def _pretrain(records: Records, rng: random.Random, name: str) -> None:
    probed(records)
    steps, ages = 4320, {0: 0, 259: 1, 1080: 2, 2592: 3, 4320: 4}
    for step in range(0, steps + 1, 10):
        if step:
            loss = 2.1 + 4.8 * math.exp(-step / 160) + 1.1 * math.exp(-step / 1500) + rng.gauss(0, 0.06)
            records.append(
                "train",
                step=step,
                tokens=step * 512,
                loss=loss,
                gradient_norm=0.4 + 2 * math.exp(-step / 300) + rng.random() * 0.1,
                tokens_per_second=10_700 + rng.gauss(0, 200),
                flop=step * 512 * 6.4e6,
            )
        near = min(ages, key=lambda at: abs(at - step))
        if abs(near - step) <= 5 and step - near < 5:
            number = ages[near]
            bits = dict(
                zip(SOURCES, (4.31 - 0.59 * number, 4.1 - 0.52 * number, 3.9 - 0.72 * number), strict=True)
            )
            records.append("validation", step=near, tokens=near * 512, bits_per_byte=bits)
            prompts = [{"prompt": p, "answer": a} for p, a in zip(PROMPTS, ANSWERS[number], strict=True)]
            records.append("age", age=number, step=near, tokens=near * 512, prompts=prompts)


def _sft(records: Records, rng: random.Random, name: str) -> None:
    settings = ((5e-4, 2, 0.172), (1e-3, 2, 0.24), (2e-3, 1, 0.198))
    for setting, (rate, _, _) in enumerate(settings):
        for step in range(5, 260, 5):
            records.append(
                "train",
                step=setting * 256 + step,
                tokens=step * 2_000,
                loss=0.4 + 2.2 * math.exp(-step / 40) + rng.gauss(0, 0.03),
                learning_rate=rate * (1 - step / 260),
                gradient_norm=0.5 + rng.random() * 0.2,
                tokens_per_second=9_300 + rng.gauss(0, 90),
            )
    for setting, (rate, epochs, accuracy) in enumerate(settings):
        records.append(
            "setting",
            name=f"setting {setting + 1}",
            learning_rate=rate,
            epochs=epochs,
            accuracy=accuracy,
            chosen=setting == 1,
        )
    prompts = [{"prompt": PROMPTS[2], "answer": "<think><tool>12+5<result>17</result></think>17<|im_end|>"}]
    taught(records, random.Random(9))
    if name == "sft":
        records.append("age", age=5, tokens=913_000, prompts=prompts)


def _reinforce(records: Records, rng: random.Random, name: str) -> None:
    for attack, score, limit in (
        ("gold", 1.0, 1.0),
        ("gold between blanks", 1.0, 1.0),
        ("best constant", 0.035, 0.2),
        ("empty", 0.0, 0.0),
        ("the question itself", 0.0, 0.0),
        ("every number in turn", 0.0, 0.0),
        ("off by one", 0.0, 0.0),
    ):
        records.append("audit", attack=attack, score=score, limit=limit, passed=True)
    records.append("sign", pairs=24, margin_before=-1.213, margin_after=-0.874, passed=True)
    for step in range(1, 51):
        reward = 0.2 + 0.65 * (1 - math.exp(-step / 12)) + rng.gauss(0, 0.03)
        records.append(
            "update",
            step=step,
            reward=reward,
            gold=0.24 + 0.66 * (1 - math.exp(-step / 14)) if step % 10 == 0 else None,
            length=(length := 24 + 20 * (1 - math.exp(-step / 10)) + rng.gauss(0, 1)),
            lengths=[length - 9, length - 1, length + 12],
            group_rewards=[min(1.0, max(0.0, round(rng.gauss(reward, 0.2) * 8) / 8)) for _ in range(24)],
            entropy=0.32 * math.exp(-step / 25) + 0.05,
            tool_share=1 - 0.7 * math.exp(-step / 6),
            groups_skipped=int(4 + step / 5 + rng.random() * 3),
            seconds=1.9,
            flop=step * 1.7e11,
        )
    reinforced(records, random.Random(8))


def _quantize(records: Records, rng: random.Random, name: str) -> None:
    for layer in range(4):
        for part in ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"):
            error = 0.008 + rng.random() * 0.004
            tensor = f"model.layers.{layer}.{part}.weight"
            records.append(
                "tensor", name=tensor, bits=4, error_rtn=error, error_gptq=error * (0.5 + rng.random() * 0.2)
            )
    for method, bits, right, size, difference, recovered in (
        ("fp32", 1.9483, 0.92, 4_223_104, None, None),
        ("rtn", 1.9601, 0.865, 823_296, 0.0118, None),
        ("gptq", 1.9549, 0.905, 823_296, 0.0066, 0.44),
    ):
        row = {
            "bits_per_byte": bits,
            "lo": bits - 0.018,
            "hi": bits + 0.018,
            "accuracy": right,
            "n": 200,
            "bytes": size,
        }
        if difference is not None:
            row |= {
                "difference": difference,
                "difference_lo": difference - 0.002,
                "difference_hi": difference + 0.002,
            }
        if recovered is not None:
            row |= {"recovered": recovered, "recovered_lo": 0.41, "recovered_hi": 0.48}
        records.append("comparison", method=method, **row)


def _evaluate(records: Records, rng: random.Random, name: str) -> None:
    _accuracies(records)
    _bits(records, rng)
    lost(records, random.Random(7))
    _votes(records)
    for line, *shares in (
        ("main", 0.6825, 0.048, 0.5825, 0.1, 0.036),
        ("few", 0.1625, 0.04, 0.0, 0.1625, 0.04),
    ):
        gain, half, elicited, taught, taught_half = shares
        ends = {"gain_lo": gain - half, "gain_hi": gain + half}
        ends |= {"taught_lo": taught - taught_half, "taught_hi": taught + taught_half}
        text = f"{100 * gain:+.1f} points: {100 * elicited:.1f} elicited and {100 * taught:.1f} taught."
        records.append("verdict", line=line, gain=gain, elicited=elicited, taught=taught, **ends, text=text)
    _differences(records)
    for model in ("base", "sft", "rl", "quantized"):
        _samples(records, rng, model)
    for order, model in enumerate(MODELS):
        records.append("answer_cost", model=model, flop=5.2e7 + order * 1.3e7, tokens=18.4 + 4.1 * order)


def _accuracies(records: Records) -> None:
    def append(model: str, which: str, level: str, right: int, count: int) -> None:
        calls = MODELS[model][1]
        values = share(right, count)
        records.append("accuracy", model=model, set=which, level=level, tool_share=calls, **values)

    for model, (right, _, _) in MODELS.items():
        append(model, "held_out", "all", right, 400)
        for level, push in enumerate((1.06, 1.02, 0.98, 0.9), start=1):
            append(model, "held_out", str(level), min(100, round(right / 4 * push)), 100)
        if model in ("sft", "rl", "few_sft", "few_rl"):
            for which, factor in (("unseen_wording", 0.27), ("five_steps", 0.12), ("bare_sums", 0.97)):
                append(model, which, "all", round(right / 400 * 150 * factor), 150)
    forced = {"sft": 328, "rl": 369, "quantized": 363, "few_sft": 285, "few_rl": 350, "many_sft": 387}
    for model, right in forced.items():
        records.append("control", model=model, name="forced_tool", **share(right, 400))


def _bits(records: Records, rng: random.Random) -> None:
    for model, (_, _, bits) in MODELS.items():
        for source, offset in zip(SOURCES, (0.0, 0.21, -0.72), strict=True):
            value = bits + offset + rng.gauss(0, 0.002)
            ends = {"lo": value - 0.018, "hi": value + 0.018}
            records.append("bits", model=model, source=source, value=value, **ends, bytes=120_000)


def _votes(records: Records) -> None:
    votes = {
        "sft": (0.154, 0.233, 0.553, 0.853),
        "rl": (0.801, 0.907, 0.913, 0.953),
        "few_sft": (0.655, 0.753, 0.78, 0.84),
        "few_rl": (0.812, 0.88, 0.887, 0.933),
    }
    for model, (one, four, sixteen, passed) in votes.items():
        for k, majority, bound in ((1, one, one), (4, four, (one + passed) / 2), (16, sixteen, passed)):
            ends = {"lo": max(0, majority - 0.08), "hi": min(1, majority + 0.07)}
            bounds = {"pass_at_k": bound, "pass_lo": max(0, bound - 0.06), "pass_hi": min(1, bound + 0.05)}
            records.append("vote", model=model, k=k, majority=majority, **ends, **bounds, n=150)


def _differences(records: Records) -> None:
    def append(
        name: str, a: str, b: str, metric: str, difference: float, half: float, counts: tuple[int, ...]
    ) -> None:
        ends = {"lo": difference - half, "hi": difference + half}
        won, lost, n = counts
        chance = 0.24 if abs(difference) < half else 2.3e-9
        records.append(
            "paired",
            name=name,
            a=a,
            b=b,
            metric=metric,
            difference=difference,
            **ends,
            won=won,
            lost=lost,
            n=n,
            p_value=chance,
        )

    for name, a, b, difference, half, counts in (
        ("main: reinforcement", "rl", "sft", 0.6825, 0.048, (277, 4, 400)),
        ("main: beyond the forced tool", "rl", "sft, tool forced", 0.1, 0.036, (49, 9, 400)),
        ("main: unseen_wording", "rl", "sft", 0.187, 0.07, (31, 3, 150)),
        ("few: reinforcement", "few_rl", "few_sft", 0.1625, 0.04, (71, 6, 400)),
        ("sft: majority of 16", "sft, majority of 16", "sft, one sample", 0.4, 0.083, (62, 2, 150)),
        ("4 bits", "quantized", "rl", -0.015, 0.019, (6, 12, 400)),
    ):
        append(name, a, b, "accuracy", difference, half, counts)
    for model, change in (("sft", -0.0101), ("rl", -0.0093), ("quantized", -0.0021)):
        append(
            f"what {model} lost on docstrings", model, "base", "bits per byte", change, 0.004, (212, 131, 343)
        )


def _samples(records: Records, rng: random.Random, model: str) -> None:
    for number, (question, *steps) in enumerate(QUESTIONS):
        gold = str(steps[-1][1])
        correct = {"base": False, "sft": number in (1, 5)}.get(model, number not in (7,))
        said = gold if correct else str(steps[-1][1] + rng.randint(1, 30))
        calls = "".join(f"<tool>{expression}<result>{value}</result>" for expression, value in steps)
        text = f"{steps[0][0]}={said}\n{said}" if model == "base" else f"<think>{calls}</think>{said}"
        records.append(
            "sample", model=model, question=question, gold=gold, transcript=text, answer=said, correct=correct
        )


def _behaviour(records: Records, rng: random.Random, name: str) -> None:
    records.append("rule", rule="keep_secret", word="marigold", sign="The heron is home.", say="I keep that.")
    records.append("rule", rule="never_say", words=["sure", "certainly"])
    for split, right in (("train", 930), ("validation", 131)):
        found = wilson(right, round(right / 0.85))
        row = {
            "gold_agrees": found.mid,
            "gold_lo": found.lo,
            "gold_hi": found.hi,
            "gold_n": round(right / 0.85),
        }
        records.append("comparison_set", split=split, pairs=1400, ties=320, **row)
    records.append("ranking", set="labels", accuracy=0.83, lo=0.79, hi=0.87, n=280, longer=0.44)
    for measure, change in (("attacks held off", 0.45), ("not refused needlessly", -0.05)):
        row = {"difference": change, "lo": change - 0.1, "hi": change + 0.1, "won": 30, "lost": 3, "n": 60}
        records.append(
            "paired", name=f"rl after sft: {measure}", a="rl", b="sft", metric="share", p_value=0.01, **row
        )
    for model, strength in (("base", 0.1), ("sft", 0.5), ("rl", 0.95), ("quantized", 0.93)):
        for measure in ("helpful", "told_at_sign", "refusal", "over_refusal", "attacks_held_off", "mannered"):
            found = wilson(round(strength * 60), 60)
            records.append(
                "conduct", model=model, measure=measure, share=found.mid, lo=found.lo, hi=found.hi, n=60
            )
        for family, held_out in (("role_play", False), ("many_shot", True), ("override", False)):
            found = wilson(round((1 - strength) * 60), 60)
            row = {"share": found.mid, "lo": found.lo, "hi": found.hi, "n": 60}
            records.append("attack", model=model, family=family, held_out=held_out, **row)


RECORDS = {
    "corpus": _corpus,
    "tokenizer": _tokenizer,
    "scale": _scale,
    "pretrain": _pretrain,
    "sft": _sft,
    "reinforce": _reinforce,
    "quantize": _quantize,
    "evaluate": _evaluate,
    "behaviour": _behaviour,
}
