"""Image pyramids and the way back up for flow. Pure functions of one image [H, W]; batches by `jax.vmap`.

An image may be padded at its right and bottom: `size` int32 [2] is its valid h, w, which may be traced, and no value in
the padding has any influence on the valid part. Both directions are one separable resampling, a product with a weight
matrix from each side, so that nothing gathers. Position i of the smaller grid lies at (i + .5) / scale - .5 of the larger
one whatever the size, so that an image and its padded copy are sampled at the same places.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# Blur of one octave's worth of shrinking: sigma = .6 sqrt(scale^-2 - 1) px leaves a picture that was sampled with a blur of
# .6 px again with .6 px (Meinhardt-Llopis, Sánchez, Kondermann, "Horn-Schunck optical flow with a multi-scale strategy",
# IPOL 2013, section 4.1).
_BLUR_PX = 0.6


class Level(NamedTuple):
    """One size of an image: float32 [h, w] with its valid h, w, int32 [2]."""

    image: jax.Array
    size: jax.Array


def build(image: jax.Array, size: jax.Array, scale: float, count: int, smallest_px: int) -> list[Level]:
    """Return the image [H, W] at 1, scale, scale^2 ... of its size, float32, the full size first.

    There are at most `count` levels, and none but the first has a side below `smallest_px`. That is counted on the padded
    shape, so a padded image may have levels whose valid part is smaller.
    """
    levels = [Level(image.astype(jnp.float32), size)]
    while len(levels) < count:
        shape = levels[-1].image.shape
        shorter = tuple(shrunk_length(n, scale) for n in shape)
        if min(shorter) < smallest_px or shorter == shape:
            break
        levels.append(Level(shrink(*levels[-1], scale), shrunk_size(levels[-1].size, shape, scale)))
    return levels


def shrunk_length(length: int, scale: float) -> int:
    """Return the length of the next smaller level, rounded half up."""
    return int(length * scale + 0.5)


def shrunk_size(size: jax.Array, shape: tuple[int, int], scale: float) -> jax.Array:
    """Return the valid h, w of the next smaller level, int32 [2], of `size` within an image of `shape`."""
    # A table, since a product in float32 might round to the other side than the shape's.
    tables = [jnp.asarray([shrunk_length(n, scale) for n in range(side + 1)], jnp.int32) for side in shape]
    return jnp.stack([tables[0][size[0]], tables[1][size[1]]])


def shrink(image: jax.Array, size: jax.Array, scale: float) -> jax.Array:
    """Return the blurred and subsampled image [round(H scale), round(W scale)], float32; padding becomes anything finite.

    Weights are those of a Gaussian at the level's positions, cut at 3 sigma and normalised over the valid pixels.
    """
    sigma = _BLUR_PX * np.sqrt(scale**-2 - 1)
    shape = tuple(shrunk_length(length, scale) for length in image.shape)
    return _resample(
        image, *(_gaussian(*sides, 1 / scale, sigma) for sides in zip(shape, image.shape, size, strict=True))
    )


def blur(image: jax.Array, size: jax.Array, sigma_px: float) -> jax.Array:
    """Return the image [H, W] smoothed by a Gaussian, cut at 3 sigma and normalised over the valid pixels, float32."""
    return _resample(
        image, *(_gaussian(side, side, valid, 1.0, sigma_px) for side, valid in zip(image.shape, size, strict=True))
    )


def grow(field: jax.Array, size: jax.Array, shape: tuple[int, int], scale: float) -> jax.Array:
    """Return a field of a small level [h, w] at the larger level's `shape` [H, W], bilinear, border values continued.

    `size` is the field's valid h, w and `scale` that of `shrink`. A flow's components are not rescaled: see `grow_flow`.
    """

    def weights(length: int, longer: int, valid: jax.Array) -> jax.Array:
        away = _distances(longer, length, scale)
        # Beyond the centre of a border pixel only that pixel is in reach: normalised, its weight is 1.
        return _normalised(jnp.maximum(0.0, 1 - abs(away)), valid)

    return _resample(field, weights(field.shape[0], shape[0], size[0]), weights(field.shape[1], shape[1], size[1]))


def grow_flow(flow: jax.Array, size: jax.Array, shape: tuple[int, int], scale: float) -> jax.Array:
    """Return a small level's flow [h, w, 2] in px of the larger level, [H, W, 2]: `grow`n, vectors divided by `scale`."""
    return jnp.stack([grow(flow[..., c], size, shape, scale) / scale for c in range(2)], axis=-1)


def extend(image: jax.Array, size: jax.Array) -> jax.Array:
    """Return the image [H, W] with its last valid column and row repeated over the padding."""
    height, width = image.shape
    column = lax.dynamic_slice_in_dim(image, size[1] - 1, 1, axis=1)
    image = jnp.where(jnp.arange(width)[None] < size[1], image, column)
    row = lax.dynamic_slice_in_dim(image, size[0] - 1, 1, axis=0)
    return jnp.where(jnp.arange(height)[:, None] < size[0], image, row)


def _gaussian(rows: int, columns: int, valid: jax.Array, step: float, sigma_px: float) -> jax.Array:
    """Return float32 [rows, columns]: what each column weighs in the row that lies `step` columns from the one before."""
    away = _distances(rows, columns, step)
    near = abs(away) <= max(3 * sigma_px, 1.0)
    return _normalised(jnp.where(near, jnp.exp(-0.5 * (away / sigma_px) ** 2), 0.0), valid)


def _distances(rows: int, columns: int, step: float) -> jax.Array:
    """Return float32 [rows, columns]: column k's distance from where row i reads, (i + .5) step - .5."""
    reads_at = (jnp.arange(rows, dtype=jnp.float32) + 0.5) * step - 0.5
    return jnp.arange(columns, dtype=jnp.float32)[None] - reads_at[:, None]


def _normalised(weights: jax.Array, valid: jax.Array) -> jax.Array:
    """Return the weights with none on columns from `valid` on, each row's sum 1, or 0 where nothing valid is in reach."""
    weights = jnp.where(jnp.arange(weights.shape[1])[None] < valid, weights, 0.0)
    return weights / jnp.maximum(weights.sum(axis=1, keepdims=True), 1e-6)


def _resample(image: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    # Accelerators multiply in bfloat16 or TF32 unless told: 8 bits of mantissa would be a grey level.
    return jnp.matmul(jnp.matmul(rows, image, precision="highest"), columns.T, precision="highest")
