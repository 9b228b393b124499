"""The camera's motion is found, and taken out of the second frame; where it cannot be trusted there is none."""

import cv2
import numpy as np
import pytest

from input_pipeline import camera_motion
from input_pipeline.opencv_flow import compute_flow
from input_pipeline.videos import read_video

HEIGHT, WIDTH = 256, 342  # of the frames, cut out of a larger picture so that its borders are never seen
LEFT, TOP = 121, 66


@pytest.fixture(scope="module")
def picture(data_dir):
    """A real photograph, uint8 grey [388, 584]."""
    return cv2.imread(str(data_dir / "flow" / "rubberwhale" / "frame10.png"), cv2.IMREAD_GRAYSCALE)


def about_centre(degrees=0.0, zoom=1.0):
    return np.vstack([cv2.getRotationMatrix2D(((WIDTH - 1) / 2, (HEIGHT - 1) / 2), degrees, zoom), [0, 0, 1]])


def pan(x, y):
    return np.float64([[1, 0, x], [0, 1, y], [0, 0, 1]])


def pair(picture, motion, noise=2.0):
    """Return two frames between which `motion` takes each point, with noise of its own (grey levels) on each."""
    to_frame = pan(-LEFT, -TOP)
    wide = np.linalg.inv(to_frame) @ motion @ to_frame
    moved = cv2.warpPerspective(picture, wide, picture.shape[::-1], flags=cv2.INTER_CUBIC)
    rng = np.random.default_rng(0)
    cut = [frame[TOP : TOP + HEIGHT, LEFT : LEFT + WIDTH] for frame in (picture, moved)]
    return [np.clip(np.rint(f + rng.normal(0, noise, f.shape)), 0, 255).astype(np.uint8) for f in cut]


def corners_apart_px(one, other, shape=(HEIGHT, WIDTH)):
    """Return how far apart two homographies take a corner of the frame, at most."""
    height, width = shape
    corners = np.float64([[[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1]]])
    there = [cv2.perspectiveTransform(corners, homography) for homography in (one, other)]
    return float(np.linalg.norm(there[0] - there[1], axis=-1).max())


MOTIONS = {
    "pan": pan(7.3, -4.6),
    "slow pan": pan(0.4, 0.2),
    "fast pan": pan(40, -25),
    "rotation": about_centre(degrees=3),
    "zoom": about_centre(zoom=1.04),
    "perspective": np.float64([[1.01, 0.01, 2], [-0.005, 0.99, 1], [3e-5, -2e-5, 1]]),
}


@pytest.mark.parametrize("name", MOTIONS)
def test_a_known_motion_is_found(picture, name):
    found = camera_motion.homography(*pair(picture, MOTIONS[name]))
    print(name, corners_apart_px(found, MOTIONS[name]))
    assert found.dtype == np.float64 and found[2, 2] == 1
    assert corners_apart_px(found, MOTIONS[name]) < 0.15
    # And it is one: the camera did move.
    assert corners_apart_px(found, np.eye(3)) > 0.3


def test_a_motion_too_far_to_track_is_found_by_features(picture):
    """Corners are tracked over some 60 px; beyond, SIFT features are matched."""
    motion = pan(110, -70)
    frames = pair(picture, motion)
    assert camera_motion._fit(camera_motion._tracks(*frames), frames[0].shape) is None
    assert corners_apart_px(camera_motion.homography(*frames), motion) < 0.5


def test_a_still_camera_has_no_motion(picture, data_dir):
    assert corners_apart_px(camera_motion.homography(*pair(picture, np.eye(3))), np.eye(3)) < 0.05
    # A camera on a tripod, people that move before it, a codec's noise.
    frames = [cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in read_video(data_dir / "fight/noFight/nofi001.mp4", 256)]
    for i in range(0, len(frames) - 1, 8):
        assert corners_apart_px(camera_motion.homography(frames[i], frames[i + 1]), np.eye(3)) < 0.05, i


def object_before_a_pan(picture, camera, own):
    """Return two frames: a disc of another texture moves by `own` px relative to the scene, which moves by `camera` px."""
    frames = pair(picture, pan(*camera))
    texture = cv2.GaussianBlur(np.random.default_rng(1).uniform(0, 255, (HEIGHT, WIDTH)).astype(np.float32), (0, 0), 2)
    texture = np.clip(128 + 6 * (texture - texture.mean()), 0, 255).astype(np.uint8)
    disc = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.circle(disc, (150, 120), 45, 255, -1)
    first = np.where(disc > 0, texture, frames[0])
    shift = np.float64(np.eye(3)[:2])
    shift[:, 2] = np.add(camera, own)
    moved, there = (cv2.warpAffine(f, shift, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC) for f in (texture, disc))
    return first, np.where(there > 127, moved, frames[1]), disc > 0


