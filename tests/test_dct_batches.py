"""Batches of DCT records: what they hold, the same however they are read, and what the device makes of them."""

from functools import partial

import jax
import numpy as np
import pytest
import test_order
from dct_sets import host_fields, prepare_dct
from test_dct_device import float32_bound

from input_pipeline import dct, pipeline, sampling, transforms
from input_pipeline.filling import FillingThreads
from twostream_jax.drivers.setup import Setup
from twostream_jax.preprocess import (
    bidirectional_stack,
    eval_inputs,
    flip_flow,
    stack_flow,
    train_inputs,
    trajectory_stack,
)

# (stacking, bidirectional)
KINDS = [("flow", False), ("flow", True), ("trajectory", False), ("trajectory", True)]
# Of whole fields in px.
STACK = {
    ("flow", False): jax.jit(stack_flow),
    ("flow", True): jax.jit(bidirectional_stack),
    ("trajectory", False): jax.jit(trajectory_stack),
    ("trajectory", True): jax.jit(partial(bidirectional_stack, stack=trajectory_stack)),
}


@pytest.fixture(scope="module")
def dct_config(tiny_config, tmp_path_factory):
    """Nine synthetic classes of 48x60 px, 6x7.5 blocks, flow of both directions in DCT records."""
    return prepare_dct(tiny_config, tmp_path_factory.mktemp("dct"))


@pytest.fixture(scope="module")
def setup(dct_config):
    return Setup.of(dct_config)


def setup_of(dct_config, stacking, bidirectional):
    config = dct_config.copy_and_resolve_references()
    config.input.stacking, config.input.bidirectional = stacking, bidirectional
    config.input.stack = 4 if bidirectional else 3
    return Setup.of(config)


def drawn(setup, seed=0):
    """Return the draws of a batch of 16, and the batch."""
    crop = setup.config.input.crop
    draw = pipeline.DrawBatch((setup.only.table("train"),), 16, *setup.span, crop, True, seed)
    (batch,) = pipeline.train_batches(
        [setup.only.records], draw, setup.window(crop), start_step=0, steps=1, reading=pipeline.Reading(1)
    )
    return draw(0), batch


