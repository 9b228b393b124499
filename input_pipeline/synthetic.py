"""The embedded video data set: nine classes, three colours times three motions of a disc.

The colours share one grey value, so optical flow, which is computed on grey frames, cannot tell them. The disc bounces
in a box from a uniform start, so its place is uniform in the box in every frame of every motion, and a single frame
cannot tell the motion. Either stream alone therefore stops at one class in three, and both together can name all nine.
Motions and colours do not change when a video is mirrored.

Other sets than the embedded one can be rendered: with the motions drift, loop and shake, whose direction and speed between
any two frames are drawn alike, so that one flow field cannot tell them and a stack can; and with a camera that pans.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np

from input_pipeline.schema import UserError

# What a colour adds to a grey value g; .299 R + .587 G + .114 B of each is 0, so that the grey of the pixel stays g.
COLOURS = {
    "red": np.array([75.0, -75.0 * 0.299 / 0.701, -75.0 * 0.299 / 0.701]),
    "green": np.array([-45.0 * 0.587 / 0.413, 45.0, -45.0 * 0.587 / 0.413]),
    "blue": np.array([-105.0 * 0.114 / 0.886, -105.0 * 0.114 / 0.886, 105.0]),
}
# Direction of the disc in (x, y), a unit vector up to the signs, which are drawn for each video.
MOTIONS = {"swing": (1.0, 0.0), "bob": (0.0, 1.0), "slant": (0.5**0.5, 0.5**0.5)}
# These start in any direction: drift keeps it but for the walls, loop turns, shake goes to and fro.
LONG_MOTIONS = ("drift", "loop", "shake")
CLASSES = tuple(f"{colour}-{motion}" for colour in COLOURS for motion in MOTIONS)

FPS = 25.0
RADIUS_PX = 13.0
HALF_BOX_PX = 12.0  # the disc's centre stays within this of the frame's centre, so that every crop shows most of it
SPEED_PX = (2.5, 3.5)  # per frame
LOOP_RADIUS_PX = 8.0
SHAKE_FRAMES = 3  # from one turning point to the next
# Bumped whenever the same settings would render other pixels.
_VERSION = 1


def render(
    folder: Path,
    *,
    seed: int,
    videos_per_class: tuple[int, int] = (14, 6),
    size: tuple[int, int] = (64, 80),
    num_frames: int = 24,
    motions: tuple[str, ...] = tuple(MOTIONS),
    camera_pan_px: float = 0.0,
) -> Path:
    """Return the path of `folder`/split.csv after writing the videos it lists, if they are not there already.

    The videos are MJPG .avi files in class folders; the CSV has the columns path, label, group, split.
    `videos_per_class` counts training and test videos; `size` is (height, width) in px. Classes are the colours times
    `motions`. The videos of a group, one of each class, share background, illumination and disc texture, so none of
    these can tell the class, and no group is in both training and test. With `camera_pan_px` P above 0 the whole picture
    of each video moves on by a constant velocity of its own, whose components are uniform within +-P px per frame. The
    same arguments write the same pixels. split.csv is written last and settings.json beside it says what it was made
    with, so an interrupted or different set is rendered anew.

    Raises UserError for unknown motions, and when the folder holds anything else or cannot be written.
    """
    folder = Path(folder)
    _check_variant(motions, camera_pan_px)
    classes = tuple(f"{colour}-{motion}" for colour in COLOURS for motion in motions)
    settings = {
        "version": _VERSION,
        "seed": seed,
        "videos_per_class": list(videos_per_class),
        "size": list(size),
        "num_frames": num_frames,
    }
    # Only where they differ: a set that was rendered before there were others is still the same.
    if motions != tuple(MOTIONS):
        settings["motions"] = list(motions)
    if camera_pan_px:
        settings["camera_pan_px"] = camera_pan_px
    listing = folder / "split.csv"
    settings_file = folder / "settings.json"
    if listing.exists() and settings_file.exists() and settings_file.read_text() == json.dumps(settings):
        return listing
    if folder.is_dir() and not settings_file.exists() and any(folder.iterdir()):
        raise UserError(
            f"data.videos={folder}: holds other files; name an empty folder for the synthetic videos, or leave it empty"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        listing.unlink(missing_ok=True)
        # Before anything else: it marks the folder as ours.
        settings_file.write_text(json.dumps(settings))
        for name in classes:
            (folder / name).mkdir(exist_ok=True)
        rows = _render_groups(folder, seed, classes, videos_per_class, size, num_frames, camera_pan_px)
        unfinished = folder / "split.csv.part"
        with unfinished.open("w", newline="") as file:
            csv.writer(file).writerows([("path", "label", "group", "split"), *rows])
        unfinished.replace(listing)
    except OSError as error:
        raise UserError(f"cannot write the synthetic videos to {folder}: {error.strerror or error}") from error
    return listing


def _check_variant(motions: tuple[str, ...], camera_pan_px: float) -> None:
    known = (*MOTIONS, *LONG_MOTIONS)
    if not motions or len(set(motions)) < len(motions) or not set(motions) <= set(known):
        raise UserError(f"data.motions={','.join(motions)}: choose of {', '.join(known)}, each once")
    if not 0 <= camera_pan_px < np.inf:
        raise UserError(f"data.camera_pan_px={camera_pan_px}: must be px per frame, at least 0")


def _render_groups(
    folder: Path,
    seed: int,
    classes: tuple[str, ...],
    videos_per_class: tuple[int, int],
    size: tuple[int, int],
    num_frames: int,
    camera_pan_px: float,
) -> list[tuple[str, str, str, str]]:
    rows = []
    for group in range(sum(videos_per_class)):
        subset = "train" if group < videos_per_class[0] else "test"
        scene = _scene(np.random.default_rng([seed, group]), size)
        for number, name in enumerate(classes):
            frames = _frames(np.random.default_rng([seed, group, number]), scene, name, num_frames, camera_pan_px)
            path = f"{name}/{name}_g{group + 1:02d}.avi"
            _write_video(folder / path, frames)
            rows.append((path, name, f"g{group + 1:02d}", subset))
    return rows


def _scene(rng: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return a group's background [H, W] and disc texture, a square a little wider than the disc: float32 grey."""
    side = 2 * int(np.ceil(RADIUS_PX)) + 5
    illumination = rng.uniform(-10, 10)
    background = 115 + illumination + _texture(rng, size, blur_px=3.0, deviation=12)
    disc = 115 + illumination + _texture(rng, (side, side), blur_px=1.5, deviation=16)
    return background, disc


