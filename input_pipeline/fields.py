"""The records of one video's flow: fields computed chunk by chunk, quantised, coded, and what they are like on average."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

import cv2
import numpy as np

from input_pipeline import camera_motion, codecs, dct, dct_record, opencv_flow
from input_pipeline.flow_facts import FlowSums
from input_pipeline.schema import UserError, quantise_flow

if TYPE_CHECKING:
    from input_pipeline.stages import PrepareSettings

# Begins on the flow of pairs of frames, uint8 [N, H, W] sources and targets, and returns what waits for it: (forward,), or
# with True (forward, backward), float32 [N, H, W, 2] px each. Whoever computes elsewhere lets the caller go on meanwhile.
StartFlow = Callable[[np.ndarray, np.ndarray, bool], Callable[[], tuple[np.ndarray, ...]]]


class FlowEngine(Protocol):
    """A `StartFlow` on devices, which take several pairs at once."""

    def __call__(self, sources: np.ndarray, targets: np.ndarray, both: bool) -> Callable[[], tuple[np.ndarray, ...]]:
        """Begin on the flow of pairs, see `StartFlow`."""

    def pairs_at_once(self, height: int, width: int) -> int:
        """Return how many pairs of frames of this size, px, the devices compute together."""

    def takes_cores(self) -> bool:
        """Return whether the devices are the cores that worker processes run on."""


class FlowFailed(RuntimeError):
    """Devices failed: no fault of the video's, so that the run must end."""


@contextlib.contextmanager
def failures_named(method: str) -> Iterator[None]:
    """Turn a FlowFailed into the UserError that names the method and what the device says."""
    try:
        yield
    except FlowFailed as error:
        raise UserError(
            f"flow.method={method}: the device fails ({error}); the same command continues where it was"
        ) from error


# A method of schema.DEVICE_METHODS -> what computes it.
DeviceFlow = Callable[[str], FlowEngine]

# Below this a video's own bound says nothing, and a still video would divide by zero.
_SMALLEST_BOUND_PX = 1e-3


class Fields:
    """The records of a video's flow.

    The bound `video` is known only at the end: then the float flow of all fields is held until there.
    """

    def __init__(self, name: str, settings: PrepareSettings, start_flow: StartFlow | None = None):
        """`start_flow` computes the methods that are not OpenCV's."""
        self._name, self._settings = name, settings
        # Nothing to wait for: what is held is held no longer than it must be.
        self._inline = start_flow is None
        self._start = start_flow or opencv_starter(settings.method)
        self._records: dict[str, list[bytes]] = {folder: [] for folder in settings.folders[1:]}
        self._held: dict[str, list[np.ndarray]] = {folder: [] for folder in settings.folders[1:]}
        self._waiting: Callable[[], dict[str, np.ndarray]] | None = None
        self._largest = _SMALLEST_BOUND_PX
        self.sums = FlowSums()
        self.bound_px: float | None = None
        if self._records and settings.bound_px != "video":
            self.bound_px = float(settings.bound_px)

    def add(self, planes: np.ndarray) -> None:
        """Take the flow between these grey frames [F, H, W], the first of which is the last of the call before."""
        if len(planes) < 2:
            return
        # The flow before is fetched first, since whoever computes it may take one request at a time; it is coded while
        # this one is computed, and the caller decodes the next frames meanwhile.
        waiting, self._waiting = self._waiting, None
        before = waiting() if waiting else {}
        self._waiting = self._begin(planes)
        self._take(before)
        if self._inline:
            self._take(self._waiting())
            self._waiting = None

    def drop(self) -> None:
        """Let flow that was begun come to its end, unseen: of a video that turns out to be damaged, say."""
        waiting, self._waiting = self._waiting, None
        if waiting:
            waiting()

    def finish(self) -> dict[str, list[bytes]]:
        """Return {folder: records} of all fields."""
        if self._waiting:
            waiting, self._waiting = self._waiting, None
            self._take(waiting())
        if self._records and self.bound_px is None:
            self.bound_px = self._largest
        for folder, held in self._held.items():
            for flow in held:
                self._encode(folder, flow)
        return self._records

    def _begin(self, planes: np.ndarray) -> Callable[[], dict[str, np.ndarray]]:
        """Begin on the flow between neighbours; return what waits for it, by folder."""
        folders, first, second = list(self._records), planes[:-1], planes[1:]
        if not self._settings.camera_compensation:
            both = self._start(first, second, len(folders) == 2)
            return lambda: dict(zip(folders, both(), strict=True))
        # One after the other: whoever computes may take one request at a time.
        flow, wait = {}, self._start(first, _steadied(first, second), False)
        if len(folders) == 2:
            flow["flow"], wait = wait()[0], self._start(second, _steadied(second, first), False)
        return lambda: flow | {folders[-1]: wait()[0]}

    def _take(self, flow_by_folder: dict[str, np.ndarray]) -> None:
        for folder, flow in flow_by_folder.items():
            if self.bound_px is None:
                self._largest = max(self._largest, float(np.abs(flow).max()))
                self._held[folder].append(flow)
            else:
                self._encode(folder, flow)

    def _encode(self, folder: str, flow: np.ndarray) -> None:
        records = self._records[folder]
        for field in flow:
            records.append(_field_record(self._name, len(records), field, self.bound_px, self._settings))
            self.sums.add(field, self.bound_px)


def opencv_starter(method: str) -> StartFlow:
    """Return a `StartFlow` that computes by an OpenCV method at once, in this thread.

    It raises UserError when the method refuses the frames; DIS does below 12 px.
    """

    def start(sources: np.ndarray, targets: np.ndarray, both: bool) -> Callable[[], tuple[np.ndarray, ...]]:
        try:
            flow = [opencv_flow.flow_of_pairs(sources, targets, method)]
            flow += [opencv_flow.flow_of_pairs(targets, sources, method)] if both else []
        except cv2.error as error:
            size = f"{sources.shape[2]}x{sources.shape[1]}"
            raise UserError(f"flow.method {method} fails on frames of {size} px ({error.err})") from error
        return lambda: tuple(flow)

    return start


def _steadied(sources: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return the targets [N, H, W] as they would be had the camera not moved since the sources."""
    pairs = zip(sources, targets, strict=True)
    return np.stack([camera_motion.without_camera_motion(a, b, camera_motion.homography(a, b)) for a, b in pairs])


def _field_record(name: str, index: int, flow: np.ndarray, bound_px: float, settings: PrepareSettings) -> bytes:
    if settings.codec == "jpeg":
        x, y = codecs.encode_field(quantise_flow(flow, bound_px).transpose(2, 0, 1))
        return codecs.serialise_field(name, index, x, y, codecs.mean_of_stored(x, y, bound_px))
    coefficients, size = dct.code_field(flow, bound_px, settings.dct_planes), flow.shape[:2]
    mean = dct.mean_of_coded(coefficients, dct.OWN_CODING, bound_px, size)
    return dct_record.serialise_field(name, index, coefficients, dct.OWN_CODING, mean, size)
