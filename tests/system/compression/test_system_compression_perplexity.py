"""Words are dropped by what a model foresees; what it costs is counted; a question counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from compression_models import Foreseeing, word_tokenizer

from kweek.errors import ConfigError, KweekError
from kweek.protocols import Completion
from kweek.system.compression.compressor import Compressor, Settings, compress
from kweek.system.compression.perplexity import surprise
from kweek.system.compression.report import break_even, questions_to_cache

TOKENIZER = word_tokenizer()
TEXT = "\n\n".join(
    f"the cat met the dog in the house of the king and the {word} left the house" for word in "abcdef"
)


class Knowing(Foreseeing):
    """Foresees every word but some; those it foresees only after a question that names them."""

    def __init__(self, rare: str) -> None:
        super().__init__()
        self.rare = rare

    def generate(self, requests, on_token=None):
        done = []
        for request in requests:
            text = TOKENIZER.decode(list(request.prompt_ids))
            asked = text.partition("\n\n")[0] if "Question" in text else ""
            values, said = [0.0], ""
            for token in request.prompt_ids[1:]:
                piece = TOKENIZER.decode([token])
                said += piece
                rare = said.rstrip().endswith(self.rare)
                values.append((-1.0 if self.rare in asked else -9.0) if rare else -0.5)
            done.append(Completion([], [], [], "length", 0, 1.0, prompt_logprobs=values))
        return done


def test_surprise_is_that_of_whole_words_and_of_the_question():
    found = surprise("the cat met zzz", "", Knowing("zzz"), TOKENIZER)
    assert list(found.spans) == [(0, 3), (4, 7), (8, 11), (12, 15)]
    assert found.nats[3] > 8 > found.nats[:3].max() and not found.gained.any()
    seeing = surprise("the cat met zzz", "who is zzz", Knowing("zzz"), TOKENIZER)
    assert seeing.gained[3] > 7 and np.allclose(seeing.nats, found.nats)
    assert seeing.flop == 2 * found.flop


def test_windows_cover_a_long_text_and_a_word_longer_than_one():
    text = f"the cat {'q' * 190} met the dog in the house of the king " * 8
    model = Foreseeing(most=100)
    found = surprise(text, "the dog", model, TOKENIZER, window=100)
    assert len(found.nats) == len(text.split()) and (found.nats > 0).all() and model.calls >= 32
    assert found.flop > 2.0 * 2 * 100 * 8
    with pytest.raises(KweekError, match="Shorten it"):
        surprise(text, "the dog " * 20, model, TOKENIZER, window=100)


def test_the_sentence_that_the_question_is_about_is_kept():
    model = Knowing("d")
    compressor = Compressor(Settings(4, "perplexity", min_tokens=10), TOKENIZER, model)
    use = compressor(TEXT.replace("dog", "mouse"), "what of d")
    assert use.method == "perplexity" and use.ratio >= 4 and " d" in use.text
    assert use.flop > 0 and 0 < use.num_tokens_after <= use.num_tokens_before / 4


def test_unknown_flop_stay_unknown():
    use = compress(TEXT * 3, "what of d", 4.0, Foreseeing(flop=math.nan), TOKENIZER)
    assert use.method == "perplexity" and math.isnan(use.flop) and use.to_dict()["flop"] is None
    assert use.break_even_tokens is None


def test_who_cannot_score_is_an_error_and_who_has_no_model_too():
    with pytest.raises(KweekError, match="does not score prompts"):
        compress(TEXT * 3, "what", 4.0, Foreseeing(scores=False), TOKENIZER)
    with pytest.raises(ConfigError, match="needs a model"):
        Compressor(Settings(4, "perplexity"))
    for wrong in (
        {"ratio": 1.0},
        {"ratio": math.nan},
        {"method": "x"},
        {"keep_words": 0.0},
        {"protect": ("y",)},
    ):
        with pytest.raises(ConfigError):
            Settings(**wrong)


def test_break_even_is_the_first_length_that_pays():
    def reader(n):
        return 10.0 * n + n * n

    least = break_even(lambda n: 12.0 * n, reader, 4.0)
    assert least is not None
    saved = [reader(n) - reader(n / 4) - 12.0 * n for n in (least - 1, least)]
    assert saved[0] <= 0 < saved[1]
    assert break_even(lambda n: 0.0, reader, 2.0) == 1
    assert break_even(lambda n: 11.0 * n, lambda n: 10.0 * n, 4.0) is None, "a scorer as large as the reader"


def test_a_cache_wins_after_some_questions():
    assert questions_to_cache(4.0) == 4.0
    asked = questions_to_cache(4.0, 0.1)
    assert 1 + (asked - 1) * 0.1 == pytest.approx(asked / 4)
    assert questions_to_cache(4.0, 0.25) == math.inf
