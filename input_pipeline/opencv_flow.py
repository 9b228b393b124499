"""OpenCV's optical flow methods: frames in, flow in px per frame out."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from input_pipeline.schema import OPENCV_METHODS, UserError

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
    planes = grey(frames)
    assert len(planes) >= 1, frames.shape
    first, second = planes[:-1], planes[1:]
    return flow_of_pairs(second, first, method) if backward else flow_of_pairs(first, second, method)


def flow_of_pairs(sources: np.ndarray, targets: np.ndarray, method: str) -> np.ndarray:
    """Return the flow from each source to its target, grey uint8 [N, H, W] both, like `compute_flow`."""
    calculate = _calculator(method)
    flow = np.empty((*sources.shape, 2), np.float32)
    for i, (source, target) in enumerate(zip(sources, targets, strict=True)):
        flow[i] = calculate(source, target)
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
        raise UserError(f"flow.method: {method!r} is none of OpenCV's; choose one of {', '.join(OPENCV_METHODS)}")
    return lambda source, target: algorithm.calc(source, target, None)
