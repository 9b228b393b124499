"""Brox's flow: energy and linear systems against NumPy, known motions, brightness, colour, batches, padding, export."""

import dataclasses
import re

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from known_flow import HEIGHT, MOTIONS, WIDTH, end_point_error, moved, moved_pairs, read_picture
from scipy import ndimage

from twostream_jax import flow
from twostream_jax.flow import sor
from twostream_jax.flow.brox import flow_between, inner_iteration, levels, linearise
from twostream_jax.flow.warp import warp

# Few levels compile in seconds; what is tested with them does not depend on their number.
QUICK = dataclasses.replace(flow.BROX, nscales=2, warps=2)
MOTION = dataclasses.replace(flow.BROX, nscales=4)  # enough for 5 px
ONE_LEVEL = dataclasses.replace(QUICK, nscales=1)


@pytest.fixture(scope="module")
def pairs(data_dir):
    return moved_pairs(read_picture(data_dir))


@pytest.fixture(scope="module")
def recovered(pairs):
    return np.asarray(flow.brox(*pairs[:2], settings=MOTION))


def textured(frame):
    """Where the mean squared gradient over 7x7 px is above 5 grey levels a px, [H, W]."""
    y, x = np.gradient(frame.astype(np.float64))
    return ndimage.uniform_filter(x * x + y * y, 7) > 25


@pytest.mark.parametrize("motion", MOTIONS)
def test_known_motions_of_a_real_picture(motion, pairs, recovered):
    i = list(MOTIONS).index(motion)
    assert recovered.dtype == np.float32 and recovered.shape == (5, HEIGHT, WIDTH, 2)
    inner = np.s_[8:-8, 8:-8]
    where = textured(pairs[0][i])[inner]
    assert where.mean() > 0.3
    away = np.linalg.norm(recovered[i] - pairs[2][i], axis=-1)[inner]
    assert away[where].mean() < 0.1, motion
    assert away.mean() < 0.1, motion


def gradients(image):
    """Return (d/dx, d/dy) [H, W] by central differences, border values continued."""
    wide = np.pad(image, 1, mode="edge")
    return (wide[1:-1, 2:] - wide[1:-1, :-2]) / 2, (wide[2:, 1:-1] - wide[:-2, 1:-1]) / 2


def energy(u, around, image0, image1, settings):
    """Return the linearised energy in float64 of fields u and `around` [2, H, W]: the docstring of `brox`, term by term."""
    u, around = np.float64(u), np.float64(around)
    height, width = image0.shape
    y, x = np.mgrid[:height, :width]
    there = np.stack([y + around[1], x + around[0]])
    inside = ((there >= 0) & (there <= np.array([height - 1, width - 1])[:, None, None])).all(axis=0)
    read = ndimage.map_coordinates(np.float64(image1), there, order=1, mode="nearest")
    mean, change = (read + image0) / 2, read - image0

    def distance_squared(slopes, constant):
        left = constant + (np.stack(slopes) * (u - around)).sum(axis=0)
        return left**2 / (slopes[0] ** 2 + slopes[1] ** 2 + settings.flat**2)

    def psi(squared):
        return np.sqrt(squared + settings.epsilon**2)

    mean_x, mean_y = gradients(mean)
    change_x, change_y = gradients(change)
    brightness = psi(distance_squared((mean_x, mean_y), change))
    of_gradient = distance_squared(gradients(mean_x), change_x) + distance_squared(gradients(mean_y), change_y)
    across = np.diff(u, axis=2, append=u[:, :, -1:])
    down = np.diff(u, axis=1, append=u[:, -1:])
    smoothness = psi((across**2 + down**2).sum(axis=0))
    data = np.where(inside, brightness + settings.gamma * psi(of_gradient), 0.0)
    return data.sum() + settings.alpha * smoothness.sum()


@pytest.mark.parametrize(("sweeps", "relaxation"), [(1, 1.0), (1, 1.9), (5, 1.9)])
def test_the_energy_falls_with_every_inner_iteration(pairs, sweeps, relaxation):
    settings = dataclasses.replace(flow.BROX, nscales=1, sweeps=sweeps, relaxation=relaxation)
    size = jnp.array([HEIGHT, WIDTH])
    level0, level1 = (jax.jit(lambda frame: levels(frame, size, settings))(part[2])[0] for part in pairs[:2])
    around = tuple(ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(2, HEIGHT, WIDTH)), (0, 4, 4)) * 8)
    around = tuple(jnp.asarray(plane, jnp.float32) for plane in around)
    read, inside = warp(jnp.moveaxis(level1.image, 0, -1), jnp.stack(around, axis=-1), size)
    assert 0 < np.mean(~np.asarray(inside)) < 0.5
    data = jax.jit(linearise, static_argnames="flat")(
        level0, jnp.moveaxis(read, -1, 0), inside, around, flat=settings.flat
    )
    step = jax.jit(lambda u: inner_iteration(u, data, size, settings))
    u, energies = around, []
    for _ in range(12):
        images = np.asarray(level0.image[0]), np.asarray(level1.image[0])
        energies.append(energy(u, around, *images, settings))
        u = step(u)
    print(np.round(energies, 1))
    assert (np.diff(energies) < 0).all()
    assert energies[-1] < 0.95 * energies[0]


