"""Dense optical flow as pure jax functions, batched over frame pairs; loops are `lax` loops, so that it can be exported.

Frames are [B, H, W], for Brox RGB [B, H, W, 3] as well, intensities 0..255 of any real dtype; flow is float32 [B, H,
W, 2] in px, x right, y down: what frame0 shows at (x, y), frame1 shows at (x, y) + flow. Frames of many sizes share
one compilation when they are padded at the right and the bottom, with anything finite, to a common shape and come with
`size`, their valid h, w, int32 [2] or [B, 2]. The padding has no influence; the flow is 0 there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from twostream_jax.flow.brox import BROX, BroxSettings
from twostream_jax.flow.brox import flow_between as brox_between
from twostream_jax.flow.brox import levels as brox_levels
from twostream_jax.flow.tvl1 import DEFAULT, OPENCV, TVL1Settings, flow_between, levels

__all__ = ["BROX", "DEFAULT", "OPENCV", "BroxSettings", "TVL1Settings", "brox", "brox_both", "tvl1", "tvl1_both"]


@partial(jax.jit, static_argnames="settings")
def tvl1(
    frame0: jax.Array, frame1: jax.Array, size: jax.Array | None = None, settings: TVL1Settings = DEFAULT
) -> jax.Array:
    """Return the TV-L1 flow (Zach et al. 2007) from frame0 to frame1, float32 [B, H, W, 2] px."""

    def pair(first: jax.Array, second: jax.Array, size: jax.Array) -> jax.Array:
        return flow_between(levels(first, size, settings), levels(second, size, settings), settings)

    return _each(pair, frame0, frame1, size)


@partial(jax.jit, static_argnames="settings")
def tvl1_both(
    frame0: jax.Array, frame1: jax.Array, size: jax.Array | None = None, settings: TVL1Settings = DEFAULT
) -> tuple[jax.Array, jax.Array]:
    """Return (`tvl1` from frame0 to frame1, `tvl1` from frame1 to frame0), each frame's pyramid built once."""

    def pair(first: jax.Array, second: jax.Array, size: jax.Array) -> tuple[jax.Array, jax.Array]:
        of_first, of_second = levels(first, size, settings), levels(second, size, settings)
        return flow_between(of_first, of_second, settings), flow_between(of_second, of_first, settings)

    return _each(pair, frame0, frame1, size)


@partial(jax.jit, static_argnames="settings")
def brox(
    frame0: jax.Array, frame1: jax.Array, size: jax.Array | None = None, settings: BroxSettings = BROX
) -> jax.Array:
    """Return the flow of Brox et al. (2004) from frame0 to frame1, grey or RGB, float32 [B, H, W, 2] px."""

    def pair(first: jax.Array, second: jax.Array, size: jax.Array) -> jax.Array:
        return brox_between(brox_levels(first, size, settings), brox_levels(second, size, settings), settings)

    return _each(pair, frame0, frame1, size, colour=frame0.ndim == 4)


@partial(jax.jit, static_argnames="settings")
def brox_both(
    frame0: jax.Array, frame1: jax.Array, size: jax.Array | None = None, settings: BroxSettings = BROX
) -> tuple[jax.Array, jax.Array]:
    """Return (`brox` from frame0 to frame1, `brox` from frame1 to frame0), each frame's pyramid built once."""

    def pair(first: jax.Array, second: jax.Array, size: jax.Array) -> tuple[jax.Array, jax.Array]:
        of_first, of_second = brox_levels(first, size, settings), brox_levels(second, size, settings)
        return (
            brox_between(of_first, of_second, settings),
            brox_between(of_second, of_first, settings),
        )

    return _each(pair, frame0, frame1, size, colour=frame0.ndim == 4)


def _each(pair: Callable, frame0: jax.Array, frame1: jax.Array, size: jax.Array | None, colour: bool = False):
    """Return what `pair` gives for each pair of a batch, stacked."""
    assert frame0.shape == frame1.shape, (frame0.shape, frame1.shape)
    assert frame0.ndim >= 3 and frame0.shape[3:] == ((3,) if colour else ()), frame0.shape
    size = jnp.asarray(frame0.shape[1:3] if size is None else size, jnp.int32)
    arguments = frame0, frame1, jnp.broadcast_to(size.reshape(-1, 2), (len(frame0), 2))
    # One pair at a time keeps a CPU's loops in its cache, and each pair stops by itself.
    return lax.platform_dependent(
        *arguments, cpu=lambda *pairs: lax.map(lambda one: pair(*one), pairs), default=jax.vmap(pair)
    )
