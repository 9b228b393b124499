import cv2
import numpy as np
import pytest

from input_pipeline.opencv_flow import compute_flow, grey
from input_pipeline.schema import OPENCV_METHODS, UserError


def texture(height, width, seed=0):
    """Smooth noise with structure at several scales, float32 0..255."""
    noise = np.random.default_rng(seed).normal(size=(height, width)).astype(np.float32)
    blurred = sum(cv2.GaussianBlur(noise, (0, 0), sigma) * sigma for sigma in (1.5, 3.0, 6.0))
    return cv2.normalize(blurred, None, 0, 255, cv2.NORM_MINMAX)


def moving(step_x, step_y, frames=2, size=96):
    """Grey frames in which the texture moves by whole px right and down a frame."""
    big = texture(size + 40, size + 40)
    corners = [(20 - step_y * i, 20 - step_x * i) for i in range(frames)]
    return np.stack([big[y : y + size, x : x + size] for y, x in corners]).astype(np.uint8)


def inner_median(field):
    return np.median(field[16:-16, 16:-16].reshape(-1, 2), axis=0)


@pytest.mark.parametrize("method", OPENCV_METHODS)
def test_translation_gives_its_vector_x_right_y_down(method):
    flow = compute_flow(moving(3, -1), method)
    assert flow.dtype == np.float32 and flow.shape == (1, 96, 96, 2)
    # All methods find a pure translation of a smooth texture within a tenth of a pixel.
    np.testing.assert_allclose(inner_median(flow[0]), (3, -1), atol=0.1)


@pytest.mark.parametrize("method", OPENCV_METHODS)
def test_backward_field_moves_the_later_frame_to_the_earlier(method):
    frames = moving(2, 1, frames=3)
    backward = compute_flow(frames, method, backward=True)
    assert backward.shape == (2, 96, 96, 2)
    np.testing.assert_allclose(inner_median(backward[0]), (-2, -1), atol=0.1)
    # The backward field of frame i+1 is the forward field of the video played in reverse, at the mirrored place.
    np.testing.assert_array_equal(backward, compute_flow(frames[::-1], method)[::-1])


@pytest.mark.parametrize("method", OPENCV_METHODS)
def test_a_pair_does_not_depend_on_its_neighbours(method):
    frames = np.concatenate([moving(2, 0), moving(-1, 3)])
    whole = compute_flow(frames, method)
    for i in range(3):
        np.testing.assert_array_equal(whole[i], compute_flow(frames[i : i + 2], method)[0])


@pytest.mark.parametrize("method", OPENCV_METHODS)
def test_threads_change_nothing(method):
    frames, threads = moving(2, -3), cv2.getNumThreads()
    try:
        cv2.setNumThreads(0)
        alone = compute_flow(frames, method)
        cv2.setNumThreads(4)
        np.testing.assert_array_equal(alone, compute_flow(frames, method))
    finally:
        cv2.setNumThreads(threads)


# OpenCV 5.0's mean end-point errors are .223, .440, .121 and .157; other versions differ a little, zero flow has 1.256.
@pytest.mark.parametrize(("method", "limit_px"), [("dis", 0.26), ("farneback", 0.5), ("deepflow", 0.15), ("tvl1", 0.2)])
def test_rubberwhale_ground_truth(data_dir, method, limit_px):
    folder = data_dir / "flow" / "rubberwhale"
    frames = np.stack([cv2.imread(str(folder / name))[..., ::-1] for name in ("frame10.png", "frame11.png")])
    raw = (folder / "flow10.flo").read_bytes()
    width, height = np.frombuffer(raw, "<i4", count=2, offset=4)
    truth = np.frombuffer(raw, "<f4", offset=12).reshape(height, width, 2)
    known = np.abs(truth).max(axis=-1) < 1e9
    error = np.linalg.norm(compute_flow(frames, method)[0] - truth, axis=-1)[known].mean()
    assert error < limit_px


def test_one_frame_has_no_flow():
    assert compute_flow(np.zeros((1, 32, 48), np.uint8), "dis").shape == (0, 32, 48, 2)


def test_grey_weighs_the_colours_and_keeps_grey_frames():
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]], np.uint8)[None]
    # BT.601: .299, .587 and .114 of 255.
    np.testing.assert_array_equal(grey(colours), [[[76, 150, 29, 255]]])
    frames = moving(1, 1)
    assert grey(frames) is frames


def test_unknown_method_is_named():
    with pytest.raises(UserError, match=r"^flow\.method: 'brox' is none of OpenCV's; choose one of tvl1, dis"):
        compute_flow(moving(1, 1), "brox")
