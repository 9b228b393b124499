"""Sampling of a field at fractional positions. Pure functions, made for use inside jit."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def sample(field: jax.Array, y: jax.Array, x: jax.Array, size: jax.Array | None = None) -> jax.Array:
    """Return float32 [..., C], the bilinear values of field [H, W, C], any dtype, at rows y and columns x [...].

    Positions count pixels from 0, so whole numbers read the field itself, exactly. A position outside reads the nearest
    border value. `size` int32 [2] is the valid h, w of a padded field: its border is the last valid row and column.
    """
    field = jnp.asarray(field)
    height, width = field.shape[:2]
    bottom, right = (jnp.int32(height - 1), jnp.int32(width - 1)) if size is None else (size[0] - 1, size[1] - 1)
    y0, y1, down = _neighbours(y, bottom)
    x0, x1, across = _neighbours(x, right)

    def read(rows: jax.Array, columns: jax.Array) -> jax.Array:
        # Clipped, not promised, to be inside: where a position is not a number, the index may be anything.
        return field.at[rows, columns].get(mode="clip").astype(jnp.float32)

    top = read(y0, x0) * (1 - across) + read(y0, x1) * across
    below = read(y1, x0) * (1 - across) + read(y1, x1) * across
    return top * (1 - down) + below * down


def _neighbours(position: jax.Array, last: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the whole positions around, clamped to 0 .. last, int32 [...], and the share of the second [..., 1]."""
    clamped = jnp.clip(position, 0.0, last.astype(jnp.float32))
    first = clamped.astype(jnp.int32)
    share = clamped - first.astype(jnp.float32)
    return first, jnp.minimum(first + 1, last), share[..., None]
