"""Reading an image, and fields that belong to it, at the places that a flow points to. One image; batches by `jax.vmap`."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from twostream_jax import bilinear
from twostream_jax.flow.pyramid import extend


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
    """Return (d/dx, d/dy) of image [H, W], per px, by central differences, border values continued; 0 in the padding."""
    padded = jnp.pad(extend(image, size), 1, mode="edge")
    return (padded[1:-1, 2:] - padded[1:-1, :-2]) / 2, (padded[2:, 1:-1] - padded[:-2, 1:-1]) / 2


def _positions(flow: jax.Array) -> tuple[jax.Array, jax.Array]:
    height, width = flow.shape[:2]
    columns, rows = jnp.meshgrid(jnp.arange(width, dtype=jnp.float32), jnp.arange(height, dtype=jnp.float32))
    return rows + flow[..., 1], columns + flow[..., 0]
