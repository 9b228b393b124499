"""Preprocessing against plain NumPy loops in the order dequantise, stack, subtract means, crop, flip."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from input_pipeline.schema import dequantise_flow, quantise_flow
from twostream_jax.preprocess import (
    CENTRE,
    FLOW_SCALE_PX,
    centre_crop,
    dequantise,
    eval_inputs,
    flip_flow,
    lighting,
    normalise_rgb,
    stack_flow,
    subtract_mean_flow,
    ten_crops,
    train_inputs,
)

# px: values reach 40, whose float32 spacing is 4e-6; a few roundings of those.
ATOL_PX = 2e-5


def random_batch(window: tuple[int, int], crop: int, *, batch=4, time=2, stack=3, seed=0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    height, width = window
    origins = np.stack([rng.integers(0, side - crop + 1, batch) for side in window], axis=1)
    return {
        "rgb": rng.integers(0, 256, (batch, time, height, width, 3), np.uint8),
        "flow": rng.integers(0, 256, (batch, time, stack, 2, height, width), np.uint8),
        "mean": rng.normal(0, 3, (batch, time, stack, 2)).astype(np.float32),
        "bound": rng.uniform(3, 30, batch).astype(np.float32),
        "size": np.stack([rng.integers(crop, side + 1, batch) for side in window], axis=1).astype(np.int32),
        "crop": np.concatenate([origins, np.full((batch, 2), crop)], axis=1).astype(np.int32),
        "flip": np.arange(batch) % 2 == 1,
        "lighting": rng.standard_normal((batch, 3)).astype(np.float32),
    }


def reference_stack(batch, b: int, t: int, subtract: bool) -> np.ndarray:
    """The whole field's stack [H, W, 2L] px, field by field."""
    _, _, stack, _, height, width = batch["flow"].shape
    out = np.empty((height, width, 2 * stack))
    for k in range(stack):
        for axis in range(2):
            levels, bound = batch["flow"][b, t, k, axis].astype(np.float64), float(batch["bound"][b])
            mean = float(batch["mean"][b, t, k, axis]) if subtract else 0.0
            out[:, :, 2 * k + axis] = 2 * bound * levels / 255 - bound - mean
    return out


def reference_mirror(image: np.ndarray, flow: bool) -> np.ndarray:
    """Column x moves to W - 1 - x; the x components change sign."""
    out = np.empty_like(image)
    for x in range(image.shape[1]):
        out[:, image.shape[1] - 1 - x] = image[:, x]
    if flow:
        out[..., 0::2] = -out[..., 0::2]
    return out


def reference_crops(image: np.ndarray, crop: int, valid, flow: bool) -> np.ndarray:
    down, right = valid[0] - crop, valid[1] - crop
    places = [(0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2)]
    upright = [image[y : y + crop, x : x + crop] for y, x in places]
    return np.stack(upright + [reference_mirror(image, flow) for image in upright])


@pytest.mark.parametrize("window", [(13, 17), (8, 8), (8, 11)])
@pytest.mark.parametrize("subtract", [True, False])
def test_train_inputs_are_the_plain_order(window, subtract):
    crop = 8
    batch = random_batch(window, crop)
    function = jax.jit(lambda b: train_inputs(b, mean_subtraction=subtract, crop=crop, lighting_std=0.0))
    inputs = function(batch)
    assert {key: (value.shape, value.dtype) for key, value in inputs.items()} == {
        "rgb": ((4, 2, 8, 8, 3), jnp.float32),
        "flow": ((4, 2, 8, 8, 6), jnp.float32),
    }
    for b, t in np.ndindex(4, 2):
        y, x = batch["crop"][b, :2]
        flow = reference_stack(batch, b, t, subtract)[y : y + crop, x : x + crop] / FLOW_SCALE_PX
        rgb = (batch["rgb"][b, t, y : y + crop, x : x + crop].astype(np.float64) - 110) / 58
        if batch["flip"][b]:
            flow, rgb = reference_mirror(flow, flow=True), reference_mirror(rgb, flow=False)
        np.testing.assert_allclose(inputs["flow"][b, t], flow, rtol=0, atol=ATOL_PX)
        np.testing.assert_allclose(inputs["rgb"][b, t], rgb, rtol=0, atol=1e-6)