def random_system(rng, height, width):
    """Return a system with a data term in most pixels, planes [height, width]."""
    x, y = rng.normal(size=(2, height, width)) * (rng.uniform(size=(height, width)) < 0.7)
    weights = rng.uniform(0.1, 3, size=(2, height, width))
    weights[0, :, -1], weights[1, -1] = 0, 0
    planes = x * x, x * y, y * y, *rng.normal(size=(2, height, width)), *weights
    return sor.System(*np.float32(planes))


def dense(system):
    """Return the same system as a matrix [2 H W, 2 H W] and a right side."""
    height, width = system.a11.shape
    count, number = height * width, np.arange(height * width).reshape(height, width)
    smooth = np.zeros((count, count))
    neighbours = (number[:, :-1], number[:, 1:], system.across[:, :-1]), (number[:-1], number[1:], system.down[:-1])
    for one, other, weight in neighbours:
        for i, j, w in zip(one.ravel(), other.ravel(), np.float64(weight).ravel(), strict=True):
            smooth[[i, j], [i, j]] += w
            smooth[[i, j], [j, i]] -= w
    a11, a12, a22 = (np.diag(np.float64(plane).ravel()) for plane in system[:3])
    return np.block([[a11 + smooth, a12], [a12, a22 + smooth]]), np.float64([system.b1, system.b2]).ravel()


@pytest.mark.parametrize("shape", [(8, 10), (7, 9), (1, 6)])
def test_the_solver_solves_its_system(shape):
    system = random_system(np.random.default_rng(1), *shape)
    matrix, right = dense(system)
    want = np.linalg.solve(matrix, right).reshape(2, *shape)
    got = sor.solve((jnp.zeros(shape), jnp.zeros(shape)), system, 300, 1.5)
    np.testing.assert_allclose(got, want, atol=1e-3)
    assert np.abs(want).max() > 0.5


@pytest.mark.parametrize("relaxation", [1.0, 1.9])
def test_every_sweep_lowers_the_quadratic_form(relaxation):
    system = random_system(np.random.default_rng(2), 7, 9)
    matrix, right = dense(system)
    u, values = tuple(np.float32(np.random.default_rng(3).normal(size=(2, 7, 9)) * 3)), []
    for _ in range(8):
        flat = np.float64(u).ravel()
        values.append(flat @ matrix @ flat / 2 - flat @ right)
        u = sor.solve(u, system, 1, relaxation)
    assert (np.diff(values) < 0).all()


def test_constant_and_equal_frames_do_not_move():
    frames = np.random.default_rng(0).integers(0, 256, (4, HEIGHT, WIDTH)).astype(np.uint8)
    frames[0], frames[1] = 0, 200
    after = frames[[0, 1, 2, 3]]
    after[0] = 90  # flat, brighter at once
    np.testing.assert_allclose(flow.brox(frames, after, settings=ONE_LEVEL), 0, atol=1e-6)


@pytest.mark.slow
def test_a_change_of_brightness_leaves_the_flow_as_it_was(pairs, recovered):
    frame0, frame1, want = (part[:1] for part in pairs)
    brighter = frame1.astype(np.float32) + 25 + np.linspace(0, 10, WIDTH, dtype=np.float32)
    error = end_point_error(np.asarray(flow.brox(frame0, brighter, settings=MOTION)), want)
    before = end_point_error(recovered[:1], want)
    of_tvl1 = end_point_error(np.asarray(flow.tvl1(frame0, brighter)), want)
    print(f"Brox {before:.3f}, brighter {error:.3f}, TV-L1 brighter {of_tvl1:.3f}")
    assert error < before + 0.05
    assert of_tvl1 > 5 * error


@pytest.mark.slow
def test_a_batch_equals_single_calls_also_as_accelerators_compute_it(pairs):
    batch = np.asarray(flow.brox(*pairs[:2], settings=ONE_LEVEL))
    one = np.asarray(flow.brox(pairs[0][3:4], pairs[1][3:4], settings=ONE_LEVEL))
    np.testing.assert_allclose(one[0], batch[3], atol=1e-4)
    size = jnp.array([HEIGHT, WIDTH])
    at_once = jax.jit(
        jax.vmap(lambda a, b: flow_between(levels(a, size, ONE_LEVEL), levels(b, size, ONE_LEVEL), ONE_LEVEL))
    )
    np.testing.assert_allclose(at_once(*pairs[:2]), batch, atol=2e-3)


@pytest.mark.slow
def test_both_directions(pairs):
    given = [part[:2] for part in pairs[:2]]
    forward, backward = flow.brox_both(*given, settings=QUICK)
    np.testing.assert_allclose(forward, flow.brox(*given, settings=QUICK), atol=1e-3)
    np.testing.assert_allclose(backward, flow.brox(*given[::-1], settings=QUICK), atol=1e-3)


