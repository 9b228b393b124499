"""Layers of CNN-M that flax does not have: Caffe's response normalisation and ceil-mode pooling; and the starts."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# x / (LRN_BIAS + LRN_ALPHA * sum of LRN_SIZE squares) ^ 0.75: Chatfield et al. 2014 (CNN-M). Caffe writes alpha 5e-4
# and divides it by the window's 5.
LRN_SIZE = 5
LRN_BIAS = 2.0
LRN_ALPHA = 1e-4
POOL_WINDOW = 3
POOL_STRIDE = 2


@jax.custom_vjp
def lrn(x: jax.Array) -> jax.Array:
    """Return x divided by (2 + 1e-4 * sum over 5 neighbouring channels of x^2) ^ 0.75, same shape and dtype.

    x is [..., C]; windows are cut off at the first and last channel. Computed in float32. The gradient is written out:
    autodiff would keep several maps of conv1's size and take a slow general power.
    """
    values = x.astype(jnp.float32)
    return (values * _inverse_power(_lrn_denominator(values))).astype(x.dtype)


def _lrn_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    # x is the ReLU's output, which autodiff keeps anyway: the denominator is cheaper to make again than to store.
    return lrn(x), x


def _lrn_backward(x: jax.Array, grad: jax.Array) -> tuple[jax.Array]:
    values, grad32 = x.astype(jnp.float32), grad.astype(jnp.float32)
    denominator = _lrn_denominator(values)
    scaled = grad32 * _inverse_power(denominator)
    # The window is symmetric, so the sum over windows that a channel is in is the windowed sum itself.
    across = _channel_window_sum(scaled * values / denominator)
    return ((scaled - (2.0 * 0.75 * LRN_ALPHA) * values * across).astype(x.dtype),)


lrn.defvjp(_lrn_forward, _lrn_backward)


def _lrn_denominator(values: jax.Array) -> jax.Array:
    return LRN_BIAS + LRN_ALPHA * _channel_window_sum(values * values)


def _channel_window_sum(values: jax.Array) -> jax.Array:
    """Return the sum over the LRN_SIZE channels around each; five shifted slices are faster than reduce_window."""
    half = LRN_SIZE // 2
    channels = values.shape[-1]
    padded = jnp.pad(values, [(0, 0)] * (values.ndim - 1) + [(half, half)])
    slices = [lax.slice_in_dim(padded, i, i + channels, axis=-1) for i in range(LRN_SIZE)]
    return sum(slices[1:], slices[0])


def _inverse_power(denominator: jax.Array) -> jax.Array:
    """Return denominator ^ -0.75 as d^-1/2 * d^-1/4: rsqrt and sqrt cost a fraction of a general power."""
    root = lax.rsqrt(denominator)
    return root * jnp.sqrt(root)


@jax.custom_vjp
def max_pool(x: jax.Array) -> jax.Array:
    """Return 3x3 maxima at stride 2 of x [N, H, W, C], sizes rounded up as Caffe does (13 from 26, not 12).

    The last window hangs over the lower or right edge, which counts as minus infinity. Of equal values the first of a
    window, row by row, has its gradient, as with XLA's own; which is three times slower, for it looks for it again.
    """
    return lax.reduce_window(
        x,
        np.array(-np.inf, x.dtype),
        lax.max,
        window_dimensions=(1, POOL_WINDOW, POOL_WINDOW, 1),
        window_strides=(1, POOL_STRIDE, POOL_STRIDE, 1),
        padding=((0, 0), *_overhangs(x), (0, 0)),
    )


def _overhangs(x: jax.Array) -> list[tuple[int, int]]:
    """Return by how much the last windows hang over the lower and the right edge, as paddings."""
    return [(0, POOL_STRIDE * (pooled_size(n) - 1) + POOL_WINDOW - n) for n in x.shape[1:3]]


def _max_pool_forward(x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    height, width = (POOL_STRIDE * (pooled_size(n) - 1) + 1 for n in x.shape[1:3])
    padded = jnp.pad(x, [(0, 0), *_overhangs(x), (0, 0)], constant_values=np.array(-np.inf, x.dtype))
    best, place = None, None
    for k in range(POOL_WINDOW**2):
        row, column = divmod(k, POOL_WINDOW)
        values = padded[:, row : row + height : POOL_STRIDE, column : column + width : POOL_STRIDE]
        if best is None:
            best, place = values, jnp.zeros(values.shape, jnp.uint8)
            continue
        larger = values > best
        best, place = jnp.where(larger, values, best), jnp.where(larger, np.uint8(k), place)
    # An array without elements: of x only its size is needed.
    return best, (place, jnp.zeros((*x.shape[1:3], 0)))


def _max_pool_backward(residuals: tuple[jax.Array, jax.Array], grad: jax.Array) -> tuple[jax.Array]:
    """Return the gradient at x, put together of the pixels with even and odd y and x, each of them a small map.

    A pixel at even y is row 0 of its own window and row 2 of the one above; at odd y it is row 1 of its own. So with x.
    """
    place, size = residuals
    of_place = [jnp.where(place == np.uint8(k), grad, np.zeros((), grad.dtype)) for k in range(POOL_WINDOW**2)]

    def pixels(odd_y: int, odd_x: int) -> jax.Array:
        parts = [
            jnp.pad(
                of_place[row * POOL_WINDOW + column], ((0, 0), *((n // 2, 1 - n // 2) for n in (row, column)), (0, 0))
            )
            for row in range(odd_y, POOL_WINDOW, POOL_STRIDE)
            for column in range(odd_x, POOL_WINDOW, POOL_STRIDE)
        ]
        return sum(parts[1:], parts[0])

    # [N, h + 1, 2, w + 1, 2, C]: the pixels of each 2x2 square.
    squares = jnp.stack([jnp.stack([pixels(y, x) for x in (0, 1)], axis=3) for y in (0, 1)], axis=2)
    count, rows, _, columns, _, channels = squares.shape
    whole = squares.reshape(count, 2 * rows, 2 * columns, channels)
    return (whole[:, : size.shape[0], : size.shape[1]],)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def pooled_size(size: int) -> int:
    """Return the side that `max_pool` makes of a side: ceil((n - 3) / 2) + 1; 0 or less where nothing is left."""
    return -((POOL_WINDOW - size) // POOL_STRIDE) + 1


def convolved_size(size: int, kernel: int, stride: int, padding: int) -> int:
    """Return the side of a convolution's output: floor((n + 2 pad - kernel) / stride) + 1."""
    return (size + 2 * padding - kernel) // stride + 1


def hidden_init(start: str) -> Callable:
    """Return the kernel initialiser of layers followed by a ReLU, for `start` = `he` or `caffe`.

    he: truncated normal of variance 2 / fan_in, which keeps the second moment through ReLUs (He et al. 2015). caffe:
    Gaussian(0, 0.01), made for inputs of +-120; with inputs of unit variance it left prototypes at chance. Biases start
    at 0 in both: Caffe's reference nets put 0 or 1 there by layer, which the 2014 paper does not state.
    """
    if start == "caffe":
        return nn.initializers.normal(0.01)
    assert start == "he", start
    return nn.initializers.variance_scaling(2.0, "fan_in", "truncated_normal")


def score_init(start: str) -> Callable:
    """Return the kernel initialiser of full8, for `start` = `he` or `caffe`.

    No ReLU follows full8, and dropping 0.9 of full6 and full7 multiplies the second moment of its training input by
    100. A variance of 1e-4 / fan_in keeps the first logits well below 1, hence the first loss near ln(classes).
    """
    if start == "caffe":
        return nn.initializers.normal(0.01)
    assert start == "he", start
    return nn.initializers.variance_scaling(1e-4, "fan_in", "truncated_normal")
