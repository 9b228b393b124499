"""Stored uint8 flow levels -> px -> the networks' input scale."""

from __future__ import annotations

import jax
import jax.numpy as jnp

# Flow in px is divided by this before the network. Mean-subtracted flow, clipped at 20 px, has a standard deviation of
# 1.5 (TV-L1) to 2.4 (DIS) px on UCF-101 at 256 px, of 0.6 to 1.1 px in the median field, and of 0.3 px on 64 px clips:
# 1 px, the unit of the stored flow itself, lies in the middle of what a variance-scaled start has to meet.
FLOW_SCALE_PX = 1.0


def dequantise(levels: jax.Array, bound: jax.Array) -> jax.Array:
    """Return float32 px per frame, 2b q / 255 - b, of levels [B, ...], uint8 or between (`schema`); b = bound [B]."""
    bound = bound.reshape(-1, *(1,) * (levels.ndim - 1))
    return levels.astype(jnp.float32) * (bound * jnp.float32(2.0 / 255.0)) - bound
