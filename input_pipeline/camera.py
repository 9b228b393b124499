"""A camera or stream as moments: a thread reads it all the time, and what nobody has time for is dropped and counted."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import cv2
import numpy as np

from input_pipeline.moments import Moment, usable_rate
from input_pipeline.schema import UserError, shown_name
from input_pipeline.videos import quiet_opencv, stored_size, to_stored

# How often, while a frame is waited for, it is looked whether to stop.
_LOOK_S = 0.1


class Camera:
    """The moments of whatever `cv2.VideoCapture` opens: a camera's number, a device's path, a stream's URL.

    Frames keep their arrival times, seconds since the first. A file stands for a camera: its frames arrive at its own
    rate. Frames wait in a queue for the hop of `hop_s` seconds and `lead` frames that they will be of; where that is not
    taken in time the oldest are dropped, so that an answer is never older than what it took to compute it.
    """

    total = None  # frames: nobody knows

    def __init__(
        self,
        source: str,
        short_sides: Sequence[int],
        *,
        hop_s: float,
        lead: int,
        seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], None] = time.sleep,
    ):
        """Raises UserError naming the camera where there is none or it gives no frame. `seconds`: None never ends."""
        self._hop_s, self._lead, self._seconds = hop_s, lead, seconds
        self._clock, self._wait = clock, wait
        self._capture, self._first = _open(source)
        self._size_of = {side: stored_size(*self._first.shape[:2], side) for side in short_sides}
        self.rate = usable_rate(self._capture.get(cv2.CAP_PROP_FPS))  # frames per second
        self._paced = os.path.isfile(source)
        self.dropped = 0  # frames
        self._queue: deque[Moment] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._read, name="camera", daemon=True)

    def moments(self, stopped: Callable[[], bool] = lambda: False) -> Iterator[Moment]:
        """Yield frames as they arrive, until there are no more, `seconds` have passed, or `stopped` says so."""
        self._thread.start()
        while not stopped():
            with self._changed:
                if not self._queue and not self._ended:
                    self._changed.wait(_LOOK_S)
                if not self._queue and self._ended:
                    return
                moment = self._queue.popleft() if self._queue else None
            if moment is not None:
                yield moment

    def first(self) -> Moment:
        """Return what was seen when it was opened."""
        return self._moment(self._first, 0.0)

    def close(self) -> None:
        """End the reading and let the camera go."""
        self._ended = True
        if self._thread.ident is None:
            self._capture.release()
            return
        # A camera that hangs keeps its thread, which ends with the program.
        self._thread.join(timeout=2.0)
        if not self._thread.is_alive():
            self._capture.release()

    def _read(self) -> None:
        # Since a camera was opened time has passed, a file has waited.
        frame = self._first if self._paced else _next(self._capture)
        begun, number = self._clock(), 0
        while frame is not None and not self._ended:
            arrival_s = self._clock() - begun
            if self._seconds is not None and arrival_s >= self._seconds:
                break
            self._put(self._moment(frame, arrival_s))
            number += 1
            if self._paced:
                self._wait(max(0.0, begun + number / self.rate - self._clock()))
            frame = _next(self._capture)
        with self._changed:
            self._ended = True
            self._changed.notify()

    def _moment(self, frame: np.ndarray, arrival_s: float) -> Moment:
        return Moment(arrival_s, arrival_s, {side: to_stored(frame, *size) for side, size in self._size_of.items()})

    def _put(self, moment: Moment) -> None:
        with self._changed:
            self._queue.append(moment)
            # The oldest is spare where the others after it are still a lead and a whole hop.
            while len(self._queue) > self._lead + 2 and self._spans(moment.end_s):
                self._queue.popleft()
                self.dropped += 1
                self._queue[0] = replace(self._queue[0], follows=False)
            self._changed.notify()

    def _spans(self, end_s: float) -> bool:
        return end_s - self._queue[self._lead + 1].start_s >= self._hop_s - 1e-6


def _open(source: str) -> tuple[cv2.VideoCapture, np.ndarray]:
    """Return the opened camera and its first frame; numbers are cameras of this machine."""
    known = "name a camera by its number, such as 0, by its device, such as /dev/video0, or by a stream's URL"
    # Python keeps a byte that is no UTF-8 as half a surrogate pair, at which OpenCV 5.0 ends the process.
    if any("\ud800" <= letter <= "\udfff" for letter in source):
        raise UserError(f"--camera={source}: is not UTF-8; {known}")
    try:
        with quiet_opencv():
            capture = open_capture(source)
    except cv2.error as error:
        raise UserError(f"--camera={shown_name(source)}: cannot be opened ({error.err}); {known}") from error
    if not capture.isOpened():
        raise UserError(f"--camera={shown_name(source)}: there is no such camera, or it is in use; {known}")
    frame = _next(capture)
    if frame is None:
        capture.release()
        raise UserError(f"--camera={shown_name(source)}: gives no frame; see whether another program uses it")
    return capture, frame


def open_capture(source: str) -> cv2.VideoCapture:
    """Return OpenCV's capture of a camera's number, or of a device, stream or file by name."""
    if os.path.isfile(source):
        return cv2.VideoCapture(source, cv2.CAP_FFMPEG)
    return cv2.VideoCapture(int(source)) if source.isdecimal() else cv2.VideoCapture(source)


def _next(capture: cv2.VideoCapture) -> np.ndarray | None:
    """Return the next frame, BGR, or None where there is none any more."""
    try:
        ok, frame = capture.read()
    except cv2.error:
        return None
    return frame if ok else None
