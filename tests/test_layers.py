"""Response normalisation and pooling against plain NumPy, autodiff and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from twostream_jax.models.layers import convolved_size, hidden_init, lrn, max_pool, pooled_size, score_init


def plain_lrn(x: np.ndarray) -> np.ndarray:
    """The formula, channel by channel, in float64."""
    x = x.astype(np.float64)
    out = np.empty_like(x)
    channels = x.shape[-1]
    for c in range(channels):
        window = x[..., max(0, c - 2) : min(channels, c + 3)]
        out[..., c] = x[..., c] / (2 + 1e-4 * (window**2).sum(-1)) ** 0.75
    return out


def autodiff_lrn(x: jax.Array) -> jax.Array:
    """The formula in plain jax, whose gradient autodiff makes."""
    padded = jnp.pad(x * x, ((0, 0), (2, 2)))
    squares = sum(padded[:, i : i + x.shape[-1]] for i in range(5))
    return x / (2 + 1e-4 * squares) ** 0.75


@pytest.fixture
def wide() -> np.ndarray:
    # Values to about 300, so that the squares outweigh the constant 2 and the cross-channel term counts.
    return (100 * np.random.default_rng(0).standard_normal((6, 9))).astype(np.float32)


def test_lrn_is_the_formula(wide):
    # A handful of float32 roundings of 6e-8 each.
    np.testing.assert_allclose(lrn(wide), plain_lrn(wide), rtol=1e-6)


def test_lrn_by_hand():
    # Channel 0 sees channels 0..2: 100 / (2 + 1e-4 * (1e4 + 4e4 + 9e4))^.75 = 100 / 16^.75 = 100 / 8.
    x = jnp.array([[100.0, 200.0, 300.0, 0.0]])
    np.testing.assert_allclose(lrn(x)[0, 0], 12.5, rtol=1e-6)


def test_lrn_gradient_is_that_of_autodiff(wide):
    weights = np.random.default_rng(1).standard_normal(wide.shape).astype(np.float32)
    ours = jax.jit(jax.grad(lambda x: (lrn(x) * weights).sum()))(wide)
    theirs = jax.grad(lambda x: (autodiff_lrn(x) * weights).sum())(wide)
    # The two sums cancel in places, hence an absolute part, at 1e-6 of the largest gradient.
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6 * float(np.abs(theirs).max()))


def test_lrn_gradient_is_that_of_finite_differences(wide):
    weights = np.random.default_rng(1).standard_normal(wide.shape)
    ours = jax.grad(lambda x: (lrn(x) * weights.astype(np.float32)).sum())(wide)
    step = 1e-3
    numeric = np.empty(wide.shape)
    for place in np.ndindex(*wide.shape):
        shift = np.zeros(wide.shape)
        shift[place] = step
        difference = plain_lrn(wide.astype(np.float64) + shift) - plain_lrn(wide.astype(np.float64) - shift)
        numeric[place] = (difference * weights).sum() / (2 * step)
    np.testing.assert_allclose(ours, numeric, rtol=1e-5, atol=1e-6 * np.abs(numeric).max())


def test_lrn_keeps_bfloat16(wide):
    x = jnp.asarray(wide, jnp.bfloat16)
    out, gradient = lrn(x), jax.grad(lambda x: lrn(x).astype(jnp.float32).sum())(x)
    assert out.dtype == gradient.dtype == jnp.bfloat16
    # Computed in float32: only the result's rounding to 8 bits is left.
    np.testing.assert_allclose(out.astype(np.float32), plain_lrn(np.asarray(x, np.float32)), rtol=2**-8)


@pytest.mark.parametrize("size", [2, 3, 4, 5, 8, 13])
def test_max_pool_is_the_maximum_of_cut_off_windows(size):
    x = np.random.default_rng(size).standard_normal((2, size, size + 1, 3)).astype(np.float32)
    pooled = np.asarray(max_pool(x))
    assert pooled.shape == (2, pooled_size(size), pooled_size(size + 1), 3)
    for i, j in np.ndindex(*pooled.shape[1:3]):
        window = x[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
        np.testing.assert_array_equal(pooled[:, i, j], window.max(axis=(1, 2)))


def test_max_pool_covers_the_last_row_of_negative_values():
    x = jnp.full((1, 4, 4, 1), -5.0).at[0, 3, 3, 0].set(-1.0)
    np.testing.assert_array_equal(max_pool(x)[0, :, :, 0], [[-5.0, -5.0], [-5.0, -1.0]])


@pytest.mark.parametrize("size", [(5, 5), (6, 9), (109, 7), (3, 4), (26, 13)])
def test_max_pool_gradient_is_that_of_a_loop_ties_included(size):
    """The first of equal values, row by row, has a window's whole gradient: as XLA and PyTorch have it."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 3, (2, *size, 3)).astype(np.float32)  # most windows hold their maximum more than once
    out, pull = jax.vjp(max_pool, jnp.asarray(x))
    grad = rng.normal(size=out.shape).astype(np.float32)
    expected = np.zeros(x.shape, np.float64)
    for n, i, j, c in np.ndindex(out.shape):
        window = x[n, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3, c]
        row, column = np.unravel_index(np.argmax(window), window.shape)
        assert out[n, i, j, c] == window[row, column]
        expected[n, 2 * i + row, 2 * j + column, c] += grad[n, i, j, c]
    # Sums of up to four float32 numbers of order 1.
    np.testing.assert_allclose(pull(jnp.asarray(grad))[0], expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_max_pool_gradient_goes_to_one_of_equal_values(dtype):
    gradient = jax.jit(jax.grad(lambda x: max_pool(x).astype(jnp.float32).sum()))(jnp.zeros((1, 5, 5, 1), dtype))
    # The first of each window, as in Caffe; windows start at 0 and 2.
    expected = np.zeros((5, 5))
    expected[np.ix_([0, 2], [0, 2])] = 1
    np.testing.assert_array_equal(gradient[0, :, :, 0].astype(np.float32), expected)


def test_sizes_are_those_of_the_paper_at_224():
    # FLOOR for convolutions, CEIL for pools: 224 -> 109 -> 54 -> 26 -> 13 -> 13 -> 6.
    assert convolved_size(224, 7, 2, 0) == 109
    assert pooled_size(109) == 54
    assert convolved_size(54, 5, 2, 1) == 26
    assert pooled_size(26) == 13
    assert convolved_size(13, 3, 1, 1) == 13
    assert pooled_size(13) == 6


def test_starts_have_their_variance():
    key, shape = jax.random.key(0), (3, 3, 64, 512)
    fan_in = 3 * 3 * 64
    draws = fan_in * 512
    # A standard deviation estimated from n draws is off by 1 / sqrt(2n) = .13 %; five of those.
    rtol = 5 / np.sqrt(2 * draws)
    assert np.std(hidden_init("he")(key, shape)) == pytest.approx(np.sqrt(2 / fan_in), rel=rtol)
    assert np.std(score_init("he")(key, shape)) == pytest.approx(1e-2 / np.sqrt(fan_in), rel=rtol)
    for init in (hidden_init, score_init):
        assert np.std(init("caffe")(key, shape)) == pytest.approx(0.01, rel=rtol)
