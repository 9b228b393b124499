"""Optical flow as colours: hue is the direction, saturation the length, white is no motion."""

from __future__ import annotations

import numpy as np


def flow_to_colour(flow: np.ndarray, max_px: float | None = None) -> np.ndarray:
    """Return the colour wheel rendering of a flow field, uint8 RGB [H, W, 3].

    flow is float [H, W, 2] in px per frame, x right and y down. Hue is atan2(y, x): right red, down yellow-green, left
    cyan, up violet. Saturation is the length over `max_px` (None: the field's longest), 1 beyond it; a zero field is
    white. Value is 1, so that the background of a still scene stays white as in the Middlebury coding (Baker et al.,
    IJCV 2011).
    """
    length = np.hypot(flow[..., 0], flow[..., 1])
    longest = float(length.max()) if max_px is None else max_px
    saturation = np.clip(length / longest, 0, 1) if longest > 0 else np.zeros_like(length)
    hue = np.arctan2(flow[..., 1], flow[..., 0]) / (2 * np.pi) % 1.0
    # HSV to RGB at value 1: channel n falls from 1 to 1 - s over the part of the circle away from its own hue.
    sector = (np.array([5.0, 3.0, 1.0]) + 6 * hue[..., None]) % 6
    fall = np.clip(np.minimum(sector, 4 - sector), 0, 1)
    return np.rint(255 * (1 - saturation[..., None] * fall)).astype(np.uint8)


def colour_wheel(size: int) -> np.ndarray:
    """Return the legend of `flow_to_colour`, uint8 RGBA [size, size, 4]: full saturation on the rim, clear outside."""
    axis = np.linspace(-1, 1, size)
    flow = np.stack(np.meshgrid(axis, axis), axis=-1)
    inside = np.hypot(flow[..., 0], flow[..., 1]) <= 1
    return np.concatenate([flow_to_colour(flow, 1.0), np.uint8(255) * inside[..., None].astype(np.uint8)], axis=-1)
