"""The camera's motion between two frames as a homography, and frames without it: "warped flow".

As in improved trajectories (Wang, Schmid, "Action Recognition with Improved Trajectories", ICCV 2013, section 3.1): matches
between the frames, most of which lie on what does not move by itself, give a homography by RANSAC; the second frame is
warped back by it, and flow to that one is the motion that is not the camera's. Differences: corners are tracked by pyramidal
Lucas-Kanade, so that no dense flow is needed first, and feature matches (SIFT; SURF is in no wheel) join only where the
tracks alone agree on nothing. A homography that explains the matches hardly better than a camera that stands still is not
used: it would only blur.

The results depend on OpenCV's version, not on the number of threads.
"""

from __future__ import annotations

import cv2
import numpy as np

# As in the authors' code: a match further off than this is an outlier, px, and a homography of fewer inliers is not used.
_INLIER_PX = 1.0
_FEWEST_INLIERS = 25
# Nor is one of a smaller share of inliers: of noise .2 can be fitted, of the matches in a clip of rowing .4, for the water.
_SMALLEST_SHARE = 0.25
# Where standing still has at most this many times the truncated squared error of the best homography, which has eight
# numbers to fit to noise, the camera stands still. Measured: tripods up to 1.2, a drift of .2 px at the corners 1.5.
_STILL = 1.3
# Corners tracked at most, their distance, px, and how good the worst is beside the best.
_CORNERS, _CORNER_DISTANCE_PX, _CORNER_QUALITY = 500, 8, 0.001
# Lucas-Kanade: window, px, and levels of half the size each, above the full one; follows motion up to about 60 px.
_WINDOW_PX, _LEVELS = 15, 3
# A corner tracked there and back returns within this, px, or its track is wrong (Kalal et al., ICPR 2010).
_RETURN_PX = 0.5
_SIFT_FEATURES = 500

# Points of one frame and the same ones in the other, float32 [n, 2] each, x right, y down.
Matches = tuple[np.ndarray, np.ndarray]


def homography(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return where the camera's motion alone takes points of `source` in `target`: float64 [3, 3], the last entry 1.

    Both frames are grey, uint8 [H, W]. The identity where the camera stands still, or where too few matches agree (at least
    25 and a quarter of them must): flat, dark, noisy or tiny frames, and cuts.
    """
    assert source.dtype == target.dtype == np.uint8, (source.dtype, target.dtype)
    assert source.ndim == 2 and source.shape == target.shape, (source.shape, target.shape)
    matches = _tracks(source, target)
    found = _fit(matches, source.shape)
    if found is None:
        joined = zip(matches, _features(source, target), strict=True)
        found = _fit(tuple(np.concatenate(points) for points in joined), source.shape)
    return np.eye(3) if found is None else found


def without_camera_motion(source: np.ndarray, target: np.ndarray, homography: np.ndarray) -> np.ndarray:
    """Return the target, uint8 [H, W] or [H, W, 3], as it would look had the camera not moved since the source.

    What the source shows at x, and the camera's motion takes to Hx, the result shows at x. Where Hx lies outside the target
    nothing is known: the result has the source's own pixels there, so that no motion is seen.
    """
    assert source.dtype == target.dtype == np.uint8 and source.shape == target.shape, (source.shape, target.shape)
    height, width = source.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    there = cv2.perspectiveTransform(np.stack([x, y], axis=-1), homography)
    x, y = there[..., 0], there[..., 1]
    # Bicubic: bilinear pictures are blurred half-way between pixels, which flow methods take for motion.
    read = cv2.remap(target, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    return np.where(inside.reshape(inside.shape + (1,) * (source.ndim - 2)), read, source)


def _tracks(source: np.ndarray, target: np.ndarray) -> Matches:
    """Return corners of the source and where Lucas-Kanade finds them in the target, those that find their way back."""
    corners = cv2.goodFeaturesToTrack(source, _CORNERS, _CORNER_QUALITY, _CORNER_DISTANCE_PX)
    if corners is None:
        return _none()
    how = {
        "winSize": (_WINDOW_PX, _WINDOW_PX),
        "maxLevel": _LEVELS,
        "criteria": (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 30, 0.01),
    }
    there, seen, _ = cv2.calcOpticalFlowPyrLK(source, target, corners, None, **how)
    back, seen_again, _ = cv2.calcOpticalFlowPyrLK(target, source, there, None, **how)
    returned = np.linalg.norm((back - corners)[:, 0], axis=-1) < _RETURN_PX
    good = returned & (seen[:, 0] > 0) & (seen_again[:, 0] > 0)
    return corners[good, 0], there[good, 0]


def _features(source: np.ndarray, target: np.ndarray) -> Matches:
    """Return the places of SIFT features that are each other's nearest."""
    sift = cv2.SIFT_create(_SIFT_FEATURES)
    (points0, what0), (points1, what1) = (sift.detectAndCompute(frame, None) for frame in (source, target))
    if not points0 or not points1:
        return _none()
    pairs = cv2.BFMatcher(cv2.NORM_L2, crossCheck=True).match(what0, what1)
    first = np.float32([points0[pair.queryIdx].pt for pair in pairs]).reshape(-1, 2)
    return first, np.float32([points1[pair.trainIdx].pt for pair in pairs]).reshape(-1, 2)


def _none() -> Matches:
    return np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32)


