"""--annotate=out.mp4: an MP4 of what is predicted, drawn piece by piece; it appears under its name when it is whole."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from input_pipeline.schema import UserError, dequantise_flow
from input_pipeline.store import Records
from input_pipeline.videos import quiet_opencv
from twostream_jax.files import cannot_write
from twostream_jax.report.annotated import Column, Layout, label_panel, rim_px, wheel_legend

# H.264, which every player and browser shows but which the wheels of OpenCV have no encoder for; MPEG-4 part 2, for which
# they have one.
CODECS = ("avc1", "mp4v")
# Frames read from the records at once.
_AT_ONCE = 32
# Of a field every this many px, and so many fields, decide about the scale.
_SCALE_STEP, _SCALE_FIELDS = 4, 64


class Annotation:
    """The video `path`: one picture a frame, with the frame as stored, its flow, and the top classes of each stream.

    The field beside a frame is the one from it to the next, as it was scored; a last frame, also before missing ones, has
    grey in its place. All fields are drawn to one scale: that of those of the first `draw` (of a whole video all of them);
    see `rim_px`. Times become places in a video of constant rate: where frames are missing, the last picture stays.
    """

    def __init__(self, path: Path):
        """Raises UserError for a path that cannot become an MP4, and where no codec works."""
        self.path = path
        _check_place(path)
        self._codec = _working_codec(path)
        self._writer: cv2.VideoWriter | None = None
        self._written = 0
        self._last: np.ndarray | None = None
        self._layout: Layout | None = None
        self._waiting: tuple[np.ndarray, float] | None = None  # the frame whose field is in the next records, its time
        self._panel = np.empty(0)

    @contextlib.contextmanager
    def writing(self, rate: float) -> Iterator[None]:
        """Write the video inside, at `rate` frames per second; what was not finished is removed."""
        # MPEG-4 counts at most 65,535 ticks a second.
        self._rate = round(rate, 3 if rate < 65 else 1)
        with _aside(self.path) as self._aside:
            try:
                yield
            finally:
                if self._writer is not None:
                    self._writer.release()

    def draw(
        self,
        records: Records,
        new: int,
        times: Sequence[float],
        answer: dict,
        *,
        heading: str = "",
        on_progress: Callable[[int], None] = lambda done: None,
    ) -> None:
        """Draw the last `new` frames of a video's records, seen at `times` seconds, and the one before if it waits.

        The last one waits for its field, if there is flow: it is drawn by the next `draw`, or when the video is finished.
        `answer` is that of mode=predict. `on_progress(frames done)` is called as it goes.
        """
        stored = records.videos[0]
        with_flow = stored.flow is not None
        if self._layout is None:
            self._begin(records)
        follows = self._waiting is not None and stored.frames > new
        if not follows:
            self._draw_waiting()
        first, stop = stored.frames - new - follows, stored.frames - with_flow
        if follows:
            times = [self._waiting[1], *times]
            self._waiting = None
        self._panel = label_panel(columns(answer), self._layout.panel_width, heading)
        for start in range(first, stop, _AT_ONCE):
            end = min(start + _AT_ONCE, stop)
            frames = records.frames(0, range(start, end))
            fields = _fields(records, start, end - start) if with_flow else [None] * len(frames)
            for i, (frame, field) in enumerate(zip(frames, fields, strict=True), start):
                self._put(self._picture(frame, field), times[i - first])
            on_progress(end - first)
        if with_flow:
            self._waiting = records.frames(0, [stored.frames - 1])[0], times[-1]
        on_progress(stored.frames - first)

    def finish(self) -> None:
        """Draw what waits and give the video its name, once it has been read again; UserError where it is not whole."""
        self._draw_waiting()
        if self._writer is None:
            return
        self._writer.release()
        found = _count_frames(self._aside)
        if found != self._written:
            raise UserError(
                f"--annotate={self.path}: {found} of {self._written} frames can be read again; see whether the disk is full"
            )
        try:
            os.replace(self._aside, self.path)
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def _begin(self, records: Records) -> None:
        stored = records.videos[0]
        self._layout, self._rim = Layout(stored.height, stored.width, stored.flow is not None), 0.0
        if stored.flow is not None:
            places = np.unique(np.linspace(0, stored.frames - 2, _SCALE_FIELDS).astype(int))
            some = [_fields(records, int(i), 1)[0, ::_SCALE_STEP, ::_SCALE_STEP] for i in places]
            self._rim = rim_px(np.stack(some), stored.bound_px)
        self._legend = wheel_legend(self._rim, self._layout.factor * stored.height)

    def _picture(self, frame: np.ndarray, field: np.ndarray | None) -> np.ndarray:
        return self._layout.picture(frame, field, self._rim, self._legend, self._panel)

    def _draw_waiting(self) -> None:
        """Draw the frame that waits without a field."""
        if self._waiting is not None:
            frame, time_s = self._waiting
            self._put(self._picture(frame, None), time_s)
            self._waiting = None

    def _put(self, picture: np.ndarray, time_s: float) -> None:
        """Write a picture at its place in time; one whose place is taken is left out."""
        place = round(time_s * self._rate)
        if self._writer is None:
            height, width = picture.shape[:2]
            code = cv2.VideoWriter_fourcc(*self._codec)
            with quiet_opencv():
                self._writer = cv2.VideoWriter(str(self._aside), cv2.CAP_FFMPEG, code, self._rate, (width, height))
            if not self._writer.isOpened():
                raise UserError(
                    f"--annotate={self.path}: OpenCV writes no {width}x{height} px at {self._rate} per second"
                )
        while self._written < place and self._last is not None:
            self._write(self._last)
        if self._written <= place:
            self._write(picture)
        self._last = picture

    def _write(self, picture: np.ndarray) -> None:
        self._writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        self._written += 1


def columns(answer: dict) -> list[Column]:
    """Return the columns of a `label_panel`: the streams of an answer of mode=predict, and what is fused."""
    named = {**answer["streams"], **({"fused": answer["fused"]} if "fused" in answer else {})}
    found = []
    for name, shown in named.items():
        by_title = (
            {name: shown["top"]} if "top" in shown else {f"{name}, {k}": top for k, top in shown["tasks"].items()}
        )
        found += [(t, [(e["class"], e["probability"]) for e in top]) for t, top in by_title.items()]
    return found


def _fields(records: Records, first: int, count: int) -> np.ndarray:
    """Return fields as they were scored, float32 [count, H, W, 2] px per frame."""
    levels, _, bound_px = records.flow(0, first, count)
    return dequantise_flow(levels, bound_px)


def _check_place(path: Path) -> None:
    # Python keeps a byte that is no UTF-8 as half a surrogate pair, at which OpenCV 5.0 ends the process.
    if any("\ud800" <= letter <= "\udfff" for letter in str(path)):
        raise UserError(f"--annotate={path}: is not UTF-8, give another name")
    if path.suffix != ".mp4" or path.is_dir() or not path.parent.is_dir():
        raise UserError(f"--annotate={path}: must be a .mp4 in a folder that exists")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"--annotate={path}: {path.parent} cannot be written to; name another folder")


@contextlib.contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """Yield the name of a new file beside `path`, which is removed where it still is there in the end."""
    try:
        file, name = tempfile.mkstemp(prefix=f".{path.stem[:50]}-", suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    os.close(file)
    # As other files that are made here, not for the user's eyes alone.
    os.chmod(name, 0o666 & ~_umask())
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _umask() -> int:
    """Return the process's mask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _working_codec(path: Path) -> str:
    """Return the first of `CODECS` in which a frame can be written to that folder and read again."""
    with _aside(path) as aside, quiet_opencv():
        for codec in CODECS:
            writer = cv2.VideoWriter(str(aside), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*codec), 25, (64, 64))
            writer.write(np.zeros((64, 64, 3), np.uint8))
            writer.release()
            if _count_frames(aside) == 1:
                return codec
    raise UserError(
        f"--annotate={path}: OpenCV writes none of {', '.join(CODECS)} there; see whether the disk is full, and install "
        "opencv-contrib-python-headless, whose wheels have MPEG-4"
    )


def _count_frames(path: Path) -> int:
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    count = 0
    while capture.isOpened() and capture.grab():
        count += 1
    capture.release()
    return count
