"""Reading an image, and fields that belong to it, at the places that a flow points to. One image; batches by `jax.vmap`."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from twostream_jax import bilinear


def warp(field: jax.Array, flow: jax.Array, size: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return field [H, W, C] read at (x, y) + flow [H, W, 2], bilinear, float32, and which positions lie inside, [H, W].

    `size` int32 [2] is the valid h, w. A position outside reads the nearest border value; what an image shows there is
    unknown, so that a data term should not count it. All channels share one position: the places are computed, and each
    neighbour fetched, once.
    """
    y, x = _positions(flow)
    bottom, right = (size - 1).astype(jnp.float32)
    inside = (y >= 0) & (y <= bottom) & (x >= 0) & (x <= right)
    return bilinear.sample(field, y, x, size), inside


def centred_gradient(image: jax.Array, size: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return (d/dx, d/dy) of image [H, W], per px, by central differences, border values continued; padding is finite."""
    column, row = jnp.arange(image.shape[1])[None], jnp.arange(image.shape[0])[:, None]
    # Choosing at the border takes a tenth of the time that continuing the image first does.
    left = jnp.where((column > 0) & (column < size[1]), jnp.pad(image[:, :-1], ((0, 0), (1, 0))), image)
    right = jnp.where(column < size[1] - 1, jnp.pad(image[:, 1:], ((0, 0), (0, 1))), image)
    above = jnp.where((row > 0) & (row < size[0]), jnp.pad(image[:-1], ((1, 0), (0, 0))), image)
    below = jnp.where(row < size[0] - 1, jnp.pad(image[1:], ((0, 1), (0, 0))), image)
    return (right - left) / 2, (below - above) / 2


def _positions(flow: jax.Array) -> tuple[jax.Array, jax.Array]:
    height, width = flow.shape[:2]
    columns, rows = jnp.meshgrid(jnp.arange(width, dtype=jnp.float32), jnp.arange(height, dtype=jnp.float32))
    return rows + flow[..., 1], columns + flow[..., 0]
