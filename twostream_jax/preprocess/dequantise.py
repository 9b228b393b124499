"""Stored flow, uint8 levels or int8 DCT coefficients -> px -> the networks' input scale."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

# Flow in px is divided by this before the network. Mean-subtracted flow, clipped at 20 px, has a standard deviation of
# 1.5 (TV-L1) to 2.4 (DIS) px on UCF-101 at 256 px, of 0.6 to 1.1 px in the median field, and of 0.3 px on 64 px clips:
# 1 px, the unit of the stored flow itself, lies in the middle of what a variance-scaled start has to meet.
FLOW_SCALE_PX = 1.0

_BLOCK = 8


def dequantise(levels: jax.Array, bound: jax.Array) -> jax.Array:
    """Return float32 px per frame, 2b q / 255 - b, of levels [B, ...], uint8 or between (`schema`); b = bound [B]."""
    bound = bound.reshape(-1, *(1,) * (levels.ndim - 1))
    return levels.astype(jnp.float32) * (bound * jnp.float32(2.0 / 255.0)) - bound


def dequantise_dct(
    coefficients: jax.Array, steps: jax.Array, zero: jax.Array, bound: jax.Array, planes: Sequence[int]
) -> jax.Array:
    """Return float32 px per frame [B, ..., 8 nby, 8 nbx] of coefficient planes int8 [B, ..., P, nby, nbx].

    `planes` are the P planes' numbers (`input_pipeline.dct`): p and 64 + p are low and high byte of the coefficient at
    vertical frequency p // 8, horizontal p % 8. steps [B, P] is the px that one unit of each stands for, zero [B] the px
    that zero coefficients stand for, bound [B] what px are clipped at, as a JPEG's decoder clips levels.
    """
    weights = steps[:, :, None, None] * _basis(planes)[None]
    # Highest precision: coefficients times steps need all of float32, an accelerator's default keeps 8 or 11 bits.
    blocks = jnp.einsum(
        "b...pyx,bpij->b...yixj",
        coefficients.astype(jnp.float32),
        weights,
        precision=jax.lax.Precision.HIGHEST,
    )
    *leading, down, _, across, _ = blocks.shape
    px = blocks.reshape(*leading, _BLOCK * down, _BLOCK * across)
    zero, bound = (value.reshape(-1, *(1,) * (px.ndim - 1)) for value in (zero, bound))
    return jnp.clip(px + zero, -bound, bound)


def _basis(planes: Sequence[int]) -> np.ndarray:
    """Return float32 [P, 8, 8]: the picture in a block that each plane's position stands for (ITU-T T.81, A.3.3)."""
    frequency, place = np.arange(_BLOCK)[:, None], np.arange(_BLOCK)[None]
    matrix = np.cos((2 * place + 1) * frequency * np.pi / (2 * _BLOCK)) / 2
    matrix[0] /= np.sqrt(2)
    positions = np.array(planes) % (_BLOCK * _BLOCK)
    return (matrix[positions // _BLOCK, :, None] * matrix[positions % _BLOCK, None, :]).astype(np.float32)