def _fit(matches: Matches, shape: tuple[int, int]) -> np.ndarray | None:
    """Return the matches' homography, the identity where that explains them about as well, None where they do not agree."""
    if len(matches[0]) < _FEWEST_INLIERS:
        return None
    found, inliers = cv2.findHomography(*matches, _ransac())
    if found is None or not _is_a_view(found, shape):
        return None
    if inliers.sum() < max(_FEWEST_INLIERS, _SMALLEST_SHARE * len(inliers)):
        return None
    return np.eye(3) if _cost(np.eye(3), matches) <= _STILL * _cost(found, matches) else found


def _ransac() -> cv2.UsacParams:
    """Return RANSAC that scores by truncated squared error (MSAC), with local optimisation and always the same draws."""
    how = cv2.UsacParams()
    how.threshold, how.maxIterations, how.confidence = _INLIER_PX, 2000, 0.995
    how.isParallel, how.randomGeneratorState = False, 0
    how.sampler, how.score = cv2.SAMPLING_UNIFORM, cv2.SCORE_METHOD_MSAC
    how.loMethod, how.final_polisher, how.final_polisher_iterations = cv2.LOCAL_OPTIM_INNER_LO, cv2.LSQ_POLISHER, 3
    return how


def _cost(homography: np.ndarray, matches: Matches) -> float:
    """Return the sum of squared errors, px^2, each of an outlier counted as that of one at the threshold."""
    there = cv2.perspectiveTransform(matches[0][:, None], homography)[:, 0]
    return float(np.minimum(((there - matches[1]) ** 2).sum(axis=-1), _INLIER_PX**2).sum())


def _is_a_view(homography: np.ndarray, shape: tuple[int, int]) -> bool:
    """Return whether the frame's outline stays a convex quadrangle, the same way round, of half to twice the area."""
    height, width = shape
    corners = np.float64([[0, 0], [width, 0], [width, height], [0, height]])
    if not ((np.c_[corners, np.ones(4)] @ homography[2]) > 0).all():
        return False  # the horizon runs through the frame
    seen = cv2.perspectiveTransform(corners[:, None], homography)[:, 0]
    sides = np.roll(seen, -1, axis=0) - seen
    following = np.roll(sides, -1, axis=0)
    turns = sides[:, 0] * following[:, 1] - sides[:, 1] * following[:, 0]
    area = cv2.contourArea(seen.astype(np.float32))
    return bool((turns > 0).all()) and 0.5 <= area / (height * width) <= 2
