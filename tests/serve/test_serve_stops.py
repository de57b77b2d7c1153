"""Stop texts in a byte stream: nothing of one is shown, nothing else is lost, marks pass at their place."""

from hypothesis import given
from hypothesis import strategies as st

from kweek.serve.stops import StopFilter

WORDS = st.text("ab", max_size=6).map(str.encode)
STOPS = st.lists(st.text("ab", min_size=1, max_size=4).map(str.encode), max_size=3)


def run(stops, words):
    filtered = StopFilter(stops)
    shown, said = b"", b""
    for word in words:
        said += word
        shown += b"".join(filtered.feed(word))
        yield shown, said, filtered.stopped
    yield shown + b"".join(filtered.finish()), said, filtered.stopped


@given(STOPS, st.lists(WORDS, max_size=8))
def test_what_is_shown_ends_before_the_first_stop(stops, words):
    whole = b"".join(words)
    for shown, said, stopped in run(stops, words):
        starts = [said.find(stop) for stop in stops if stop in said]
        assert stopped == bool(starts)
        if stopped:  # found in the first word that completes one
            assert shown == said[: len(shown)] and not any(stop in shown for stop in stops)
            break
        later = [whole.find(stop) for stop in stops if stop in whole]
        assert not later or len(shown) <= min(later), "a part of a stop text has been shown"
    else:
        assert shown == whole


def test_no_more_is_held_back_than_could_become_a_stop():
    filtered = StopFilter([b"stop"])
    assert filtered.feed(b"do not st") == [b"do not "]
    assert filtered.feed(b"ay") == [b"stay"]
    assert filtered.feed(b"sto") == []
    assert filtered.finish() == [b"sto"]


def test_of_two_the_one_that_begins_first_counts():
    filtered = StopFilter([b"c", b"bcd"])
    assert filtered.feed(b"abcd") == [b"a"] and filtered.stopped
    assert filtered.feed(b"x") == [] == filtered.finish()


def test_marks_pass_at_their_place_and_their_bytes_count():
    filtered = StopFilter([b"</think>!"])
    assert filtered.feed(b"so") == [b"so"]
    assert filtered.feed(b"</think>", "answer") == []
    assert filtered.feed(b"yes") == ["answer", b"yes"]
    assert filtered.feed(b"</think>", "again") == []
    assert filtered.feed(b"!") == [] and filtered.stopped