@pytest.mark.slow
def test_padding_has_no_influence(pairs):
    """Within 5e-3 px: only rounding differs, but 1 / epsilon amplifies it."""
    height, width = 70, 91
    filled = []
    for frames, filler in zip(pairs[:2], (255, 0), strict=True):
        frames = frames[:2].copy()
        frames[:, height:], frames[:, :, width:] = filler, 255 - filler
        filled.append(frames)
    padded = np.asarray(flow.brox(*filled, np.int32([[height, width], [HEIGHT, WIDTH]]), QUICK))
    assert not padded[0, height:].any() and not padded[0, :, width:].any()
    alone = np.asarray(flow.brox(*(frames[:1, :height, :width] for frames in pairs[:2]), settings=QUICK))
    np.testing.assert_allclose(padded[:1, :height, :width], alone, atol=5e-3)
    whole = np.asarray(flow.brox(*(frames[1:] for frames in filled), settings=QUICK))
    np.testing.assert_allclose(padded[1:], whole, atol=1e-4)


def test_one_program_for_all_sizes():
    traced = []

    @jax.jit
    def counted(frame0, frame1, size):
        traced.append(size)
        return flow.brox(frame0, frame1, size, ONE_LEVEL)

    frames = np.random.default_rng(0).integers(0, 256, (2, 1, 40, 48)).astype(np.uint8)
    for size in ([40, 48], [33, 20], [1, 1]):
        assert np.isfinite(counted(*frames, np.int32(size))).all()
    assert len(traced) == 1


def test_a_grey_picture_in_three_channels_moves_as_in_one(pairs):
    """The channels' squared residuals are averaged, so three equal ones weigh as much as one against smoothness."""
    given = [part[:2] for part in pairs[:2]]
    in_colour = flow.brox(*(np.repeat(part[..., None], 3, axis=-1) for part in given), settings=ONE_LEVEL)
    np.testing.assert_allclose(in_colour, flow.brox(*given, settings=ONE_LEVEL), atol=5e-3)


@pytest.mark.slow
def test_colour_sees_what_grey_does_not(data_dir):
    """Red and blue of one grey value: only colour sees the texture move."""
    picture = cv2.GaussianBlur(read_picture(data_dir), (0, 0), 1).astype(np.float32)
    frames = []
    for part in moved(picture, MOTIONS["right and up"])[:2]:
        red = part / 2
        frames.append(np.stack([64 + red, np.full_like(red, 64), 128 - red * 0.299 / 0.114 / 3], axis=-1)[None])
        frames[-1][..., 1] = (100 - 0.299 * frames[-1][..., 0] - 0.114 * frames[-1][..., 2]) / 0.587
    want = moved(picture, MOTIONS["right and up"])[2][None]
    grey = [frame @ np.float32([0.299, 0.587, 0.114]) for frame in frames]
    assert np.ptp(grey[0]) < 1e-3 * np.ptp(frames[0])
    settings = dataclasses.replace(QUICK, nscales=3, warps=5)
    assert end_point_error(np.asarray(flow.brox(*frames, settings=settings)), want) < 0.2
    assert end_point_error(np.asarray(flow.brox(*grey, settings=settings)), want) > 2


def test_export_has_no_host_callback(pairs):
    frames = jax.ShapeDtypeStruct((2, HEIGHT, WIDTH), jnp.uint8)
    program = jax.jit(lambda a, b: flow.brox(a, b, settings=ONE_LEVEL))
    exported = jax.export.export(program, platforms=("cpu", "cuda", "tpu"))(frames, frames)
    assert not re.findall(r"custom_call @(\w+)", exported.mlir_module())
    given = [part[:2] for part in pairs[:2]]
    np.testing.assert_allclose(exported.call(*given), flow.brox(*given, settings=ONE_LEVEL), atol=1e-3)


def test_a_level_is_all_channels_of_its_image(pairs):
    settings = dataclasses.replace(flow.BROX, nscales=3)
    build = jax.jit(lambda frame, size: levels(frame, size, settings))
    built = build(np.repeat(pairs[0][0][..., None], 3, axis=-1), jnp.array([HEIGHT, 80]))
    assert [tuple(level.size.tolist()) for level in built] == [(96, 80), (67, 56), (47, 39)]
    assert [level.image.shape for level in built[:2]] == [(3, HEIGHT, WIDTH), (3, 67, 78)]


@pytest.mark.parametrize(
    "wrong", [{"scale_step": 1.0}, {"warps": 0}, {"sweeps": 0}, {"relaxation": 2.0}, {"epsilon": 0.0}, {"gamma": -1.0}]
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(AssertionError):
        dataclasses.replace(flow.BROX, **wrong)


@pytest.mark.parametrize("shapes", [((1, 20, 20), (1, 20, 21)), ((1, 20, 20, 2), (1, 20, 20, 2)), ((20, 20), (20, 20))])
def test_frames_of_other_shapes_are_refused(shapes):
    with pytest.raises(AssertionError):
        flow.brox(*(np.zeros(shape) for shape in shapes))
    with pytest.raises(AssertionError):
        flow.tvl1(*(np.zeros(shape) for shape in shapes))