def test_a_mirrored_sample_is_the_mirrored_input():
    batch = random_batch((9, 12), 8)
    function = jax.jit(lambda b: train_inputs(b, mean_subtraction=True, crop=8, lighting_std=0.1))
    plain, mirrored = (function(batch | {"flip": np.full(4, flip)}) for flip in (False, True))
    np.testing.assert_array_equal(mirrored["flow"], flip_flow(plain["flow"]))
    np.testing.assert_array_equal(mirrored["rgb"], plain["rgb"][..., ::-1, :])


def test_train_inputs_hold_the_streams_of_the_batch():
    batch = random_batch((8, 8), 8)
    rgb = {key: batch[key] for key in ("rgb", "crop", "flip", "lighting")}
    flow = {key: batch[key] for key in ("flow", "mean", "bound", "crop", "flip")}
    for part, names in ((rgb, {"rgb"}), (flow, {"flow"}), (rgb | flow, {"rgb", "flow"})):
        assert set(train_inputs(part, mean_subtraction=True, crop=8, lighting_std=0.1)) == names


@pytest.mark.parametrize("subtract", [True, False])
def test_eval_inputs_are_the_ten_crops_of_the_valid_region(subtract):
    crop, batch = 8, random_batch((15, 18), 8, batch=3)
    inputs = jax.jit(lambda b: eval_inputs(b, mean_subtraction=subtract, crop=crop, crops=10))(batch)
    assert inputs["rgb"].shape == (30, 2, 8, 8, 3) and inputs["flow"].shape == (30, 2, 8, 8, 6)
    for b, t in np.ndindex(3, 2):
        flow = reference_stack(batch, b, t, subtract) / FLOW_SCALE_PX
        rgb = (batch["rgb"][b, t].astype(np.float64) - 110) / 58
        rows = slice(10 * b, 10 * b + 10)
        valid = batch["size"][b]
        expected = reference_crops(flow, crop, valid, flow=True)
        np.testing.assert_allclose(inputs["flow"][rows, t], expected, rtol=0, atol=ATOL_PX)
        np.testing.assert_allclose(inputs["rgb"][rows, t], reference_crops(rgb, crop, valid, False), rtol=0, atol=1e-6)