def test_what_moves_by_itself_is_left(picture):
    camera, own = (6.0, -3.0), (-4.0, 5.0)
    source, target, disc = object_before_a_pan(picture, camera, own)
    found = camera_motion.homography(source, target)
    assert corners_apart_px(found, pan(*camera)) < 0.15
    steadied = camera_motion.without_camera_motion(source, target, found)
    flow = compute_flow(np.stack([source, steadied]), "dis")[0]
    inside = cv2.erode(disc.astype(np.uint8), np.ones((15, 15))) > 0
    # The disc covers and lays bare the scene on its way.
    far = cv2.dilate(disc.astype(np.uint8), np.ones((41, 41))) == 0
    assert np.linalg.norm(flow[far], axis=-1).mean() < 0.1
    assert np.linalg.norm(flow[inside] - own, axis=-1).mean() < 0.1
    # Where the scene left the frame (x > 336 or y < 3 of the source) nothing is seen to move either.
    gone = np.zeros_like(disc)
    gone[:, -6:] = gone[:3] = True
    assert np.linalg.norm(flow[gone], axis=-1).mean() < 0.1
    # Without it, that is the camera's motion.
    plain = compute_flow(np.stack([source, target]), "dis")[0]
    assert np.linalg.norm(plain[far], axis=-1).mean() > 5


def test_the_warped_target_shows_at_x_what_the_target_shows_at_hx():
    rng = np.random.default_rng(0)
    source, target = rng.integers(0, 256, (2, 5, 7), dtype=np.uint8)
    steadied = camera_motion.without_camera_motion(source, target, pan(2, 1))
    np.testing.assert_array_equal(steadied[:4, :5], target[1:, 2:])
    # Beyond the target: the source's own.
    np.testing.assert_array_equal(steadied[4], source[4])
    np.testing.assert_array_equal(steadied[:, 5:], source[:, 5:])
    np.testing.assert_array_equal(camera_motion.without_camera_motion(source, target, np.eye(3)), target)
    colour = np.stack([target, target + 1, target + 2], axis=-1)
    steadied = camera_motion.without_camera_motion(np.stack([source] * 3, axis=-1), colour, pan(2, 1))
    np.testing.assert_array_equal(steadied[:4, :5], colour[1:, 2:])
    np.testing.assert_array_equal(steadied[:, 5:, 1], source[:, 5:])


def is_identity(source, target):
    return np.array_equal(camera_motion.homography(source, target), np.eye(3))


@pytest.mark.parametrize("level", [0, 128, 255])
def test_flat_frames_have_no_motion(level):
    flat = np.full((HEIGHT, WIDTH), level, np.uint8)
    assert is_identity(flat, flat)
    noisy = np.random.default_rng(0).integers(0, 256, flat.shape, dtype=np.uint8)
    assert is_identity(flat, noisy) and is_identity(noisy, flat)


def test_noise_has_no_motion():
    rng = np.random.default_rng(0)
    for _ in range(5):
        assert is_identity(*rng.integers(0, 256, (2, HEIGHT, WIDTH), dtype=np.uint8))


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (1, 40), (12, 12), (12, 342), (16, 16)])
def test_tiny_frames_have_no_motion(shape):
    assert is_identity(*np.random.default_rng(0).integers(0, 256, (2, *shape), dtype=np.uint8))
    gradient = np.add.outer(np.arange(shape[0]), np.arange(shape[1])).astype(np.uint8)
    assert is_identity(gradient, gradient)


def test_a_cut_has_no_motion(picture, data_dir):
    clip = read_video(data_dir / "fight/noFight/nofi001.mp4", HEIGHT)
    other = cv2.cvtColor(clip[0], cv2.COLOR_RGB2GRAY)
    assert other.shape == (HEIGHT, WIDTH)
    assert is_identity(picture[:HEIGHT, :WIDTH], other) and is_identity(other, picture[:HEIGHT, :WIDTH])


def test_a_fold_or_a_horizon_is_no_view():
    shape = (HEIGHT, WIDTH)
    assert camera_motion._is_a_view(np.eye(3), shape) and camera_motion._is_a_view(about_centre(30, 1.2), shape)
    mirrored, doubled = np.diag([-1.0, 1, 1]), np.diag([1.5, 1.5, 1])
    assert not camera_motion._is_a_view(mirrored, shape) and not camera_motion._is_a_view(doubled, shape)
    # x of 200 px is taken to infinity.
    assert not camera_motion._is_a_view(np.float64([[1, 0, 0], [0, 1, 0], [-1 / 200, 0, 1]]), shape)


def test_the_same_for_every_call_and_number_of_threads(picture):
    pairs = [pair(picture, MOTIONS["rotation"]), pair(picture, pan(110, -70))]
    before = cv2.getNumThreads()
    found = []
    try:
        for threads in (1, 1, 4):
            cv2.setNumThreads(threads)
            cv2.setRNGSeed(threads)
            found.append([camera_motion.homography(*frames) for frames in pairs])
    finally:
        cv2.setNumThreads(before)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
