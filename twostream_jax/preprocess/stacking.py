"""Stacks of flow fields: channel order, mean subtraction, mirroring. Flow is float32 px per frame, x right, y down.

In a stack of L fields, channel 2k is d^x and channel 2k + 1 is d^y of field k, from 0 (2014 paper, eq. 1).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np


def stack_flow(flow: jax.Array) -> jax.Array:
    """Return [..., H, W, 2L] of flow [..., L, H, W, 2], any dtype (2014 paper, eq. 1)."""
    fields_last = jnp.moveaxis(flow, -4, -2)
    return fields_last.reshape(*fields_last.shape[:-2], -1)


def bidirectional_stack(flow: jax.Array, stack: Callable[[jax.Array], jax.Array] = stack_flow) -> jax.Array:
    """Return [..., H, W, 2L] of flow [..., L, H, W, 2]: L/2 forward fields, then L/2 backward ones, `stack`ed apart.

    The fields are those of frames t, t + 1, ..., which point to the frame after, then those of frames t, t - 1, ...,
    which point to the frame before (2014 paper, Sect. 3.1, "Bi-directional optical flow"; it does not state which half
    comes first). `stack` is `stack_flow` or `trajectory_stack`: a trajectory backwards follows the backward fields.
    """
    assert flow.shape[-4] % 2 == 0, flow.shape
    forward, backward = jnp.split(flow, 2, axis=-4)
    return jnp.concatenate([stack(forward), stack(backward)], axis=-1)


def subtract_mean_flow(flow: jax.Array, mean: jax.Array | None = None) -> jax.Array:
    """Return flow [..., H, W, C] less mean [..., C] px, by default each field's own (2014 paper, Sect. 3.1).

    C is 2, or 2L for a stack. Camera motion dominates the mean; a crop passes that of the whole field.
    """
    if mean is None:
        mean = flow.mean(axis=(-3, -2))
    return flow - mean[..., None, None, :]


def flip_flow(flow: jax.Array) -> jax.Array:
    """Return flow [..., H, W, C] mirrored left to right, d^x (the even channels) negated; C is 2, or 2L for a stack."""
    sign = np.resize(np.array([-1, 1], flow.dtype), flow.shape[-1])
    return flow[..., ::-1, :] * sign.reshape((1,) * (flow.ndim - 1) + (-1,))
