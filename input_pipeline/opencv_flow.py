"""OpenCV's optical flow methods: frames in, flow in px per frame out."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from input_pipeline.schema import FLOW_METHODS, UserError

# Pyramid scale, levels, window, iterations, polynomial neighbourhood, its sigma, flags: OpenCV's tutorial values, which
# most extractors of this family use.
_FARNEBACK = (0.5, 3, 15, 3, 5, 1.2, 0)


def compute_flow(frames: np.ndarray, method: str, backward: bool = False) -> np.ndarray:
    """Return the flow between neighbouring frames, float32 [F-1, H, W, 2] in px per frame; x right, y down.

    `frames` is uint8, [F, H, W] grey or [F, H, W, 3] RGB. Field i moves frame i to frame i+1: what frame i shows at
    (x, y), frame i+1 shows at (x, y) + field. With `backward`, field i is the flow from frame i+1 to frame i, that is
    the backward field of frame i+1. `method` is tvl1 (Zach et al. 2007), dis (Kroeger et al. 2016, medium preset),
    deepflow (its variational part, without matching), all three with OpenCV's default parameters, or farneback (2003).
    The result depends on OpenCV's version, not on the number of threads. Raises UserError for another method.
    """
    calculate = _calculator(method)
    planes = grey(frames)
    assert len(planes) >= 1, frames.shape
    flow = np.empty((len(planes) - 1, *planes.shape[1:], 2), np.float32)
    for i in range(len(flow)):
        source, target = (i + 1, i) if backward else (i, i + 1)
        flow[i] = calculate(planes[source], planes[target])
    return flow


def grey(frames: np.ndarray) -> np.ndarray:
    """Return uint8 grey frames [F, H, W] of grey or RGB ones (ITU-R BT.601 weights .299, .587, .114)."""
    assert frames.dtype == np.uint8, frames.dtype
    if frames.ndim == 3:
        return frames
    assert frames.ndim == 4 and frames.shape[-1] == 3, frames.shape
    return np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])


def _calculator(method: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return the method's function of (source, target), all calls of which share one algorithm object's buffers."""
    if method in ("tvl1", "deepflow") and not hasattr(cv2, "optflow"):
        raise UserError(
            f"flow.method: {method} is in OpenCV's contrib modules, which the installed package lacks; "
            "pip uninstall opencv-python opencv-python-headless, pip install opencv-contrib-python-headless"
        )
    if method == "tvl1":
        algorithm = cv2.optflow.createOptFlow_DualTVL1()
    elif method == "dis":
        algorithm = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    elif method == "deepflow":
        algorithm = cv2.optflow.createOptFlow_DeepFlow()
    elif method == "farneback":
        return lambda source, target: cv2.calcOpticalFlowFarneback(source, target, None, *_FARNEBACK)
    else:
        known = ", ".join(known for known in FLOW_METHODS if known != "none")
        raise UserError(f"flow.method: {method!r} is no optical flow method; choose one of {known}")
    return lambda source, target: algorithm.calc(source, target, None)
