"""Trajectory stacks (2014 paper, eq. 2) against a float64 double loop, by hand, and by symmetry; both directions too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from input_pipeline import videos
from input_pipeline.opencv_flow import compute_flow
from input_pipeline.schema import quantise_flow
from twostream_jax import bilinear
from twostream_jax.preprocess import (
    CENTRE,
    bidirectional_stack,
    eval_inputs,
    flip_flow,
    stack_flow,
    train_inputs,
    trajectory_stack,
)

EPS = 2.0**-23  # spacing of float32 at 1


def path(fields, u, v, valid=None):
    """Return the L vectors that the point (u, v) meets, float64 [L, 2], and how far float32 may be from each, [L].

    The bound follows the recurrence: a position that is e off reads a value that is up to e times the steepest slope
    nearby off, and a few roundings; the next position is off by both.
    """
    height, width = valid or fields.shape[1:3]
    largest = np.abs(fields).max()
    x, y, off = float(u), float(v), 0.0
    values, bounds = [], []
    for field in fields:
        inside_x, inside_y = min(max(x, 0.0), width - 1.0), min(max(y, 0.0), height - 1.0)
        x0, y0 = int(inside_x), int(inside_y)
        x1, y1 = min(x0 + 1, width - 1), min(y0 + 1, height - 1)
        a, b = inside_x - x0, inside_y - y0
        top = (1 - a) * field[y0, x0] + a * field[y0, x1]
        below = (1 - a) * field[y1, x0] + a * field[y1, x1]
        value = (1 - b) * top + b * below
        # A cell more to each side: the position in float32 may lie beyond the cell's border.
        near = field[max(y0 - 1, 0) : min(y0 + 3, height), max(x0 - 1, 0) : min(x0 + 3, width)]
        slope = sum(np.abs(np.diff(near, axis=axis)).max(initial=0.0) for axis in (0, 1))
        wrong = off * slope + 8 * EPS * largest
        values.append(value)
        bounds.append(wrong)
        off += wrong + EPS * max(abs(x), abs(y), 1.0)
        x, y = x + value[0], y + value[1]
    return np.asarray(values), np.asarray(bounds)


def assert_follows(stack, fields, points):
    """Assert that stack [H, W, 2L] holds what the paths from points (u, v) meet; return the widest bound."""
    widest = 0.0
    for u, v in points:
        values, bounds = path(fields, u, v)
        assert np.all(np.abs(stack[v, u].reshape(-1, 2) - values) <= bounds[:, None]), (u, v)
        widest = max(widest, bounds.max())
    return widest


def every_point(shape):
    return [(u, v) for v in range(shape[0]) for u in range(shape[1])]


def random_fields(*shape, seed=0, scale=1.0):
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def levels_batch(batch, stack, window, crop, *, time=1, seed=0, bound=2.0):
    """A training batch of whole fields, larger than their valid part, with boxes somewhere inside it."""
    rng = np.random.default_rng(seed)
    size = np.stack([rng.integers(crop, side + 1, batch) for side in window], axis=1).astype(np.int32)
    return {
        "flow": rng.integers(0, 256, (batch, time, stack, 2, *window), np.uint8),
        "mean": rng.normal(0, 0.5, (batch, time, stack, 2)).astype(np.float32),
        "bound": np.linspace(0.5, bound, batch).astype(np.float32),
        "size": size,
        "crop": np.concatenate([rng.integers(0, size - crop + 1), np.full((batch, 2), crop)], 1).astype(np.int32),
        "flip": np.arange(batch) % 2 == 1,
    }


def px(batch, b, t):
    """The fields [L, H, W, 2] of a sample in px, float64."""
    bound = float(batch["bound"][b])
    return np.moveaxis(2 * bound * batch["flow"][b, t].astype(np.float64) / 255 - bound, 1, -1)


def test_sample_by_hand():
    field = np.array([[[0.0], [10.0]], [[20.0], [50.0]]], np.float32)
    y = np.array([0.0, 0.0, 0.5, 0.25, -3.0, 7.0, 0.5], np.float32)
    x = np.array([1.0, 0.5, 0.5, 0.5, 0.25, 9.0, -1.0], np.float32)
    values = jax.jit(bilinear.sample)(field, y, x)
    # (0 + 10 + 20 + 50) / 4; three quarters of 5 and a quarter of 35; above: of the top row; beyond: the corner; left.
    np.testing.assert_allclose(values[:, 0], [10, 5, 20, 12.5, 2.5, 50, 10], rtol=1e-6)


def test_sample_reads_no_padding_and_takes_whole_numbers():
    field = np.full((5, 6, 2), np.nan, np.float32)
    field[:3, :4] = random_fields(3, 4, 2)
    y, x = (a.astype(np.float32) for a in np.meshgrid(np.arange(3), np.arange(4), indexing="ij"))
    size = np.array([3, 4], np.int32)
    # Beside the last valid row and column lies what must not be read: 0 times a NaN is a NaN.
    np.testing.assert_array_equal(bilinear.sample(field, y, x, size), field[:3, :4])
    np.testing.assert_array_equal(bilinear.sample(field, y + 9, x, size), np.broadcast_to(field[2, :4], (3, 4, 2)))
    np.testing.assert_array_equal(bilinear.sample(field, y, x + 9, size)[:, 0], field[:3, 3])
    levels = np.arange(12, dtype=np.uint8).reshape(3, 4, 1)
    assert bilinear.sample(levels, y, x).dtype == jnp.float32
    np.testing.assert_array_equal(bilinear.sample(levels, y, x)[..., 0], levels[..., 0])


@pytest.mark.parametrize("scale", [0.3, 4.0])
def test_random_fields_are_followed_as_the_double_loop_does(scale):
    flow = random_fields(2, 6, 9, 12, 2, scale=scale)
    stack = np.asarray(jax.jit(trajectory_stack)(flow))
    assert stack.shape == (2, 9, 12, 12) and stack.dtype == np.float32
    for ours, fields in zip(stack, flow.astype(np.float64), strict=True):
        assert_follows(ours, fields, every_point((9, 12)))
    # Far from what stands at the same pixel, and no further than it in the first field.
    plain = stack_flow(flow)
    np.testing.assert_array_equal(stack[..., :2], plain[..., :2])
    assert np.abs(stack - plain)[..., 2:].mean() > 0.2 * scale


def test_the_bound_of_the_double_loop_would_see_a_mistake():
    """Smooth fields leave float32 within 1e-4 px of the path, hundreds of times less than any wrong reading."""
    grid = np.linspace(0, 3, 24)
    smooth = np.stack([np.sin(grid[:, None] + k) * np.cos(grid[None] - k) * 1.5 for k in range(10)])
    fields = np.stack([smooth, smooth.transpose(0, 2, 1)], axis=-1)
    stack = np.asarray(trajectory_stack(fields.astype(np.float32)))
    assert assert_follows(stack, fields.astype(np.float32).astype(np.float64), every_point((24, 24))) < 1e-4
    assert np.abs(stack - np.asarray(stack_flow(fields)))[..., -2:].max() > 0.5


def test_a_real_clip_is_followed(data_dir):
    clip = sorted((data_dir / "weizmann4" / "jack").iterdir())[0]
    flow = compute_flow(videos.read_video(clip, short_side=96)[:11], "dis")
    levels = quantise_flow(flow, 20.0)
    height, width = flow.shape[1:3]
    batch = {
        "flow": np.moveaxis(levels, -1, 1)[None, None],
        "mean": np.zeros((1, 1, 10, 2), np.float32),
        "bound": np.full(1, 20, np.float32),
        "size": np.array([[height, width]], np.int32),
        "crop": np.array([[0, 0, height, height]], np.int32),
        "flip": np.zeros(1, bool),
    }
    prepare = jax.jit(
        lambda b: train_inputs(b, mean_subtraction=False, crop=height, lighting_std=0.0, stacking="trajectory")
    )
    stack = np.asarray(prepare(batch)["flow"][0, 0])
    fields = px(batch, 0, 0)
    points = [(u, v) for u, v in every_point((height, height)) if (u + v) % 5 == 0]
    assert_follows(stack, fields, points)
    # Somebody jumps there: paths leave the pixel they begin at.
    assert np.abs(stack - np.asarray(stack_flow(fields))[:, :height])[..., -2:].max() > 1


def test_a_moving_square_is_followed():
    """A square of 6 px moves by (+3, -2) px a frame over a still background, as seen on it and beside it."""
    length, velocity = 6, np.array([3.0, -2.0], np.float32)
    flow = np.zeros((length, 32, 40, 2), np.float32)
    for k in range(length):
        top, left = 20 - 2 * k, 5 + 3 * k
        flow[k, top : top + 6, left : left + 6] = velocity
    by_field = np.asarray(trajectory_stack(flow)).reshape(32, 40, length, 2)
    plain = np.asarray(stack_flow(flow)).reshape(32, 40, length, 2)
    # On the square: the same motion in every field, where the pixel itself sees the square leave.
    np.testing.assert_array_equal(by_field[20:26, 5:11], np.broadcast_to(velocity, (6, 6, length, 2)))
    np.testing.assert_array_equal(plain[25, 5], [velocity] + [[0, 0]] * 5)
    # In its way: (u, v) = (15, 19) waits until field 2 (square at rows 16 .. 21, columns 11 .. 16), then rides along.
    np.testing.assert_array_equal(by_field[19, 15], [[0, 0]] * 2 + [velocity] * 4)
    np.testing.assert_array_equal(plain[19, 15], [[0, 0]] * 2 + [velocity] * 2 + [[0, 0]] * 2)
    # Never met.
    np.testing.assert_array_equal(by_field[2, 2], np.zeros((length, 2)))


def test_a_point_may_leave_the_field_and_come_back():
    """Its position is not clamped: -5 from column 2 leads to -3, where the border is read; +4 leads to 1, not to 4."""
    flow = np.zeros((3, 1, 6, 2), np.float32)
    flow[0, 0, 2, 0] = -5
    flow[1, 0, 0, 0] = 4
    flow[2, 0, :, 0] = np.arange(6) * 10
    np.testing.assert_array_equal(trajectory_stack(flow)[0, 2, 0::2], [-5, 4, 10])
    # The same downwards.
    turned = flow.transpose(0, 2, 1, 3)[..., ::-1]
    np.testing.assert_array_equal(trajectory_stack(turned)[2, 0, 1::2], [-5, 4, 10])


def test_one_field_has_no_trajectory():
    flow = random_fields(2, 1, 5, 6, 2)
    np.testing.assert_array_equal(trajectory_stack(flow), stack_flow(flow))


@pytest.mark.parametrize("stack", [trajectory_stack, lambda flow: bidirectional_stack(flow, trajectory_stack)])
def test_mirrored_and_turned_fields_have_mirrored_and_turned_stacks(stack):
    flow = random_fields(4, 7, 7, 2, scale=1.5)
    mirrored = np.asarray(flip_flow(stack(flip_flow(flow))))
    # Positions are mirrored at 3, so roundings differ; slopes of up to 8 px a px over two or three steps.
    np.testing.assert_allclose(mirrored, stack(flow), atol=2e-3)
    turned = np.asarray(stack(flow.transpose(0, 2, 1, 3)[..., ::-1]))
    by_field = turned.reshape(7, 7, 4, 2).transpose(1, 0, 2, 3)[..., ::-1]
    np.testing.assert_allclose(by_field.reshape(7, 7, 8), stack(flow), atol=2e-3)


def test_both_directions_are_stacked_apart():
    flow = random_fields(3, 6, 5, 4, 2)
    both = bidirectional_stack(flow)
    np.testing.assert_array_equal(both, stack_flow(flow))
    followed = np.asarray(bidirectional_stack(flow, trajectory_stack))
    np.testing.assert_array_equal(followed[..., :6], trajectory_stack(flow[:, :3]))
    # The backward half starts anew from the pixel itself.
    np.testing.assert_array_equal(followed[..., 6:], trajectory_stack(flow[:, 3:]))
    with pytest.raises(AssertionError):
        bidirectional_stack(flow[:, :5])


def prepared(batch, crop, *, mean_subtraction=True, bidirectional=False):
    options = {"mean_subtraction": mean_subtraction, "stacking": "trajectory", "bidirectional": bidirectional}
    return np.asarray(jax.jit(lambda b: train_inputs(b, crop=crop, lighting_std=0.0, **options))(batch)["flow"])


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("subtract", [True, False])
def test_train_inputs_are_the_plain_order(subtract, bidirectional):
    """Whole fields in px followed, means taken off, the box cut out, mirrored: the order that the module states."""
    crop, batch = 8, levels_batch(4, 4, (13, 17), 8, time=2)
    inputs = prepared(batch, crop, mean_subtraction=subtract, bidirectional=bidirectional)
    assert inputs.shape == (4, 2, 8, 8, 8)
    for b, t in np.ndindex(4, 2):
        fields, (top, left) = px(batch, b, t), batch["crop"][b, :2]
        halves = (fields[:2], fields[2:]) if bidirectional else (fields,)
        mean = batch["mean"][b, t] if subtract else np.zeros((4, 2))
        for row, column in np.ndindex(crop, crop):
            along = [path(half, left + column, top + row, tuple(batch["size"][b])) for half in halves]
            wanted = np.concatenate([values for values, _ in along]) - mean
            bound = np.concatenate([bounds for _, bounds in along]) + 4 * EPS * 4
            mirrored = batch["flip"][b]
            found = inputs[b, t, row, crop - 1 - column if mirrored else column].reshape(4, 2)
            sign = np.array([-1.0, 1.0]) if mirrored else 1.0
            assert np.all(np.abs(found * sign - wanted) <= bound[:, None]), (b, t, row, column)


def test_paths_follow_the_flow_with_its_mean():
    """A field that only its mean moves is followed all the same, and reads zero once the mean is off."""
    fields = np.zeros((2, 6, 8, 2), np.float32)
    fields[..., 0] = 2.0
    fields[1, :, :, 1] = np.arange(8)
    batch = {
        "flow": np.moveaxis(quantise_flow(fields, 8.0), -1, 1)[None, None],
        "mean": np.array([[[[2.0, 0.0], [2.0, 0.0]]]], np.float32),
        "bound": np.full(1, 8, np.float32),
        "size": np.array([[6, 8]], np.int32),
        "crop": np.array([[1, 1, 4, 4]], np.int32),
        "flip": np.zeros(1, bool),
    }
    flow = prepared(batch, 4)[0, 0]
    # Half a level of 16 / 255 px.
    np.testing.assert_allclose(flow[..., 0::2], 0, atol=0.032)
    np.testing.assert_allclose(flow[..., 3], np.broadcast_to([3, 4, 5, 6], (4, 4)), atol=0.08)


@pytest.mark.parametrize("stacking", ["flow", "trajectory"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_training_and_testing_see_the_same(stacking, bidirectional):
    """The same fields and box: the training crop and that of the ten that lies there, mirrored or not."""
    crop, batch = 8, levels_batch(4, 4, (14, 16), 8)
    options = {"mean_subtraction": True, "stacking": stacking, "bidirectional": bidirectional}
    ten = jax.jit(lambda b: eval_inputs(b, crop=crop, crops=10, **options))(batch)["flow"]
    one = jax.jit(lambda b: eval_inputs(b, crop=crop, crops=1, **options))(batch)["flow"]
    by_sample = np.asarray(ten).reshape(4, 10, 1, crop, crop, 8)
    np.testing.assert_array_equal(one, by_sample[:, CENTRE])
    rest = batch["size"] - crop
    train = jax.jit(lambda b: train_inputs(b, crop=crop, lighting_std=0.0, **options))
    for place, corner in ((0, 0 * rest), (3, rest), (CENTRE, rest // 2)):
        boxes = np.concatenate([corner, np.full((4, 2), crop)], axis=1).astype(np.int32)
        for mirrored in (False, True):
            found = train(batch | {"crop": boxes, "flip": np.full(4, mirrored)})["flow"]
            # The same formula compiled twice.
            np.testing.assert_allclose(found, by_sample[:, place + 5 * mirrored], atol=1e-4)


def test_nothing_is_scattered():
    """No gradient flows into the paths: the transpose of a gather would be a scatter, slow on every device."""
    batch = levels_batch(2, 4, (14, 16), 8)

    def loss(weights, batch):
        flow = train_inputs(batch, mean_subtraction=True, crop=8, lighting_std=0.0, stacking="trajectory")["flow"]
        return (jnp.einsum("bthwc,c->b", flow, weights) ** 2).sum()

    program = str(jax.make_jaxpr(jax.grad(loss))(jnp.ones(8), batch))
    assert "gather" in program and "scatter" not in program
