"""The quality of TV-L1 beside OpenCV's, on pairs with ground truth and on real clips."""

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
from known_flow import end_point_error, read_truths

from input_pipeline.opencv_flow import grey
from input_pipeline.videos import read_video
from twostream_jax import flow

pytestmark = pytest.mark.slow

CLIPS = (
    "ucf101/*/v_BalanceBeam_*", "ucf101/*/v_JavelinThrow_*", "ucf101/*/v_Rowing_*", "ucf101/*/v_PlayingCello_*",
    "hmdb51/wave/*", "hmdb51/cartwheel/*", "fight/fight/fi011.mp4", "fight/noFight/*",
)  # fmt: skip


@pytest.fixture(scope="module")
def truths(data_dir):
    """Name -> (frame0, frame1, true flow), frames grey."""
    return {name: (*grey(np.stack([a, b])), want) for name, (a, b, want) in read_truths(data_dir).items()}


def opencv(frame0, frame1):
    return cv2.optflow.createOptFlow_DualTVL1().calc(frame0, frame1, None)


def ours(frame0, frame1, settings, shape=None):
    """Return our flow of one pair, padded to `shape` where that is given."""
    size = np.int32(frame0.shape)
    height, width = shape or frame0.shape
    wide = [np.pad(f, ((0, height - size[0]), (0, width - size[1])))[None] for f in (frame0, frame1)]
    return np.asarray(flow.tvl1(*wide, jnp.asarray(size), settings))[0, : size[0], : size[1]]


def residual(frame0, frame1, field):
    """Return mean |I1(x + u) - I0(x)|, grey levels, bicubic."""
    y, x = np.mgrid[: frame0.shape[0], : frame0.shape[1]].astype(np.float32)
    there = (x + field[..., 0], y + field[..., 1])
    read = cv2.remap(np.float32(frame1), *there, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return float(np.abs(read - frame0).mean())


@pytest.fixture(scope="module")
def errors_of_opencv(truths):
    return np.array([end_point_error(opencv(a, b), want) for a, b, want in truths.values()])


@pytest.mark.parametrize("name", ["DEFAULT", "OPENCV"])
def test_end_point_error_is_that_of_opencv(truths, errors_of_opencv, name):
    settings = getattr(flow, name)
    errors = np.array([end_point_error(ours(a, b, settings), want) for a, b, want in truths.values()])
    print(name, dict(zip(truths, errors.round(3).tolist(), strict=True)), "OpenCV", errors_of_opencv.round(3).tolist())
    assert errors.mean() <= 1.05 * errors_of_opencv.mean()
    assert (errors <= 1.2 * errors_of_opencv).all()


def test_residual_on_real_clips_is_that_of_opencv(data_dir):
    measured = []
    for pattern in CLIPS:
        path = sorted(data_dir.glob(pattern))[0]
        frames = grey(read_video(path, 256))
        pair = frames[len(frames) // 2 : len(frames) // 2 + 2]
        fields = (ours(*pair, flow.DEFAULT, (256, 640)), opencv(*pair))
        measured.append([residual(*pair, field) for field in fields])
        print(path.stem, np.round(measured[-1], 3))
    got, theirs = np.array(measured).T
    assert got.mean() <= 1.02 * theirs.mean()