def test_one_crop_is_the_centre_of_the_ten():
    batch = random_batch((15, 18), 8, batch=3)
    ten, one = (eval_inputs(batch, mean_subtraction=True, crop=8, crops=crops) for crops in (10, 1))
    for stream in ("rgb", "flow"):
        assert one[stream].shape[:2] == (3, 2)
        np.testing.assert_array_equal(one[stream], ten[stream][CENTRE::10])


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("stacking", ["flow", "trajectory"])
def test_a_sharded_batch_is_prepared_without_communication(mode, stacking):
    """Each device prepares its own rows: a gather over the whole batch would undo the sharding of the input."""
    mesh = jax.make_mesh((8,), ("data",), devices=jax.devices()[:8], axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    batch = random_batch((11, 12), 8, batch=8, stack=4)
    options = {"mean_subtraction": True, "stacking": stacking, "bidirectional": stacking == "trajectory"}

    def prepare(batch):
        if mode == "train":
            return train_inputs(batch, crop=8, lighting_std=0.1, **options)
        return eval_inputs(batch, crop=8, crops=10, **options)

    compiled = jax.jit(prepare, in_shardings=rows).lower(batch).compile()
    program = compiled.as_text()
    assert not any(name in program for name in ("all-gather", "all-reduce", "all-to-all", "collective-permute"))
    sharded, single = compiled(jax.device_put(batch, rows)), jax.jit(prepare)(batch)
    for stream in ("rgb", "flow"):
        assert len(sharded[stream].sharding.device_set) == 8
        np.testing.assert_array_equal(sharded[stream], single[stream])


def test_stack_flow_is_equation_1():
    flow = np.random.default_rng(0).standard_normal((2, 5, 4, 3, 2)).astype(np.float32)
    stack = stack_flow(flow)
    assert stack.shape == (2, 4, 3, 10)
    for k in range(5):
        np.testing.assert_array_equal(stack[..., 2 * k], flow[:, k, :, :, 0])
        np.testing.assert_array_equal(stack[..., 2 * k + 1], flow[:, k, :, :, 1])


def test_stack_flow_takes_any_leading_axes():
    flow = np.arange(2 * 3 * 5 * 4 * 3 * 2).reshape(2, 3, 5, 4, 3, 2)
    np.testing.assert_array_equal(stack_flow(flow)[1, 2], stack_flow(flow[1, 2]))


def test_subtract_mean_flow():
    flow = np.random.default_rng(0).standard_normal((3, 4, 5, 2)).astype(np.float32) + np.float32(7)
    own = subtract_mean_flow(flow)
    np.testing.assert_allclose(own.mean(axis=(1, 2)), np.zeros((3, 2)), atol=2e-6)
    np.testing.assert_allclose(own, flow - flow.astype(np.float64).mean(axis=(1, 2), keepdims=True), atol=2e-6)
    given = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
    np.testing.assert_array_equal(subtract_mean_flow(flow, given)[2, ..., 1], flow[2, ..., 1] - np.float32(6))
    np.testing.assert_array_equal(subtract_mean_flow(flow, given)[0, ..., 0], flow[0, ..., 0] - np.float32(1))


def test_the_mean_of_a_crop_is_not_the_fields():
    """Subtracting first and cropping then is what passing the whole field's mean to a crop gives."""
    flow = np.random.default_rng(0).standard_normal((8, 8, 2)).astype(np.float32)
    whole = flow.mean(axis=(0, 1))
    np.testing.assert_array_equal(subtract_mean_flow(flow[2:5, 1:6], whole), subtract_mean_flow(flow, whole)[2:5, 1:6])
    assert np.abs(subtract_mean_flow(flow[2:5, 1:6]) - subtract_mean_flow(flow[2:5, 1:6], whole)).max() > 0.05


def test_flip_flow_by_hand():
    flow = np.array([[[1, 2], [3, 4]]], np.float32)
    np.testing.assert_array_equal(flip_flow(flow), [[[-3, 4], [-1, 2]]])


def test_flip_flow_of_a_stack_is_the_stack_of_flips():
    fields = np.random.default_rng(0).standard_normal((5, 4, 3, 2)).astype(np.float32)
    np.testing.assert_array_equal(flip_flow(stack_flow(fields)), stack_flow(flip_flow(fields)))
    np.testing.assert_array_equal(flip_flow(flip_flow(fields)), fields)


def test_flipping_and_subtracting_the_own_mean_commute():
    field = np.random.default_rng(0).standard_normal((4, 3, 2)).astype(np.float32)
    first, second = flip_flow(subtract_mean_flow(field)), subtract_mean_flow(flip_flow(field))
    np.testing.assert_allclose(first, second, atol=1e-6)


def test_dequantise_is_the_schemas_formula():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16).repeat(2, axis=0)
    bound = np.array([20.0, 7.3], np.float32)
    px = jax.jit(dequantise)(levels, bound)
    assert px.dtype == jnp.float32
    for b in range(2):
        # Two roundings, at most, of numbers up to 2b: 40 px has a spacing of 4e-6.
        np.testing.assert_allclose(px[b], dequantise_flow(levels[b], float(bound[b])), rtol=0, atol=8e-6)


def test_a_zero_field_reads_its_half_level_until_the_mean_goes():
    levels = quantise_flow(np.zeros((1, 3, 4, 2), np.float32), 20.0)
    px = dequantise(levels, np.array([20.0], np.float32))
    np.testing.assert_allclose(px, 20 / 255, rtol=1e-4)
    np.testing.assert_allclose(subtract_mean_flow(px), 0, atol=1e-7)


def test_ten_crops_order_by_hand():
    image = np.arange(12, dtype=np.float32).reshape(1, 3, 4, 1)  # rows 0..3, 4..7, 8..11
    crops = ten_crops(image, 1, flow=False)
    # Corners 0, 3, 8, 11; centre at (2 // 2, 3 // 2) = row 1, column 1.
    np.testing.assert_array_equal(crops[0, :, 0, 0, 0], [0, 3, 8, 11, 5, 0, 3, 8, 11, 5])
    pair = ten_crops(image, 2, flow=False)[0]
    np.testing.assert_array_equal(pair[1, :, :, 0], [[2, 3], [6, 7]])
    np.testing.assert_array_equal(pair[6, :, :, 0], [[3, 2], [7, 6]])


