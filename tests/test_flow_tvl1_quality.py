"""The quality of TV-L1 beside OpenCV's, on pairs with ground truth and on real clips."""

import cv2
import jax.numpy as jnp
import numpy as np
import pytest

from input_pipeline.opencv_flow import grey
from input_pipeline.videos import read_video
from twostream_jax import flow

pytestmark = pytest.mark.slow

CLIPS = (
    "ucf101/*/v_BalanceBeam_*", "ucf101/*/v_JavelinThrow_*", "ucf101/*/v_Rowing_*", "ucf101/*/v_PlayingCello_*",
    "hmdb51/wave/*", "hmdb51/cartwheel/*", "fight/fight/fi011.mp4", "fight/noFight/*",
)  # fmt: skip


def read_flo(path):
    """Return a Middlebury .flo file's field [H, W, 2] px; unknown is above 1e9."""
    raw = np.fromfile(path, np.float32)
    width, height = raw[1:3].view(np.int32)
    return raw[3:].reshape(height, width, 2)


@pytest.fixture(scope="module")
def truths(data_dir):
    """Name -> (frame0, frame1, true flow) of rubberwhale and four of FlyingChairs."""
    whale, chairs = data_dir / "flow" / "rubberwhale", data_dir / "flow" / "flyingchairs"
    names = {"rubberwhale": (whale / "frame10.png", whale / "frame11.png", whale / "flow10.flo")}
    names |= {
        f"chairs {i}": tuple(chairs / f"{i:07d}-{what}" for what in ("img0.ppm", "img1.ppm", "gt.flo"))
        for i in range(4)
    }
    return {
        name: (*(cv2.imread(str(image), cv2.IMREAD_GRAYSCALE) for image in (first, second)), read_flo(field))
        for name, (first, second, field) in names.items()
    }


def opencv(frame0, frame1):
    return cv2.optflow.createOptFlow_DualTVL1().calc(frame0, frame1, None)


def ours(frame0, frame1, settings, shape=None):
    """Return our flow of one pair, padded to `shape` where that is given."""
    size = np.int32(frame0.shape)
    height, width = shape or frame0.shape
    wide = [np.pad(f, ((0, height - size[0]), (0, width - size[1])))[None] for f in (frame0, frame1)]
    return np.asarray(flow.tvl1(*wide, jnp.asarray(size), settings))[0, : size[0], : size[1]]


def end_point_error(got, want):
    known = (np.abs(want) < 1e9).all(axis=-1)
    return float(np.linalg.norm(got - want, axis=-1)[known].mean())


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
