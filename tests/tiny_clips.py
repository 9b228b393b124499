"""Tiny clips and short calls that several tests of preparing share."""

import dataclasses
import hashlib
import json

import cv2
import numpy as np

from input_pipeline import dataset_file, prepare
from input_pipeline.stages import PrepareSettings
from input_pipeline.video_list import Video, VideoList

SETTINGS = PrepareSettings(short_side=32, method="dis", bound_px=8.0, backward=False, max_bad_fraction=0.5, processes=1)


def write_clip(path, frames=5, seed=0, size=(32, 48)):
    """Write an MJPG clip of a texture that moves two px right a frame."""
    height, width = size
    texture = np.random.default_rng(seed).integers(0, 256, (height, width + 2 * frames), np.uint8)
    texture = cv2.normalize(cv2.GaussianBlur(texture, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX)
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (width, height))
    for i in range(frames):
        first = 2 * (frames - i)
        writer.write(cv2.cvtColor(texture[:, first : first + width], cv2.COLOR_GRAY2BGR))
    writer.release()
    return path


def listed(folder, names):
    videos = [Video(name, folder / f"{name}.avi", i % 2, f"g{i}", {"1": "train"}) for i, name in enumerate(names)]
    return VideoList("tiny", "folder", ("left", "right"), ("1",), tuple(videos))


def tiny_list(folder, count=4):
    """Clips of 4, 5, ... frames in two folders."""
    names = [f"{'ab'[i % 2]}/clip{i}" for i in range(count)]
    for i, name in enumerate(names):
        write_clip(folder / f"{name}.avi", frames=4 + i, seed=i)
    return listed(folder, names)


def run(videos, records, settings=SETTINGS, device_flow=None, **changes):
    settings = dataclasses.replace(settings, **changes)
    return prepare.prepare(videos, records, settings, lambda *progress: None, device_flow=device_flow)


def verify_lines(videos, records, settings):
    """Return the lines that --verify says."""
    said = []
    prepare.verify(records, lambda: (videos, settings), lambda *progress: None, said.append)
    return said


def sealed(text):
    """Return an edited dataset.json with the checksum that it would have been written with."""
    plain = json.loads(text)
    del plain["schema"], plain["content"]
    return dataset_file.format_dataset(dataset_file._dataset(plain))


def hashes(folder):
    """SHA-256 of every file below a folder, by relative path; the lock file, which says nothing, left out."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
