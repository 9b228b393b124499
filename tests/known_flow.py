"""Pairs of frames with known flow: a real picture moved by known maps, and the data sets' pairs with ground truth."""

import cv2
import numpy as np

HEIGHT, WIDTH = 96, 112

# Affine maps (2x3) of the whole picture: what frame0 shows at (x, y), frame1 shows at A (x, y, 1).
ABOUT = (150.0, 120.0)
MOTIONS = {
    "right and up": np.float32([[1, 0, 2.3], [0, 1, -1.4]]),
    "left": np.float32([[1, 0, -4.6], [0, 1, 0.25]]),
    "rotation": cv2.getRotationMatrix2D(ABOUT, 4, 1).astype(np.float32),
    "zoom": cv2.getRotationMatrix2D(ABOUT, 0, 1.06).astype(np.float32),
    "still": np.float32([[1, 0, 0], [0, 1, 0]]),
}


def read_picture(data_dir, flags=cv2.IMREAD_GRAYSCALE):
    """Return RubberWhale's first frame, uint8."""
    return cv2.imread(str(data_dir / "flow" / "rubberwhale" / "frame10.png"), flags)


def moved(picture, motion):
    """Return frame0, frame1 and the flow between them in a window of `picture` about ABOUT."""
    left, top = int(ABOUT[0]) - WIDTH // 2, int(ABOUT[1]) - HEIGHT // 2
    window = np.s_[top : top + HEIGHT, left : left + WIDTH]
    after = cv2.warpAffine(picture, motion, picture.shape[1::-1], flags=cv2.INTER_CUBIC)
    y, x = np.mgrid[window].astype(np.float32)
    there = np.stack([x, y, np.ones_like(x)], axis=-1) @ motion.T
    return picture[window], after[window], there - np.stack([x, y], axis=-1)


def moved_pairs(picture):
    """Return frame0 and frame1 [5, H, W] uint8 and the true flow [5, H, W, 2], by MOTIONS."""
    return tuple(np.stack(part) for part in zip(*(moved(picture, motion) for motion in MOTIONS.values()), strict=True))


def read_flo(path):
    """Return a Middlebury .flo file's field [H, W, 2] px; unknown is above 1e9."""
    raw = np.fromfile(path, np.float32)
    width, height = raw[1:3].view(np.int32)
    return raw[3:].reshape(height, width, 2)


def read_truths(data_dir):
    """Return name -> (frame0, frame1, true flow) of rubberwhale and four of FlyingChairs, frames uint8 RGB."""
    whale, chairs = data_dir / "flow" / "rubberwhale", data_dir / "flow" / "flyingchairs"
    names = {"rubberwhale": (whale / "frame10.png", whale / "frame11.png", whale / "flow10.flo")}
    names |= {
        f"chairs {i}": tuple(chairs / f"{i:07d}-{what}" for what in ("img0.ppm", "img1.ppm", "gt.flo"))
        for i in range(4)
    }
    return {
        name: (*(cv2.imread(str(image))[..., ::-1] for image in (first, second)), read_flo(field))
        for name, (first, second, field) in names.items()
    }


def end_point_error(got, want):
    """Return the mean distance in px where `want` is known."""
    known = (np.abs(want) < 1e9).all(axis=-1)
    return float(np.linalg.norm(got - want, axis=-1)[known].mean())