def stack_by_host(setup, video, anchor):
    """Return (coefficients of the fields, whole stack [H, W, 2L] px less its means) of an anchor, decoded on the host."""
    records, section = setup.only.records, setup.config.input
    frames, one = records.videos[video].frames, section.stack
    stack = STACK[section.stacking, section.bidirectional]
    if not section.bidirectional:
        coefficients, px, means = host_fields(records, video, sampling.field_indices(anchor, frames, one, 0))
        return coefficients, np.asarray(stack(px)) - means.ravel()
    forward = host_fields(records, video, sampling.field_indices(anchor, frames, one // 2, 0))
    back = host_fields(records, video, sampling.backward_indices(anchor, frames, one // 2), backward=True)
    coefficients, px, means = (np.concatenate(pair) for pair in zip(forward, back, strict=True))
    return coefficients, np.asarray(stack(px)) - means.ravel()


def allowed(setup, coefficients, bound):
    """How far each px [H, W, 2L] may be from the host's: both sum in float32, and trajectories follow what they read."""
    if setup.config.input.stacking == "trajectory":
        # A path is off by at most the sum of what it followed, times how fast flow changes from pixel to pixel.
        return np.float64(2e-4)
    fields = 2 * float32_bound(coefficients, dct.OWN_CODING, bound) + 1e-6  # the mean is taken off in float32, too
    return np.asarray(stack_flow(np.moveaxis(fields, 1, -1)))[:48, :60]


@pytest.mark.parametrize(("stacking", "bidirectional"), KINDS)
def test_training_inputs_are_the_hosts_fields_stacked_centred_cropped_and_mirrored(dct_config, stacking, bidirectional):
    setup = setup_of(dct_config, stacking, bidirectional)
    draws, batch = drawn(setup)
    assert batch["flow"].dtype == np.int8 and batch["flow"].ndim == 7
    run = jax.jit(lambda b: train_inputs(b, crop=41, lighting_std=0.0, **setup.inputs.flow))
    flow = np.asarray(run(batch)["flow"])
    assert flow.shape == (16, 1, 41, 41, 2 * setup.config.input.stack) and draws["flip"].any()
    for b in range(16):
        video, anchor, y, x = (int(draws[key][b]) for key in ("video", "anchor", "y", "x"))
        coefficients, whole = stack_by_host(setup, video, anchor)
        box = np.s_[y : y + 41, x : x + 41]
        limit = np.broadcast_to(allowed(setup, coefficients, 8.0), whole.shape)[box]
        cut = flip_flow(whole[box]) if draws["flip"][b] else whole[box]
        limit = limit[:, ::-1] if draws["flip"][b] else limit
        assert (np.abs(flow[b, 0] - cut) <= limit).all(), np.abs(flow[b, 0] - cut).max()
        assert np.abs(cut).max() > 100 * limit.max()


@pytest.mark.parametrize(("stacking", "bidirectional"), KINDS)
def test_ten_crops_are_the_hosts_fields_stacked_centred_and_cropped(dct_config, stacking, bidirectional):
    """Fields of 48x60 px in windows of 64x64: what lies beyond 48 rows and 60 columns is not read."""
    setup = setup_of(dct_config, stacking, bidirectional)
    table = setup.only.table("test")
    chunks = sampling.eval_chunks(table, 6, before=setup.span[0], after=setup.span[1], count=2)[:1]
    (batch,) = pipeline.eval_batches(setup.only.records, table, chunks, setup.window(41), reading=pipeline.Reading(1))
    assert batch["flow"].shape[-2:] == (8, 8) and batch["size"].tolist() == [[48, 60]] * 6
    run = jax.jit(lambda b: eval_inputs(b, crop=41, crops=10, **setup.inputs.flow))
    flow = np.asarray(run(batch)["flow"]).reshape(6, 10, 41, 41, -1)
    for b in range(6):
        row, anchor = int(chunks[0]["row"][b]), int(chunks[0]["anchor"][b])
        coefficients, whole = stack_by_host(setup, int(table.position[row]), anchor)
        limit = np.broadcast_to(allowed(setup, coefficients, 8.0), whole.shape).max()
        for i, (y, x) in enumerate([(0, 0), (0, 19), (7, 0), (7, 19), (3, 9)]):
            cut = whole[y : y + 41, x : x + 41]
            assert np.abs(flow[b, i] - cut).max() <= limit
            assert np.abs(flow[b, 5 + i] - flip_flow(cut)).max() <= limit


def test_a_batch_is_the_stored_coefficients_of_its_draws(setup):
    draws, batch = drawn(setup)
    records, planes = setup.only.records, setup.planes
    assert (
        batch["flow"].shape == (16, 1, 3, 2, len(planes), 6, 6) and 0 in planes and list(planes) == sorted(set(planes))
    )
    for b in range(16):
        video, anchor, y, x = (int(draws[key][b]) for key in ("video", "anchor", "y", "x"))
        coefficients, _, means = host_fields(records, video, range(anchor, anchor + 3))
        # 8 blocks across, the last of them half full; 6 down, which all fit.
        left = min(x // 8, 2)
        wanted = dct.split_planes(coefficients)[:, :, list(planes), :, left : left + 6]
        assert np.array_equal(batch["flow"][b, 0], wanted)
        assert batch["crop"][b].tolist() == [y, x - 8 * left, 41, 41]
        assert batch["size"][b].tolist() == [48, min(48, 60 - 8 * left)]
        assert np.array_equal(batch["mean"][b, 0], means) and batch["bound"][b] == 8.0 and batch["zero"][b] == 0.0
        assert np.array_equal(batch["steps"][b], dct.px_steps(dct.OWN_CODING, planes, 8.0))
    assert {min(int(x) // 8, 2) for x in draws["x"]} == {0, 1, 2}


def test_frames_are_cut_at_the_same_place(setup, tiny_config):
    """A net of both streams has one crop box for both."""
    draws, _ = drawn(setup)
    both = transforms.Window(("rgb", "flow"), 3, 0, 48, 48, planes=setup.planes)
    batch = transforms.train_batch([setup.only.records], draws, both, FillingThreads(1))
    for b, (y, x, h, w) in enumerate(batch["crop"]):
        frame = setup.only.records.frames(int(draws["video"][b]), [int(draws["anchor"][b])])[0]
        own_y, own_x = int(draws["y"][b]), int(draws["x"][b])
        assert np.array_equal(batch["rgb"][b, 0, y : y + h, x : x + w], frame[own_y : own_y + 41, own_x : own_x + 41])


def test_windows_of_trajectories_hold_whole_blocks(dct_config):
    window = setup_of(dct_config, "trajectory", False).window(41)
    assert (window.height, window.width, window.whole) == (48, 64, True)


def test_a_net_of_frames_reads_no_planes(dct_config):
    config = dct_config.copy_and_resolve_references()
    config.model.name, config.input.streams = "cnn_m_spatial", ("rgb",)
    setup = Setup.of(config)
    assert setup.planes == () and (setup.window(41).height, setup.window(41).planes) == (41, ())


@pytest.mark.parametrize(
    ("subset", "way"),
    [("train", way) for way in ("16 threads", "2 workers", "8 devices", "2 processes")]
    + [("eval", "16 threads"), ("eval", "2 processes")],
)
def test_batches_are_the_same_bytes(setup, subset, way):
    read = {"train": test_order.train_batches, "eval": test_order.eval_batches}[subset]
    plain, found = read(setup, num_threads=0), test_order.WAYS[way](read, setup)
    assert len(found) == len(plain) == 5 and plain[0]["flow"].dtype == np.int8
    for ours, theirs in zip(found, plain, strict=True):
        assert ours.keys() == theirs.keys()
        assert all(
            ours[key].dtype == theirs[key].dtype and ours[key].tobytes() == theirs[key].tobytes() for key in ours
        )
