"""The embedded video data set: nine classes, three colours times three motions of a disc.

The colours share one grey value, so optical flow, which is computed on grey frames, cannot tell them. The disc bounces
in a box from a uniform start, so its place is uniform in the box in every frame of every motion, and a single frame
cannot tell the motion. Either stream alone therefore stops at one class in three, and both together can name all nine.
Motions and colours do not change when a video is mirrored.
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
CLASSES = tuple(f"{colour}-{motion}" for colour in COLOURS for motion in MOTIONS)

FPS = 25.0
RADIUS_PX = 13.0
HALF_BOX_PX = 12.0  # the disc's centre stays within this of the frame's centre, so that every crop shows most of it
SPEED_PX = (2.5, 3.5)  # per frame
# Bumped whenever the same settings would render other pixels.
_VERSION = 1


def render(
    folder: Path,
    *,
    seed: int,
    videos_per_class: tuple[int, int] = (14, 6),
    size: tuple[int, int] = (64, 80),
    num_frames: int = 24,
) -> Path:
    """Return the path of `folder`/split.csv after writing the videos it lists, if they are not there already.

    The videos are MJPG .avi files in class folders; the CSV has the columns path, label, group, split.
    `videos_per_class` counts training and test videos; `size` is (height, width) in px. The nine videos of a group, one
    of each class, share background, illumination and disc texture, so none of these can tell the class, and no group is
    in both training and test. The same arguments write the same pixels. split.csv is written last and settings.json
    beside it says what it was made with, so an interrupted or different set is rendered anew.

    Raises UserError when the folder holds anything else, or cannot be written.
    """
    folder = Path(folder)
    settings = {
        "version": _VERSION,
        "seed": seed,
        "videos_per_class": list(videos_per_class),
        "size": list(size),
        "num_frames": num_frames,
    }
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
        for name in CLASSES:
            (folder / name).mkdir(exist_ok=True)
        rows = _render_groups(folder, seed, videos_per_class, size, num_frames)
        unfinished = folder / "split.csv.part"
        with unfinished.open("w", newline="") as file:
            csv.writer(file).writerows([("path", "label", "group", "split"), *rows])
        unfinished.replace(listing)
    except OSError as error:
        raise UserError(f"cannot write the synthetic videos to {folder}: {error.strerror or error}") from error
    return listing


def _render_groups(
    folder: Path, seed: int, videos_per_class: tuple[int, int], size: tuple[int, int], num_frames: int
) -> list[tuple[str, str, str, str]]:
    rows = []
    for group in range(sum(videos_per_class)):
        subset = "train" if group < videos_per_class[0] else "test"
        scene = _scene(np.random.default_rng([seed, group]), size)
        for number, name in enumerate(CLASSES):
            frames = _frames(np.random.default_rng([seed, group, number]), scene, name, num_frames)
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
    # Reflection at both walls is a triangle wave of period four half boxes.
    phase = (unfolded + HALF_BOX_PX) % (4 * HALF_BOX_PX)
    return np.array(centre) + HALF_BOX_PX - np.abs(phase - 2 * HALF_BOX_PX), velocity


def _frames(
    rng: np.random.Generator, scene: tuple[np.ndarray, np.ndarray], name: str, num_frames: int
) -> list[np.ndarray]:
    """Return the uint8 BGR frames [H, W, 3] of one video."""
    background, disc = scene
    colour, motion = name.split("-")
    height, width = background.shape
    track, _ = positions(rng, motion, ((width - 1) / 2, (height - 1) / 2), num_frames)
    half = (disc.shape[0] - 1) / 2
    y, x = np.mgrid[:height, :width]
    frames = []
    for centre_x, centre_y in track:
        shift = np.array([[1, 0, centre_x - half], [0, 1, centre_y - half]], np.float32)
        moved = cv2.warpAffine(disc, shift, (width, height), borderMode=cv2.BORDER_REPLICATE)
        # An edge two px wide, so that the disc moves smoothly by fractions of a px.
        cover = np.clip((RADIUS_PX + 1 - np.hypot(x - centre_x, y - centre_y)) / 2, 0, 1)
        grey = background * (1 - cover) + moved * cover + rng.normal(0, 1.5, background.shape)
        rgb = grey[..., None] + cover[..., None] * COLOURS[colour]
        frames.append(np.clip(np.rint(rgb), 0, 255).astype(np.uint8)[..., ::-1])
    return frames


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
