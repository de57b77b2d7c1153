"""Packing: every token once, nothing across borders, a pure function of the step."""

import numpy as np
import pytest
import torch

from kweek.data.batches import collate, pack, segment
from kweek.data.packing import PackedMix, Source
from kweek.errors import DataError

EOS = 0


def _documents(count, low, high, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.integers(1, 50, generator.integers(low, high)) for _ in range(count)]


def test_collate_restarts_positions_and_isolates_segments():
    batch = collate([[segment([1, 2, 3]), segment([4, 5, 6, 7])]], 8)
    assert batch.ids_BT.tolist() == [[1, 2, 4, 5, 6, 0, 0, 0]]
    assert batch.targets_BT.tolist() == [[2, 3, 5, 6, 7, 0, 0, 0]]
    assert batch.positions_BT.tolist() == [[0, 1, 0, 1, 2, 0, 0, 0]]
    mask = batch.mask_B1TT[0, 0]
    assert not mask[2:5, :2].any(), "the second document sees the first"
    assert mask[4, 2:5].all() and not mask[2, 3]
    assert batch.num_tokens == 5


def test_single_segments_need_no_mask():
    assert collate([[segment([1, 2, 3])], [segment([4, 5])]]).mask_B1TT is None


def test_pack_keeps_every_segment_whole():
    parts = [segment(range(n + 1)) for n in (100, 30, 30, 90, 10, 300)]
    rows = pack(parts, 128)
    assert sorted(len(p) for row in rows for p in row) == sorted(map(len, parts))
    assert all(sum(map(len, row)) <= 128 for row in rows if len(row) > 1)


def _mix(**changes):
    options = {"lengths": [32] * 30 + [64] * 30, "tokens_per_step": 128, "seed": 3, "eos_id": EOS} | changes
    sources = options.pop("sources", None) or [
        Source("long", _documents(20, 50, 200), 0.5),
        Source("short", _documents(200, 5, 30, 1), 0.5, continues=False),
    ]
    return PackedMix(sources, **options)


def test_batches_are_a_function_of_the_step():
    whole = list(_mix().batches())
    tail = list(_mix().batches(first_step=40))
    assert len(whole) == 60 and len(tail) == 20
    for a, b in zip(whole[40:], tail, strict=True):
        assert torch.equal(a.ids_BT, b.ids_BT) and torch.equal(a.weights_BT, b.weights_BT)
    other = next(iter(_mix(seed=4).batches()))
    assert not torch.equal(whole[0].ids_BT, other.ids_BT)


def test_weights_sum_to_one_and_rows_have_the_planned_length():
    for step, batch in enumerate(_mix().batches()):
        assert batch.weights_BT.sum() == pytest.approx(1.0, abs=1e-5)
        assert batch.ids_BT.shape == ((4, 32) if step < 30 else (2, 64))


def test_a_long_document_is_read_once_per_epoch_and_in_order():
    document = np.arange(1, 301)
    mix = PackedMix([Source("one", [document], 1.0)], [64] * 2, 256, 0, EOS)
    seen = [int(t) for rows in mix.rows() for row in rows for part in row for t in part.targets]
    first = seen.index(1)
    whole = [*range(1, 301), EOS]
    # A pool holds several epochs of a one-document source; every piece must be a run of the document.
    pieces = [part for rows in mix.rows() for row in rows for part in row]
    assert first >= 0
    for part in pieces:
        start = whole.index(int(part.targets[0]))
        assert part.targets.tolist() == whole[start : start + len(part)]


def test_short_sources_are_never_continued():
    mix = _mix(sources=[Source("short", _documents(50, 40, 60), 1.0, continues=False)])
    for rows in mix.rows():
        for row in rows:
            for part in row:
                assert part.ids[0] == EOS, "a piece that does not begin its document"


def test_an_empty_source_is_an_error():
    with pytest.raises(DataError, match="'nothing' has no documents"):
        _mix(sources=[Source("nothing", [], 1.0)])
