"""TV-L1: known motions, one iteration against NumPy, invariants of the dual, batches, padding, export."""

import dataclasses
import re

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from known_flow import HEIGHT, MOTIONS, WIDTH, end_point_error, moved_pairs, read_picture

from twostream_jax import flow
from twostream_jax.flow.pyramid import Level
from twostream_jax.flow.tvl1 import Edges, Linearised, ascend, divergence, flow_between, gradient, iterate, levels

# Few levels compile in a second; what is tested with them does not depend on their number.
QUICK = dataclasses.replace(flow.DEFAULT, nscales=2, warps=2)


@pytest.fixture(scope="module")
def pairs(data_dir):
    return moved_pairs(read_picture(data_dir))


@pytest.fixture(scope="module")
def recovered(pairs):
    return np.asarray(flow.tvl1(*pairs[:2]))


@pytest.mark.parametrize("motion", MOTIONS)
def test_known_motions_of_a_real_picture(motion, pairs, recovered):
    i = list(MOTIONS).index(motion)
    assert recovered.dtype == np.float32 and recovered.shape == (5, HEIGHT, WIDTH, 2)
    inner = np.s_[8:-8, 8:-8]
    assert end_point_error(recovered[i][inner], pairs[2][i][inner]) < 0.1, motion


def test_a_pair_does_not_depend_on_its_neighbours(pairs, recovered):
    backwards = flow.tvl1(pairs[0][::-1], pairs[1][::-1])
    np.testing.assert_array_equal(backwards[::-1], recovered)


@pytest.mark.slow
def test_a_batch_equals_single_calls_also_as_accelerators_compute_it(pairs):
    batch = np.asarray(flow.tvl1(*pairs[:2], settings=QUICK))
    for i in range(2):
        np.testing.assert_allclose(
            flow.tvl1(*(p[i : i + 1] for p in pairs[:2]), settings=QUICK)[0], batch[i], atol=1e-4
        )
    size = jnp.array([HEIGHT, WIDTH])
    at_once = jax.jit(jax.vmap(lambda a, b: flow_between(levels(a, size, QUICK), levels(b, size, QUICK), QUICK)))
    np.testing.assert_allclose(at_once(*pairs[:2]), batch, atol=1e-3)


@pytest.mark.slow
def test_both_directions(pairs):
    forward, backward = flow.tvl1_both(*pairs[:2], settings=QUICK)
    np.testing.assert_allclose(forward, flow.tvl1(*pairs[:2], settings=QUICK), atol=1e-4)
    np.testing.assert_allclose(backward, flow.tvl1(*pairs[1::-1], settings=QUICK), atol=1e-4)


def test_constant_and_equal_frames_do_not_move():
    frames = np.random.default_rng(0).integers(0, 256, (5, HEIGHT, WIDTH)).astype(np.uint8)
    frames[:2] = 0
    frames[2] = 200
    np.testing.assert_array_equal(flow.tvl1(frames, frames), 0)
    np.testing.assert_array_equal(flow.tvl1(frames[:3], frames[1:4], settings=QUICK)[:2], 0)  # flat, brighter at once


@pytest.mark.slow
def test_padding_has_no_influence(pairs, recovered):
    """Within 1e-2 px, .001 on average: rounding differs, and the median and the thresholds are not smooth."""
    height, width = 70, 91
    filled = []
    for frames, filler in zip(pairs[:2], (255, 0), strict=True):
        frames = frames.copy()
        frames[:, height:], frames[:, :, width:] = filler, 255 - filler
        filled.append(frames)
    padded = np.asarray(flow.tvl1(*filled, jnp.array([height, width])))
    assert not padded[:, height:].any() and not padded[:, :, width:].any()
    alone = np.asarray(flow.tvl1(*(frames[:, :height, :width] for frames in pairs[:2])))
    away = np.abs(padded[:, :height, :width] - alone)
    assert away.max() < 1e-2 and away.mean() < 1e-3
    # A size for each pair: the whole one is as without any.
    sizes = np.tile(np.int32([HEIGHT, WIDTH]), (5, 1))
    sizes[1:] = height, width
    mixed = np.asarray(flow.tvl1(pairs[0], pairs[1], sizes))
    np.testing.assert_allclose(mixed[0], recovered[0], atol=1e-4)
    np.testing.assert_allclose(mixed[1:], padded[1:], atol=1e-2)