def test_ten_crops_of_flow_negate_x_in_the_mirrored_only():
    stack = np.random.default_rng(0).standard_normal((2, 6, 7, 4)).astype(np.float32)
    crops = np.asarray(ten_crops(stack, 4, flow=True))
    np.testing.assert_array_equal(crops[:, 5:, ..., 0::2], -crops[:, :5, :, ::-1, 0::2])
    np.testing.assert_array_equal(crops[:, 5:, ..., 1::2], crops[:, :5, :, ::-1, 1::2])
    np.testing.assert_array_equal(crops[1], reference_crops(stack[1], 4, (6, 7), flow=True))


def test_ten_crops_of_a_frame_of_the_crops_size():
    image = np.random.default_rng(0).standard_normal((2, 5, 5, 3)).astype(np.float32)
    crops = ten_crops(image, 5, flow=False)
    assert crops.shape == (2, 10, 5, 5, 3)
    for i in range(5):
        np.testing.assert_array_equal(crops[:, i], image)
        np.testing.assert_array_equal(crops[:, 5 + i], image[:, :, ::-1])


def test_ten_crops_see_no_padding():
    valid = np.array([[6, 9], [8, 5], [5, 5]], np.int32)
    images = np.full((3, 9, 10, 2), np.nan, np.float32)
    frames = [np.random.default_rng(i).standard_normal((h, w, 2)).astype(np.float32) for i, (h, w) in enumerate(valid)]
    for image, frame in zip(images, frames, strict=True):
        image[: frame.shape[0], : frame.shape[1]] = frame
    crops = jax.jit(lambda images, size: ten_crops(images, 5, flow=True, size=size))(images, valid)
    for ours, frame in zip(crops, frames, strict=True):
        np.testing.assert_array_equal(ours, ten_crops(frame[None], 5, flow=True)[0])
        np.testing.assert_array_equal(ours, reference_crops(frame, 5, frame.shape[:2], flow=True))
    np.testing.assert_array_equal(centre_crop(images, 5, valid), crops[:, CENTRE])


def test_normalise_rgb_by_hand():
    out = normalise_rgb(np.array([0, 110, 168, 255], np.uint8))
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, [-110 / 58, 0, 1, 2.5], rtol=1e-6)


def test_lighting_by_hand():
    rgb = np.full((2, 2, 1, 1, 3), 100, np.uint8)
    draws = np.array([[1, 0, 0], [0, -2, 1]], np.float32)
    out = np.asarray(lighting(rgb, draws, 0.1))
    # 255 * 0.1 * 0.2175 along the first eigenvector; -2 * 0.0188 and 0.0045 along the second and third.
    first = 100 + 255 * 0.1 * 0.2175 * np.array([-0.5675, -0.5808, -0.5836])
    second = 100 + 255 * 0.1 * (
        -2 * 0.0188 * np.array([0.7192, -0.0045, -0.6948]) + 0.0045 * np.array([0.4009, -0.8140, 0.4203])
    )
    for t in range(2):
        np.testing.assert_allclose(out[0, t, 0, 0], first, rtol=1e-6)
        np.testing.assert_allclose(out[1, t, 0, 0], second, rtol=1e-6)


def test_train_inputs_apply_the_lighting_before_normalising():
    batch = random_batch((8, 8), 8) | {"flip": np.zeros(4, bool)}
    dark, lit = (
        train_inputs(batch, mean_subtraction=True, crop=8, lighting_std=std)["rgb"].astype(jnp.float32)
        for std in (0.0, 0.1)
    )
    shift = lighting(jnp.zeros((4, 1, 1, 1, 3)), batch["lighting"], 0.1) / 58
    np.testing.assert_allclose(lit - dark, np.broadcast_to(shift, lit.shape), atol=1e-6)


def test_no_windows_smaller_than_the_crop():
    batch = random_batch((8, 8), 8)
    with pytest.raises(AssertionError):
        train_inputs(batch, mean_subtraction=True, crop=9, lighting_std=0.0)
    with pytest.raises(AssertionError):
        eval_inputs(batch, mean_subtraction=True, crop=9, crops=10)
