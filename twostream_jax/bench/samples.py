"""The training samples that a peer is to read: those that ours draws."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Sample:
    """One training sample of flow: ten fields of a video, say, and what is cut out of them."""

    folder: Path  # of the video's flow_x_00001.jpg, flow_y_00001.jpg, ...
    fields: tuple[int, ...]  # from 1, as the files count
    y: int
    x: int
    flip: bool
    label: int
