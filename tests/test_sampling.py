"""Which video, which frames, which crop: integers only, against counts by hand."""

import numpy as np
import pytest

from input_pipeline import sampling


def table(labels, frames, height=48, width=60):
    n = len(labels)
    return sampling.VideoTable(
        np.arange(100, 100 + n),
        np.asarray(labels),
        np.broadcast_to(frames, n),
        np.full(n, height),
        np.full(n, width),
    )


@pytest.mark.parametrize(
    ("streams", "stack", "offset", "span"),
    [
        (("flow",), 10, 0, (0, 10)),  # eq. 1: fields t .. t + 9 touch frames t .. t + 10
        (("flow",), 10, -5, (5, 5)),  # fields t - 5 .. t + 4 touch frames t - 5 .. t + 5
        (("flow",), 1, 0, (0, 1)),
        (("rgb",), 10, 0, (0, 0)),
        (("rgb", "flow"), 10, 0, (0, 10)),
    ],
)
def test_anchor_span(streams, stack, offset, span):
    assert sampling.anchor_span(streams, stack, offset) == span


def test_anchors_are_exactly_the_frames_whose_fields_exist():
    frames, stack = 15, 4
    for offset in (0, -2):
        before, after = sampling.anchor_span(("flow",), stack, offset)
        brute = [t for t in range(frames) if t + offset >= 0 and t + offset + stack - 1 <= frames - 2]
        positions = sampling.eval_positions(frames, before, after, count=len(brute))
        assert positions.tolist() == brute


def test_eval_positions_are_the_formula_with_both_ends():
    # 40 frames, L = 10: anchors 0 .. 29; floor(i * 29 / 24).
    positions = sampling.eval_positions(40, 0, 10)
    assert positions.tolist() == [i * 29 // 24 for i in range(25)]
    assert positions[0] == 0 and positions[-1] == 29
    assert sampling.eval_positions(40, 0, 10, count=1).tolist() == [14]


def test_few_anchors_repeat_and_short_videos_are_clamped():
    assert sampling.eval_positions(12, 0, 10, count=5).tolist() == [0, 0, 0, 0, 1]
    # 4 frames, three fields: none of ten fields' anchors exists, so fields are clamped to the last.
    anchors = sampling.eval_positions(4, 0, 10, count=3)
    assert anchors.tolist() == [0, 0, 0]
    assert sampling.field_indices(0, 4, 10, 0).tolist() == [0, 1, 2, 2, 2, 2, 2, 2, 2, 2]
    assert sampling.field_indices(1, 3, 4, -2).tolist() == [0, 0, 1, 1]
    # Centred, 6 frames lack half a stack at each end: the middle frame.
    assert sampling.eval_positions(6, 5, 5, count=2).tolist() == [2, 2]


def test_training_draws_are_uniform_over_classes_and_anchors():
    # 30 videos of class 0, one of class 1: half of the draws are of each.
    videos = table([0] * 30 + [1], frames=13)
    rng = np.random.default_rng(0)
    draws = sampling.train_indices(rng, videos, 20_000, before=0, after=10, crop=41, flip=True)
    # 4 standard deviations of a fair coin thrown 20,000 times is 0.014.
    assert abs(draws["label"].mean() - 0.5) < 0.015
    assert abs(draws["flip"].mean() - 0.5) < 0.015
    assert np.array_equal(np.unique(draws["anchor"]), [0, 1, 2])
    assert abs((draws["anchor"] == 1).mean() - 1 / 3) < 0.015
    assert draws["y"].min() == 0 and draws["y"].max() == 48 - 41
    assert draws["x"].min() == 0 and draws["x"].max() == 60 - 41
    assert np.array_equal(draws["label"], (draws["video"] == 130).astype(int))
    within = draws["video"][draws["label"] == 0]
    assert len(np.unique(within)) == 30
    assert abs(draws["lighting"].std() - 1) < 0.02 and draws["lighting"].dtype == np.float32


def test_switching_flips_off_changes_nothing_else():
    videos = table([0, 1, 2], frames=20)
    on, off = (
        sampling.train_indices(np.random.default_rng(5), videos, 64, before=0, after=3, crop=41, flip=flip)
        for flip in (True, False)
    )
    assert on["flip"].any() and not off["flip"].any()
    assert all(np.array_equal(on[key], off[key]) for key in on if key != "flip")


def test_eval_chunks_hold_every_position_once_by_size():
    videos = sampling.VideoTable(
        np.arange(3), np.arange(3), np.asarray([20, 30, 4]), np.asarray([48, 48, 80]), np.asarray([64, 60, 48])
    )
    chunks = sampling.eval_chunks(videos, 8, before=0, after=3, count=5)
    # Ten positions of the first two make two batches of five; the third, of four frames, is one position five times.
    assert [(chunk["bucket"], len(chunk["row"])) for chunk in chunks] == [((128, 64), 1), ((64, 64), 5), ((64, 64), 5)]
    assert chunks[0]["weight"].tolist() == [5] and chunks[0]["weight"].dtype == np.float32
    assert sorted(seen(chunks)) == sorted(wanted(videos, 5))
    # A video's positions stand next to each other.
    assert [r for chunk in chunks[1:] for r in chunk["row"]] == [0] * 5 + [1] * 5


def seen(chunks):
    """Return (row, anchor) of all chunks, each as often as it counts."""
    items = ((c["row"][i], c["anchor"][i], c["weight"][i]) for c in chunks for i in range(len(c["row"])))
    return [(int(row), int(anchor)) for row, anchor, weight in items for _ in range(int(weight))]


def wanted(videos, count):
    rows = range(len(videos.frames))
    return [(r, int(a)) for r in rows for a in sampling.eval_positions(int(videos.frames[r]), 0, 3, count)]


@pytest.mark.parametrize("multiple", [1, 4])
def test_eval_chunks_are_no_larger_than_they_need_be(multiple):
    # 10 frames have 7 anchors: 25 positions of each are 7, floor(i / 4): six four times, the last once.
    videos = table([0, 1, 2], frames=10)
    chunks = sampling.eval_chunks(videos, 16, before=0, after=3, count=25, multiple=multiple)
    sizes = {1: [11, 11], 4: [12, 12]}[multiple]
    assert [len(chunk["row"]) for chunk in chunks] == sizes
    real = np.concatenate([chunk["weight"] for chunk in chunks])
    assert (real > 0).sum() == 21 and real.sum() == 75 and real[:7].tolist() == [4] * 6 + [1]
    assert sorted(seen(chunks)) == sorted(wanted(videos, 25))
    last = chunks[-1]
    padding = last["weight"] == 0
    assert padding.sum() == sum(sizes) - 21 and (last["anchor"][padding] == last["anchor"][0]).all()


def test_eval_chunks_tell_apart_videos_whose_centre_is_odd():
    n = np.arange(4)
    sizes = np.asarray([340, 342, 340, 342])
    videos = sampling.VideoTable(n, n, np.full(4, 30), np.full(4, 256), sizes)
    chunks = sampling.eval_chunks(videos, 25, before=0, after=10, count=2, crop=224)
    assert [(c["apart"], c["row"].tolist()) for c in chunks] == [((), [0, 0, 2, 2]), ((4,), [1, 1, 3, 3])]
    whole = sampling.eval_chunks(videos, 25, before=0, after=10, count=2)
    assert [(c["apart"], c["row"].tolist()) for c in whole] == [(None, [0, 0, 1, 1, 2, 2, 3, 3])]