def test_one_program_for_all_sizes():
    traced = []

    @jax.jit
    def counted(frame0, frame1, size):
        traced.append(size)
        return flow.tvl1(frame0, frame1, size, dataclasses.replace(QUICK, nscales=1))

    frames = np.zeros((1, 40, 48), np.uint8)
    for size in ([40, 48], [33, 20], [1, 1]):
        assert np.isfinite(counted(frames, frames, np.int32(size))).all()
    assert len(traced) == 1


@pytest.mark.slow
def test_stopping_early_costs_no_accuracy(pairs):
    """epsilon bounds one iteration's change, so what is left undone may be more: here under two epsilon on average."""
    patient = dataclasses.replace(QUICK, outer_iterations=20)
    stopped, never = (
        np.asarray(flow.tvl1(*pairs[:2], settings=dataclasses.replace(patient, epsilon=epsilon)))
        for epsilon in (0.01, 0.0)
    )
    assert 0 < np.abs(stopped - never).mean() < 0.02
    assert end_point_error(stopped[:1], pairs[2][:1]) < end_point_error(never[:1], pairs[2][:1]) + 0.01


@pytest.mark.slow
def test_illumination_plane_takes_up_a_change_of_brightness(pairs):
    frame0, frame1, want = (part[:1] for part in pairs)
    brighter = frame1.astype(np.float32) + np.linspace(0, 20, WIDTH, dtype=np.float32)
    settings = dataclasses.replace(QUICK, nscales=3, warps=5)
    plain = flow.tvl1(frame0, brighter, settings=settings)
    with_plane = flow.tvl1(frame0, brighter, settings=dataclasses.replace(settings, gamma=2.0))
    assert end_point_error(with_plane, want) < 0.5 * end_point_error(plain, want)


def test_export_has_no_host_callback(pairs):
    settings = dataclasses.replace(QUICK, nscales=1)
    frames = jax.ShapeDtypeStruct((2, HEIGHT, WIDTH), jnp.uint8)
    program = jax.jit(lambda a, b: flow.tvl1(a, b, settings=settings))
    exported = jax.export.export(program, platforms=("cpu", "cuda", "tpu"))(frames, frames)
    assert not re.findall(r"custom_call @(\w+)", exported.mlir_module())
    given = [part[:2] for part in pairs[:2]]
    np.testing.assert_allclose(exported.call(*given), flow.tvl1(*given, settings=settings), atol=1e-4)


def test_one_iteration_equals_numpy_in_float64():
    rng = np.random.default_rng(0)
    height, width = 7, 9
    u, slopes, p = (
        rng.normal(size=(2, height, width)),
        rng.normal(size=(2, height, width)),
        np.zeros((2, 2, height, width)),
    )
    p[:, 0, :, :-1], p[:, 1, :-1] = (
        rng.uniform(-0.7, 0.7, (2, height, width - 1)),
        rng.uniform(-0.7, 0.7, (2, height - 1, width)),
    )
    constant = rng.normal(size=(height, width))
    slopes[:, 2, 3] = 0  # a flat pixel
    settings = dataclasses.replace(flow.DEFAULT, lambda_=1.0)

    steepness = (slopes**2).sum(axis=0)
    rho, reach = constant + (slopes * u).sum(axis=0), settings.lambda_ * settings.theta
    new_u, new_p = np.empty_like(u), np.empty_like(p)
    for c in range(2):
        for y in range(height):
            for x in range(width):
                if rho[y, x] < -reach * steepness[y, x]:
                    step = reach * slopes[c, y, x]
                elif rho[y, x] > reach * steepness[y, x]:
                    step = -reach * slopes[c, y, x]
                else:
                    step = -rho[y, x] * slopes[c, y, x] / steepness[y, x] if steepness[y, x] else 0.0
                flux = p[c, 0, y, x] - (p[c, 0, y, x - 1] if x else 0) + p[c, 1, y, x] - (p[c, 1, y - 1, x] if y else 0)
                new_u[c, y, x] = u[c, y, x] + step + settings.theta * flux
    for c in range(2):
        for y in range(height):
            for x in range(width):
                right = new_u[c, y, x + 1] - new_u[c, y, x] if x + 1 < width else 0.0
                below = new_u[c, y + 1, x] - new_u[c, y, x] if y + 1 < height else 0.0
                step = settings.tau / settings.theta
                length = 1 + step * np.hypot(right, below)
                new_p[c, :, y, x] = (p[c, :, y, x] + step * np.array([right, below])) / length

    inverse = np.where(steepness > 0, 1 / np.where(steepness > 0, steepness, 1), 0)
    given = [np.float32(a) for a in (constant, inverse)]
    residual = Linearised(given[0], tuple(np.float32(slopes)), given[1])
    duals = tuple(tuple(dual) for dual in np.float32(p))
    got_u, got_p = iterate(tuple(np.float32(u)), duals, residual, edges_of(height, width), settings)
    assert (np.abs(rho) > reach * steepness).any() and (np.abs(rho) < reach * steepness).any()
    np.testing.assert_allclose(np.stack(got_u), new_u, atol=1e-5)
    np.testing.assert_allclose(np.stack([np.stack(dual) for dual in got_p]), new_p, atol=1e-5)


