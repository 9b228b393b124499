"""The Grain chain: contents against records read one by one; the same batches however they are read."""

import dataclasses
import itertools

import numpy as np
import pytest

from input_pipeline import pipeline, sampling, transforms
from input_pipeline.filling import FillingThreads
from input_pipeline.schema import UserError
from twostream_jax.drivers.setup import Setup


@pytest.fixture(scope="module")
def setup(tiny_config):
    return Setup.of(tiny_config)


def batches(setup, *, start=0, steps=4, streams=("flow",), seed=0, **reading):
    section = setup.config.input
    before, after = sampling.anchor_span(streams, section.stack, 0)
    draw = pipeline.DrawBatch((setup.only.table("train"),), 16, before, after, section.crop, True, seed)
    window = transforms.Window(streams, section.stack, 0, section.crop, section.crop)
    options = pipeline.Reading(**{"num_threads": 2, **reading})
    return list(
        pipeline.train_batches([setup.only.records], draw, window, start_step=start, steps=steps, reading=options)
    )


def same(one, other):
    return len(one) == len(other) and all(
        a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)
        for a, b in zip(one, other, strict=True)
    )


def test_a_batch_is_the_stored_fields_of_its_draws(setup):
    (batch,) = batches(setup, steps=1, streams=("rgb", "flow"))
    rng = np.random.default_rng([0, 0])
    table = setup.only.table("train")
    draws = sampling.mixed_indices(rng, (table,), (1.0,), 16, before=0, after=3, crop=41, flip=True)
    for b in range(16):
        video, t, y, x = (int(draws[key][b]) for key in ("video", "anchor", "y", "x"))
        levels, means, bound_px = setup.only.records.flow(video, t, 3)
        cut = levels[:, y : y + 41, x : x + 41]
        assert np.array_equal(batch["flow"][b, 0], cut.transpose(0, 3, 1, 2))
        assert np.array_equal(batch["mean"][b, 0], means)
        assert batch["bound"][b] == bound_px
        frame = setup.only.records.frames(video, [t])[0]
        assert np.array_equal(batch["rgb"][b, 0], frame[y : y + 41, x : x + 41])
        assert batch["label"][b] == setup.only.records.videos[video].label
    assert np.array_equal(batch["flip"], draws["flip"]) and np.array_equal(batch["lighting"], draws["lighting"])
    assert batch["flow"].dtype == batch["rgb"].dtype == np.uint8
    assert set(batch["size"].ravel()) == {41} and batch["crop"].tolist() == [[0, 0, 41, 41]] * 16


def test_whole_fields_carry_the_crop_box(setup):
    """For trajectories: the box of a whole window is where the crop's own window lies."""
    draws = sampling.mixed_indices(
        np.random.default_rng(0), (setup.only.table("train"),), (1.0,), 16, before=0, after=3, crop=41, flip=True
    )
    crop = transforms.Window(("rgb", "flow"), 3, 0, 41, 41)
    # Larger than any of these videos, as where another one of the data set is.
    whole = dataclasses.replace(crop, height=50, width=64, whole=True)
    cut, full = (
        transforms.train_batch([setup.only.records], draws, window, FillingThreads(1)) for window in (crop, whole)
    )
    assert full["flow"].shape == (16, 1, 3, 2, 50, 64) and full["size"].tolist() == [[48, 60]] * 16
    assert np.array_equal(full["crop"], np.stack([draws["y"], draws["x"], draws["crop"], draws["crop"]], axis=1))
    assert np.array_equal(cut["crop"], np.tile([0, 0, 41, 41], (16, 1)))
    assert not full["flow"][..., 48:, :].any() and not full["flow"][..., 60:].any()
    for b, (y, x, h, w) in enumerate(full["crop"]):
        assert np.array_equal(full["flow"][b, ..., y : y + h, x : x + w], cut["flow"][b])
        assert np.array_equal(full["rgb"][b, :, y : y + h, x : x + w], cut["rgb"][b])
    assert all(np.array_equal(full[key], cut[key]) for key in cut if key not in ("rgb", "flow", "size", "crop"))


def test_batches_do_not_hang_on_where_reading_starts(setup):
    """Nor on threads, processes and devices: test_order.py."""
    whole = batches(setup, num_threads=1)
    assert same(whole[2:], batches(setup, start=2))
    assert same(whole[:3], batches(setup, steps=3))
    assert not same(whole, batches(setup, seed=1))


def test_a_damaged_jpeg_is_named(setup, monkeypatch):
    whole = setup.only.records.field_jpegs
    monkeypatch.setattr(
        setup.only.records, "field_jpegs", lambda *which: [(x[:40], y, mean) for x, y, mean in whole(*which)]
    )
    with pytest.raises(UserError, match=r"flow-all.array_record-00000-of-00001, .*, record \d+: "):
        batches(setup, steps=1)


def test_eval_batches_hold_whole_padded_frames(setup):
    table = setup.only.table("test")
    chunks = sampling.eval_chunks(table, 8, before=0, after=3, count=4)
    window = transforms.Window(("flow",), 3, 0, 1, 1)
    read = list(pipeline.eval_batches(setup.only.records, table, chunks, window, reading=pipeline.Reading(2)))
    assert len(read) == len(chunks) == -(-9 * 4 // 8)
    for chunk, batch in zip(chunks, read, strict=True):
        assert batch["flow"].shape == (8, 1, 3, 2, 64, 64)
        for b, (row, anchor) in enumerate(zip(chunk["row"], chunk["anchor"], strict=True)):
            levels, means, _ = setup.only.records.flow(int(table.position[row]), int(anchor), 3)
            assert np.array_equal(batch["flow"][b, 0, :, :, :48, :60], levels.transpose(0, 3, 1, 2))
            assert np.array_equal(batch["mean"][b, 0], means)
    beyond = itertools.chain.from_iterable((b["flow"][..., 48:, :], b["flow"][..., 60:]) for b in read)
    assert all(not part.any() for part in beyond)
    assert all(batch["size"].tolist() == [[48, 60]] * 8 for batch in read)
