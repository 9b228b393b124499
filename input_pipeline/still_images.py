"""Still images as one-frame videos: whatever a picture file holds becomes 8-bit RGB."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from input_pipeline.codecs import claimed_size
from input_pipeline.schema import UserError
from input_pipeline.videos import MAX_FRAME_PX, MAX_SIDE_PX, quiet_opencv, stored_size, to_stored

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm")


@dataclass(frozen=True, slots=True)
class StillImage:
    """A picture file as a video of one frame."""

    path: Path

    def exists(self) -> bool:
        """Return whether the file is there."""
        return os.path.isfile(self.path)

    def size_bytes(self) -> int:
        """Return the file's size."""
        return self.path.stat().st_size

    def count_frames(self) -> int:
        """Return 1."""
        return 1

    def frames(self, short_side: int) -> Iterator[np.ndarray]:
        """Yield the picture, uint8 RGB [H, W, 3], its smallest side `short_side` px. Raises UserError ("<path>: ...")."""
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror})") from error
        yield from stored_pictures([content], short_side, str(self.path))


def stored_pictures(contents: list[bytes], short_side: int, where: str) -> Iterator[np.ndarray]:
    """Yield encoded pictures as frames of one video, uint8 RGB [H, W, 3], all of the first one's stored size.

    Grey, palette, CMYK and 16-bit pictures become 8-bit RGB (16 bits keep their upper 8), transparency is dropped, the
    EXIF orientation is obeyed as that of a video is. Raises UserError ("<where>: <reason>").
    """
    size = None
    for number, content in enumerate(contents):
        height, width = claimed_size(content)
        if height * width > MAX_FRAME_PX:
            raise UserError(f"{where}: claims {width}x{height} px, more than {MAX_FRAME_PX:,} px")
        frame = _decode(content)
        if frame is None:
            which = f"picture {number} of {len(contents)}" if len(contents) > 1 else "the picture"
            raise UserError(f"{where}: {which} cannot be decoded ({len(content)} bytes)")
        size = size or _size(*frame.shape[:2], short_side, where)
        yield to_stored(frame, *size)


def _decode(content: bytes) -> np.ndarray | None:
    """Return uint8 BGR [H, W, 3], or None for what is no whole picture."""
    if not content:
        return None
    with quiet_opencv():
        try:
            return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        except cv2.error:
            return None


def _size(height: int, width: int, short_side: int, where: str) -> tuple[int, int]:
    size = stored_size(height, width, short_side)
    if max(size) > MAX_SIDE_PX:
        raise UserError(f"{where}: {width}x{height} px would be stored {max(size)} px long, more than {MAX_SIDE_PX}")
    return size
