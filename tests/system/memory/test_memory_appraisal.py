"""Search by meaning and by both, on a small real encoder, and the built-in measurement that turns it on or off."""

import sys
from pathlib import Path

import numpy as np
import pytest
from memory_files import folder_of

sys.path.insert(0, str(Path(__file__).parents[2] / "model"))

from encoder_folders import write_encoder

from kweek.engine.embed import Embedder
from kweek.errors import ConfigError, DataError
from kweek.system.memory import vectors
from kweek.system.memory.appraisal import Question, question_of
from kweek.system.memory.memory import Memory
from kweek.system.memory.ranking import fuse
from kweek.system.memory.vectors import Matrix

WORDS = ["cat", "dog", "bark", "sat", "e", "c", "the"]  # that the small encoder knows


def text_of(number):
    """Two sentences of the same words in an order, and with a word, of their own."""
    generator = np.random.default_rng(number)
    orders = (" ".join(generator.permutation([*WORDS, f"number{number}"])) for _ in range(2))
    return ". ".join(orders) + "."


def riddle(number):
    """A question that shares no word with any text, and that the encoder tells from other such questions."""
    return " ".join("cls" if number >> bit & 1 else "sep" for bit in range(6))


@pytest.fixture
def encoder(tmp_path):
    write_encoder(tmp_path / "encoder")
    return Embedder.load(tmp_path / "encoder")


@pytest.fixture
def memory(tmp_path, encoder):
    folder_of(tmp_path / "texts", **{f"d{n:02}__txt": text_of(n) for n in range(40)})
    with Memory(tmp_path / "memory.db", encoder=encoder) as memory:
        memory.add(tmp_path / "texts")
        yield memory


def test_search_by_meaning_is_exact(memory, encoder):
    question = "the cat sat and the dog bark"
    found = memory.search(question, 5, "dense")
    chunks = [row[0].decode() for row in memory.store.all("select text from chunks order by id")]
    scores = vectors.unit(encoder.embed(chunks, truncate=True)) @ vectors.unit(encoder.embed([question]))[0]
    best = [chunks[row].strip() for row in np.argsort(-scores)[:5]]
    assert sorted(p.score for p in found)[::-1] == pytest.approx(np.sort(scores)[::-1][:5], abs=1e-5)
    assert found[0].text == best[0]
    assert memory.check().vectors == memory.store.num_chunks == 40


def test_long_chunks_have_several_vectors_and_count_once(tmp_path, encoder):
    long = " ".join(WORDS[n % 7] for n in range(150))
    folder_of(tmp_path / "t", a__txt=long, b__txt="a dog")
    with Memory(tmp_path / "m.db", encoder=encoder) as memory:
        memory.add(tmp_path / "t")
        per_chunk = dict(memory.store.all("select chunk, count(*) from vectors group by chunk"))
        assert max(per_chunk.values()) > 1 and len(per_chunk) == 2
        assert len(memory.search("dog", 10, "dense")) == 2


def test_vectors_follow_the_documents(memory, tmp_path):
    (tmp_path / "texts" / "d00.txt").unlink()
    (tmp_path / "texts" / "new.txt").write_text("dog dog dog.")
    memory.add(tmp_path / "texts")
    assert memory.check().vectors == 40
    assert memory.search("dog dog dog.", 1, "dense")[0].source == "new.txt"
    assert memory.forget("new.txt").holds and memory.check().vectors == 39


def test_another_encoder_is_refused(memory, tmp_path):
    write_encoder(tmp_path / "other", initializer_range=0.9)
    other = Memory(memory.path, encoder=Embedder.load(tmp_path / "other"))
    with other, pytest.raises(ConfigError, match="another encoder"):
        other.search("dog", 5, "dense")


def test_joined_rankings():
    assert fuse([[1, 2, 3], [4, 2, 9]], 2)[0][0] == 2  # twice second beats once first
    assert fuse([[1, 2], [2, 1]], 5)[0][1] == pytest.approx(1 / 61 + 1 / 62)
    assert fuse([[], []], 5) == []


def test_questions_are_made_of_headings_and_sentences():
    question, rest = question_of(
        "## Opening hours of museums\nThey open at nine on every day of the week but Mondays.\n"
    )
    assert question == "Opening hours of museums" and "Opening" not in rest
    text = text_of(3)
    question, rest = question_of(text)
    assert question in text and question not in rest and len(question) + len(rest) >= len(text) - 2
    assert question_of("Too short.") is None and question_of("") is None


def test_a_random_encoder_does_not_turn_hybrid_search_on(memory):
    found = memory.evaluate()
    modes = {row.mode: row for row in found.rows}
    assert set(modes) == {"bm25", "dense", "hybrid"} and found.questions == 40 and found.passages == 40
    assert modes["bm25"].among_ten.mid > 0.9 > modes["dense"].among_ten.mid
    assert found.difference.n == 40 and not found.hybrid_pays and found.flop > 0
    assert memory.store.fact("mode") == "bm25" and memory.check().mode == "bm25"


def test_an_encoder_that_knows_more_turns_it_on(tmp_path, encoder):
    """Questions that share no word with their passage, and vectors that know: those of the passage itself."""
    folder = folder_of(tmp_path / "t", **{f"d{n:02}__txt": text_of(n) for n in range(40)})
    with Memory(tmp_path / "m.db", encoder=encoder) as memory:
        memory.add(folder)
        rows = memory.store.all("select id, text from chunks order by id")
        numbers = [int(text.split(b"number")[1].split()[0].strip(b".")) for _, text in rows]
        fresh = vectors.unit(encoder.embed([riddle(n) for n in numbers]))
        assert len(np.unique(fresh.round(4), axis=0)) == 40  # the encoder tells the questions apart
        with memory.store.change():
            for (chunk, _), vector in zip(rows, fresh, strict=True):
                memory.store.rows.execute(
                    "update vectors set vector = ? where chunk = ?", (vector.tobytes(), chunk)
                )
        found = memory.evaluate([Question(riddle(n), source=f"d{n:02}.txt") for n in range(40)])
        assert (
            found.made_of == "your questions" and found.hybrid_pays and memory.store.fact("mode") == "hybrid"
        )
        assert memory.search(riddle(7), 1)[0].source == "d07.txt"
    with Memory(tmp_path / "m.db") as memory:
        assert memory.search(riddle(7), 1) == []  # without the encoder: by words


def test_user_questions_name_answer_and_source(memory):
    right = [Question(f"number{n}", f"NUMBER{n}", f"d{n:02}.txt") for n in range(20)]
    assert memory.evaluate(right).rows[0].first.mid == 1
    wrong = [Question(f"number{n}", "absent", f"d{n:02}.txt") for n in range(20)]
    assert memory.evaluate(wrong).rows[0].among_ten.mid == 0


def test_too_little_to_measure(tmp_path):
    with Memory(tmp_path / "m.db") as memory:
        memory.add(folder_of(tmp_path / "t", a__txt=text_of(1)))
        with pytest.raises(DataError, match="1 questions"):
            memory.evaluate()


def test_matrix_of_nothing(tmp_path):
    with Memory(tmp_path / "m.db") as memory:
        assert Matrix(memory.store).search(np.ones(3, dtype=np.float32), 5) == []
