"""Prepared records written as the folders of JPEGs that flow extractors leave."""

import cv2
import numpy as np

# Each: where the files of a video lie, {v} its name and {n} the number; the first number of the flow and of the RGB.
LAYOUTS = {
    "flow_x": (("{v}/flow_x_{n:05d}.jpg", "{v}/flow_y_{n:05d}.jpg", "{v}/img_{n:05d}.jpg"), 1, 1),
    "x": (("{v}/x_{n:04d}.jpg", "{v}/y_{n:04d}.jpg", "{v}/image_{n:04d}.JPEG"), 0, 2),
    "uv": (("u/{v}/frame{n:06d}.jpg", "v/{v}/frame{n:06d}.jpg", "jpegs_256/{v}/frame{n:06d}.jpg"), 2, 1),
}


def write_set(root, records, layout, streams=("rgb", "flow"), folder_of=lambda video: video.name):
    """Write the JPEGs of all videos of `records` below `root`, byte for byte."""
    (x_name, y_name, rgb_name), first_flow, first_rgb = LAYOUTS[layout]
    for position, video in enumerate(records.videos):
        if "rgb" in streams:
            for i, jpeg in enumerate(records.frame_jpegs(position, range(video.frames))):
                put(root / rgb_name.format(v=folder_of(video), n=first_rgb + i), jpeg)
        if "flow" in streams:
            for i, (x, y, _) in enumerate(records.field_jpegs(position, range(video.pairs))):
                put(root / x_name.format(v=folder_of(video), n=first_flow + i), x)
                put(root / y_name.format(v=folder_of(video), n=first_flow + i), y)
    return root


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def jpeg(seed=0, size=(24, 32), channels=1):
    """Return a JPEG of smooth noise."""
    noise = cv2.GaussianBlur(np.random.default_rng(seed).integers(0, 256, size, np.uint8), (0, 0), 2)
    image = np.repeat(noise[..., None], channels, axis=2) if channels > 1 else noise
    return cv2.imencode(".jpg", image)[1].tobytes()


def write_video(folder, frames=4, fields=None, seed=0, x="flow_x_", rgb="img_"):
    """Write one video, numbers from 1: `frames` RGB frames (0: none) and `fields` fields, by default one less."""
    y = x.replace("x", "y")
    for i in range(1, frames + 1):
        put(folder / f"{rgb}{i:05d}.jpg", jpeg(seed + i, channels=3))
    for i in range(1, (frames - 1 if fields is None else fields) + 1):
        put(folder / f"{x}{i:05d}.jpg", jpeg(seed + 100 + i))
        put(folder / f"{y}{i:05d}.jpg", jpeg(seed + 200 + i))
    return folder
