"""Median filters as networks of comparisons: elementwise work only, which compilers fuse and vectorise."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from twostream_jax.flow.pyramid import extend


def median(image: jax.Array, size: jax.Array, window_px: int) -> jax.Array:
    """Return each pixel's median over `window_px` x `window_px` (odd) of the image [H, W], border values continued.

    `size` int32 [2] is the valid h, w; the padding comes out as anything finite. A window of 1 returns the image.
    """
    assert window_px % 2 == 1, window_px
    if window_px == 1:
        return image
    height, width = image.shape
    reach = window_px // 2
    padded = jnp.pad(extend(image, size), reach, mode="edge")
    shifts = [(y, x) for y in range(window_px) for x in range(window_px)]
    return middle([padded[y : y + height, x : x + width] for y, x in shifts])


def middle(values: list[jax.Array]) -> jax.Array:
    """Return the elementwise median of an odd number of arrays of one shape.

    Forgetful selection: among n // 2 + 2 of n values neither the smallest nor the largest is the median. Both are dropped,
    one value that was left out is taken in, and so on: 20 exchanges for 9 values, 129 for 25, no array is sorted.
    """
    count = len(values)
    assert count % 2 == 1, count
    pool, left_out = values[: count // 2 + 2], values[count // 2 + 2 :]
    while len(pool) > 2:
        pool = _without_extremes(pool) + left_out[:1]
        left_out = left_out[1:]
    return pool[0]


def _without_extremes(values: list[jax.Array]) -> list[jax.Array]:
    """Return two arrays fewer: elementwise the values without one smallest and one largest, in any order."""
    half = len(values) // 2
    pairs = [_exchange(a, b) for a, b in zip(values[:half], values[half : 2 * half], strict=True)]
    smallest, kept = pairs[0][0], []
    for low, _ in pairs[1:]:
        smallest, other = _exchange(smallest, low)
        kept.append(other)
    highs = [high for _, high in pairs]
    if len(values) % 2:
        highs.append(_exchange(smallest, values[-1])[1])
    largest = highs[0]
    for high in highs[1:]:
        other, largest = _exchange(largest, high)
        kept.append(other)
    return kept


def _exchange(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return (smaller, larger), elementwise."""
    # Not jnp.minimum: that carries NaN through, at three instructions instead of one.
    ordered = a < b
    return jnp.where(ordered, a, b), jnp.where(ordered, b, a)