def edges_of(height, width, shape=None):
    """The edges of a valid part, within a padded shape where one is given."""
    rows, columns = shape or (height, width)
    across = (np.arange(columns)[None] < width - 1).astype(np.float32)
    return Edges(jnp.asarray(across), jnp.asarray((np.arange(rows)[:, None] < height - 1).astype(np.float32)))


@pytest.mark.parametrize("size", [(12, 17), (9, 11)])
def test_divergence_is_minus_the_adjoint_of_the_gradient(size):
    rng = np.random.default_rng(2)
    edges = edges_of(*size, shape=(12, 17))
    u, x, y = rng.normal(size=(3, 12, 17)).astype(np.float32)
    u[size[0] :], u[:, size[1] :] = 0, 0
    x, y = x * np.asarray(edges.across), y * np.asarray(edges.down)
    x[size[0] :], y[:, size[1] :] = 0, 0
    of_u = gradient(u, edges)
    left = sum(np.vdot(a, b) for a, b in zip(of_u, (x, y), strict=True))
    assert left == pytest.approx(-np.vdot(u, divergence(x, y)), abs=1e-3)
    assert abs(left) > 0.1


def test_dual_vectors_stay_in_the_unit_ball():
    rng = np.random.default_rng(3)
    x = y = jnp.zeros((20, 30))
    longest = 0.0
    for _ in range(50):
        slopes = rng.normal(scale=100, size=(2, 20, 30)).astype(np.float32)
        x, y = ascend(x, y, *slopes, 0.25 / 0.3)
        longest = max(longest, float(jnp.hypot(x, y).max()))
    assert 0.9 < longest <= 1 + 1e-6


def test_a_level_is_its_image_and_size(pairs):
    built = jax.jit(levels, static_argnums=2)(pairs[0][0], jnp.array([HEIGHT, WIDTH]), flow.OPENCV)
    assert [tuple(level.size.tolist()) for level in built[:3]] == [(96, 112), (77, 90), (62, 72)]
    assert len(built) == 5 and all(isinstance(level, Level) and level.image.dtype == np.float32 for level in built)


@pytest.mark.parametrize(
    "wrong", [{"scale_step": 1.0}, {"warps": 0}, {"theta": 0.0}, {"median_filtering": 4}, {"gamma": -1.0}]
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(AssertionError):
        dataclasses.replace(flow.DEFAULT, **wrong)


def test_frames_of_two_shapes_are_refused():
    with pytest.raises(AssertionError):
        flow.tvl1(np.zeros((1, 20, 20)), np.zeros((1, 20, 21)))


def test_the_preset_has_opencvs_own_defaults():
    theirs = cv2.optflow.createOptFlow_DualTVL1()
    assert dataclasses.asdict(flow.OPENCV) == {
        "tau": theirs.getTau(),
        "lambda_": pytest.approx(theirs.getLambda()),
        "theta": theirs.getTheta(),
        "nscales": theirs.getScalesNumber(),
        "scale_step": theirs.getScaleStep(),
        "warps": theirs.getWarpingsNumber(),
        "inner_iterations": theirs.getInnerIterations(),
        "outer_iterations": theirs.getOuterIterations(),
        "epsilon": theirs.getEpsilon(),
        "median_filtering": theirs.getMedianFiltering(),
        "gamma": theirs.getGamma(),
    }
