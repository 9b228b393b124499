"""Trajectory stacking: flow read along the paths that its points move on (2014 paper, eq. 2).

I(u, v, 2k - 1 .. 2k) = d_k(p_k) with p_1 = (u, v) and p_k = p_{k-1} + d_{k-1}(p_{k-1}), k from 1. The paper does not say
how a field is read between pixels or past its border: here bilinearly, and as the nearest border value; the point itself
may leave the field and come back.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from twostream_jax import bilinear


def trajectory_stack(flow: jax.Array) -> jax.Array:
    """Return float32 [..., H, W, 2L] of flow [..., L, H, W, 2] px: field k as each pixel meets it along its path.

    Channels as in `stack_flow`. Paths follow the flow as given: subtract means from the result, not before.
    """
    fields = flow.reshape(-1, *flow.shape[-4:])
    count, (height, width) = len(fields), flow.shape[-3:-1]
    corners = jnp.zeros((count, 2), jnp.int32)
    sizes = jnp.broadcast_to(jnp.array([[height, width]], jnp.int32), (count, 2))
    stacks = follow(fields, corners, (height, width), sizes, lambda values: values)
    return stacks.reshape(*flow.shape[:-4], *stacks.shape[1:])


def follow(
    fields: jax.Array,
    corners: jax.Array,
    shape: tuple[int, int],
    sizes: jax.Array,
    to_px: Callable[[jax.Array], jax.Array],
) -> jax.Array:
    """Return float32 [N, h, w, 2L] px of fields [N, L, H, W, 2], for paths that start in a box of shape (h, w) only.

    corners int32 [N, 2] are the boxes' y, x; sizes int32 [N, 2] the valid h, w of each field. `to_px` makes px [N, h, w, 2]
    of sampled values; it must be affine. Levels so stay uint8 until they are read: a bilinear value's weights sum to one.
    """
    y = (corners[:, :1] + jnp.arange(shape[0], dtype=jnp.int32)[None]).astype(jnp.float32)
    x = (corners[:, 1:] + jnp.arange(shape[1], dtype=jnp.int32)[None]).astype(jnp.float32)
    starts = (jnp.broadcast_to(y[:, :, None], (len(y), *shape)), jnp.broadcast_to(x[:, None, :], (len(x), *shape)))

    def step(points: tuple[jax.Array, jax.Array], field: jax.Array):
        y, x = points
        moved = to_px(jax.vmap(bilinear.sample)(field, y, x, sizes))
        return (y + moved[..., 1], x + moved[..., 0]), moved

    _, values = lax.scan(step, starts, jnp.moveaxis(fields, 1, 0))
    by_point = jnp.moveaxis(values, 0, -2)
    return by_point.reshape(*by_point.shape[:-2], -1)