def _texture(rng: np.random.Generator, size: tuple[int, int], blur_px: float, deviation: float) -> np.ndarray:
    """Return smooth noise [H, W] of mean 0 and the given standard deviation, cut at twice that."""
    noise = cv2.GaussianBlur(rng.standard_normal(size).astype(np.float32), (0, 0), blur_px)
    noise = (noise - noise.mean()) / noise.std()
    return np.clip(noise, -2, 2) * np.float32(deviation)


def positions(
    rng: np.random.Generator, motion: str, centre: tuple[float, float], num_frames: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the disc's centre (x, y) in px in each frame, float64 [num_frames, 2], and its speed's signed vector.

    Start, signs and speed are uniform; at the walls of the box the disc bounces, which keeps its place uniform.
    """
    start = rng.uniform(-HALF_BOX_PX, HALF_BOX_PX, 2)
    velocity = np.array(MOTIONS[motion]) * rng.uniform(*SPEED_PX) * rng.choice([-1.0, 1.0], 2)
    unfolded = start + np.arange(num_frames)[:, None] * velocity
    return np.array(centre) + _bounced(unfolded), velocity


def _bounced(unfolded: np.ndarray) -> np.ndarray:
    """Return straight tracks [F, 2] in px from the box's centre as the walls of the box throw them back."""
    # Reflection at both walls is a triangle wave of period four half boxes.
    phase = (unfolded + HALF_BOX_PX) % (4 * HALF_BOX_PX)
    return HALF_BOX_PX - np.abs(phase - 2 * HALF_BOX_PX)


def long_positions(rng: np.random.Generator, motion: str, centre: tuple[float, float], num_frames: int) -> np.ndarray:
    """Return the disc's centre (x, y) in px in each frame, float64 [num_frames, 2], of drift, loop or shake.

    Between any two frames the direction is uniform over the circle, and the speed is drawn as that of the others.
    """
    speed, angle = rng.uniform(*SPEED_PX), rng.uniform(0, 2 * np.pi)
    start, time = rng.uniform(-HALF_BOX_PX, HALF_BOX_PX, 2), np.arange(num_frames) + rng.uniform(0, 2 * SHAKE_FRAMES)
    along = np.array([np.cos(angle), np.sin(angle)])
    if motion == "loop":
        turned = angle + rng.choice([-1.0, 1.0]) * time * speed / LOOP_RADIUS_PX
        # The start is scaled so that the circle stays in the box.
        middle = start * (1 - LOOP_RADIUS_PX / HALF_BOX_PX)
        return np.array(centre) + middle + LOOP_RADIUS_PX * np.stack([np.cos(turned), np.sin(turned)], axis=1)
    if motion == "shake":
        reach = speed * SHAKE_FRAMES / 2
        swung = speed * (np.abs(time % (2 * SHAKE_FRAMES) - SHAKE_FRAMES) - SHAKE_FRAMES / 2)
        return np.array(centre) + start * (1 - reach / HALF_BOX_PX) + swung[:, None] * along
    assert motion == "drift"
    return np.array(centre) + _bounced(start + speed * time[:, None] * along)


def _frames(
    rng: np.random.Generator,
    scene: tuple[np.ndarray, np.ndarray],
    name: str,
    num_frames: int,
    camera_pan_px: float = 0.0,
) -> list[np.ndarray]:
    """Return the uint8 BGR frames [H, W, 3] of one video."""
    background, disc = scene
    colour, motion = name.split("-")
    height, width = background.shape
    centre = ((width - 1) / 2, (height - 1) / 2)
    if motion in MOTIONS:
        track, _ = positions(rng, motion, centre, num_frames)
    else:
        track = long_positions(rng, motion, centre, num_frames)
    # Not drawn where the camera stands, so that the embedded set stays as it is.
    pan = rng.uniform(-camera_pan_px, camera_pan_px, 2) if camera_pan_px else np.zeros(2)
    half = (disc.shape[0] - 1) / 2
    y, x = np.mgrid[:height, :width]
    frames = []
    for number, (centre_x, centre_y) in enumerate(track):
        shift = np.array([[1, 0, centre_x - half], [0, 1, centre_y - half]], np.float32)
        moved = cv2.warpAffine(disc, shift, (width, height), borderMode=cv2.BORDER_REPLICATE)
        # An edge two px wide, so that the disc moves smoothly by fractions of a px.
        cover = np.clip((RADIUS_PX + 1 - np.hypot(x - centre_x, y - centre_y)) / 2, 0, 1)
        grey = background * (1 - cover) + moved * cover + rng.normal(0, 1.5, background.shape)
        rgb = grey[..., None] + cover[..., None] * COLOURS[colour]
        if camera_pan_px:
            rgb = _panned(rgb, number * pan)
        frames.append(np.clip(np.rint(rgb), 0, 255).astype(np.uint8)[..., ::-1])
    return frames


def _panned(picture: np.ndarray, shift_px: np.ndarray) -> np.ndarray:
    """Return the picture [H, W, 3] moved by (x, y) px; what leaves on one side comes in on the other.

    So the disc never goes for good, and every pixel of every frame moves by the pan, the seam included.
    """
    height, width = picture.shape[:2]
    x = (np.arange(width) - shift_px[0]) % width
    y = (np.arange(height) - shift_px[1]) % height
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    along_x, along_y = (x - left)[None, :, None], (y - top)[:, None, None]
    rows = picture[top % height] * (1 - along_y) + picture[(top + 1) % height] * along_y
    return rows[:, left % width] * (1 - along_x) + rows[:, (left + 1) % width] * along_x


def _write_video(path: Path, frames: list[np.ndarray]) -> None:
    height, width = frames[0].shape[:2]
    # OpenCV's own MJPG writer: the same bytes with every FFmpeg, and no FFmpeg needed.
    fourcc = cv2.VideoWriter.fourcc(*"MJPG")
    writer = cv2.VideoWriter(str(path), cv2.CAP_OPENCV_MJPEG, fourcc, FPS, (width, height))
    if not writer.isOpened():
        raise OSError(f"OpenCV cannot open {path} for writing")
    for frame in frames:
        writer.write(np.ascontiguousarray(frame))
    writer.release()
