"""A video file becomes uint8 RGB frames. Counting is done by decoding: containers' counts are often wrong."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator

import cv2
import numpy as np

from input_pipeline.schema import UserError

# FFmpeg writes its complaints about damaged streams past Python straight to the terminal; -8 is its AV_LOG_QUIET.
# OpenCV reads the variable when it opens the first video.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

# One decoding thread: prepare already runs a process a core. Only FFmpeg is asked, since OpenCV's other readers would
# take a picture or a numbered name for a video.
_OPEN_OPTIONS = [cv2.CAP_PROP_N_THREADS, 1]

# The largest frame that H.264 knows, level 6.2: 139,264 macroblocks of 16x16 px, so 8192x4352. A header that claims more
# is damaged, or its frames want gigabytes each.
MAX_FRAME_PX = 139_264 * 256

# The longest side that a JPEG can have by libjpeg; a damaged header that claims 60000x2 px would be stored far beyond it.
MAX_SIDE_PX = 65_500

# OpenCV 5 moved it; it returns the level that was set before.
_set_log_level = cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel


def read_video(path: str | os.PathLike, short_side: int) -> np.ndarray:
    """Return all frames of a video file, uint8 RGB [F, H, W, 3], the smallest side `short_side` px.

    The long side is rounded to an even number; rotation metadata is obeyed. A file that breaks off gives the frames
    before the break. Raises UserError ("<path>: <reason>") when there is no such file, it cannot be opened, holds no
    frame, or has frames that are too large (`MAX_FRAME_PX`, `MAX_SIDE_PX` as stored).
    """
    return np.stack(list(iterate_frames(path, short_side)))


def iterate_frames(path: str | os.PathLike, short_side: int) -> Iterator[np.ndarray]:
    """Yield the frames that `read_video` returns, [H, W, 3] each, one at a time; the same errors."""
    capture = _open(path)
    try:
        claimed = (int(capture.get(what)) for what in (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH))
        _refuse_large(path, *claimed, short_side)
        ok, frame = capture.read()
        if not ok:
            raise UserError(f"{path}: holds no frame that can be decoded")
        _refuse_large(path, *frame.shape[:2], short_side)
        # All frames get the first one's size, also where the stream changes its size half-way.
        height, width = stored_size(*frame.shape[:2], short_side)
        while ok:
            yield to_stored(frame, height, width)
            ok, frame = capture.read()
    except cv2.error as error:
        raise UserError(f"{path}: cannot be decoded ({error.err})") from error
    finally:
        capture.release()


def probe_video(path: str | os.PathLike) -> tuple[int, float, int, int]:
    """Return (frames, frames per second, width, height) as the container states them: for estimates only.

    Raises UserError as `read_video` does, except that it does not look for a frame.
    """
    capture = _open(path)
    try:
        wanted = (cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        frames, fps, width, height = (capture.get(what) for what in wanted)
        return max(0, int(frames)), fps, int(width), int(height)
    finally:
        capture.release()


def stored_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Return (height, width) in px with the smaller one `short_side` and the longer one rounded to an even number."""
    assert short_side > 0, short_side
    if height == width:
        return short_side, short_side
    long_side = 2 * round(short_side * max(height, width) / min(height, width) / 2)
    return (short_side, long_side) if height < width else (long_side, short_side)


def _refuse_large(path: str | os.PathLike, height: int, width: int, short_side: int) -> None:
    """Raise UserError where frames of this size cannot be decoded or stored; a size of nothing says nothing."""
    if height * width > MAX_FRAME_PX:
        raise UserError(f"{path}: has frames of {width}x{height} px, more than {MAX_FRAME_PX:,} px each")
    if min(height, width) > 0 and max(stored_size(height, width, short_side)) > MAX_SIDE_PX:
        long_side = max(stored_size(height, width, short_side))
        raise UserError(
            f"{path}: has frames of {width}x{height} px, stored {long_side} px long: more than {MAX_SIDE_PX}"
        )


def _open(path: str | os.PathLike) -> cv2.VideoCapture:
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty")
    try:
        with quiet_opencv():
            capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, _OPEN_OPTIONS)
    except cv2.error as error:
        raise UserError(f"{path}: cannot be opened as a video ({error.err})") from error
    if not capture.isOpened():
        raise UserError(f"{path}: cannot be opened as a video")
    capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
    return capture


def _resize(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    if frame.shape[:2] == (height, width):
        return frame
    # INTER_AREA averages over the source pixels that a target pixel covers, so it does not alias when shrinking.
    shrinks = height < frame.shape[0]
    return cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def to_stored(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return a decoded BGR frame as it is stored: RGB, height x width px."""
    return cv2.cvtColor(_resize(frame, height, width), cv2.COLOR_BGR2RGB)


@contextlib.contextmanager
def quiet_opencv() -> Iterator[None]:
    """Keep OpenCV from warning on standard error of files that it cannot read; our own errors say so."""
    level = _set_log_level(0)
    try:
        yield
    finally:
        _set_log_level(level)
