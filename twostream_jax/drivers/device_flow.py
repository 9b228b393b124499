"""Flow of many videos on this process's devices: pairs of all callers, gathered into batches of a few fixed shapes.

Frames are padded to multiples of `BUCKET_PX`, so that videos of nearly one size share a program. Each batch is split over
the devices; each device runs loops of its own, that end when its own pairs are done.
"""

from __future__ import annotations

import atexit
import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import PartitionSpec

from input_pipeline.dataset_file import DATASET_FILE, read_dataset
from input_pipeline.fields import FlowFailed, failures_named
from input_pipeline.opencv_flow import compute_flow, grey
from input_pipeline.records_folder import interrupted_method
from input_pipeline.schema import DEVICE_METHODS, first_line
from input_pipeline.workers import usable_cores
from twostream_jax import flow as methods
from twostream_jax import mesh as meshes

# Sizes of one data set differ by a few px where aspect ratios do; a program more costs seconds, a pixel more its share.
BUCKET_PX = 32
# Pixels a device computes at once: 64 pairs of 352x256 px, which is work enough for it and takes a gigabyte.
PIXELS_AT_ONCE = 64 * 352 * 256
MOST_AT_ONCE = 64

AUTO = "jax_tvl1"


class _Method(NamedTuple):
    forward: Callable
    both: Callable
    # Another one when the values change by more than rounding: records of two versions are not mixed.
    version: str


_METHODS = {
    "jax_tvl1": _Method(methods.tvl1, methods.tvl1_both, "1"),
    "jax_brox": _Method(methods.brox, methods.brox_both, "1"),
}


@dataclass(eq=False)
class _Request:
    """Pairs of one caller, uint8 [N, H, W] each, and the fields found so far; `taken` of them are in work or done."""

    sources: np.ndarray
    targets: np.ndarray
    found: tuple[np.ndarray, ...]
    taken: int = 0
    done: int = 0
    error: Exception | None = None
    finished: threading.Event = field(default_factory=threading.Event)

    def wait(self) -> tuple[np.ndarray, ...]:
        """Return the fields, when all are there."""
        self.finished.wait()
        if self.error:
            raise FlowFailed(first_line(self.error)) from self.error
        return self.found


# (padded h, padded w, both directions): what decides over the program.
_Shape = tuple[int, int, bool]


class DeviceFlow:
    """Optical flow by a method of schema.DEVICE_METHODS; any number of threads may call it.

    Devices are touched at the first call. The flow of a pair does not hang on what else is in its batch.
    """

    def __init__(self, method: str, devices=None):
        assert method in _METHODS, method
        self._method, self._devices = method, devices
        self._changed = threading.Condition()
        self._waiting: dict[_Shape, list[_Request]] = {}
        self._threads: list[threading.Thread] = []
        self._closed = False
        self._compiling = threading.Lock()
        self._programs: dict[_Shape, Callable] = {}

    def __call__(self, sources: np.ndarray, targets: np.ndarray, both: bool) -> Callable[[], tuple[np.ndarray, ...]]:
        """Begin on the flow from each source to its target, uint8 [N, H, W]; return what waits for it.

        That returns (forward,) or, with `both`, (forward, backward), float32 [N, H, W, 2] px; FlowFailed where a
        device fails.
        """
        found = tuple(np.empty((*sources.shape, 2), np.float32) for _ in range(2 if both else 1))
        request = _Request(sources, targets, found)
        if not len(sources):
            request.finished.set()
            return request.wait
        with self._changed:
            self._begin()
            height, width = map(_padded, sources.shape[1:3])
            self._waiting.setdefault((height, width, both), []).append(request)
            self._changed.notify()
        return request.wait

    def pairs_at_once(self, height: int, width: int) -> int:
        """Return how many pairs of this size a batch holds; on a CPU as many as its cores compute side by side."""
        mesh = self._mesh()
        if _on_cpu(mesh):
            return usable_cores() * mesh.devices.size
        return _batch(_padded(height) * _padded(width)) * mesh.devices.size

    def takes_cores(self) -> bool:
        """Return whether the device is the CPU."""
        return _on_cpu(self._mesh())

    def where(self) -> str:
        """Return the devices in words: 2 x NVIDIA H200."""
        devices = self._mesh().devices
        return f"{devices.size} x {devices.flat[0].device_kind}"

    def _mesh(self) -> jax.sharding.Mesh:
        return meshes.make_mesh(jax.local_devices() if self._devices is None else self._devices)

    def _begin(self) -> None:
        """Start the threads, once; called with the lock held."""
        if self._threads:
            return
        mesh = self._mesh()
        # A CPU computes one pair a thread; on an accelerator one batch computes while another is on its way.
        count = usable_cores() if _on_cpu(mesh) else 2
        self._threads = [threading.Thread(target=self._work, args=(mesh,), daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()
        # What still computes when Python ends would find its devices gone.
        atexit.register(self._close)

    def _close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self, mesh: jax.sharding.Mesh) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                shape = next(iter(self._waiting))
                each = 1 if _on_cpu(mesh) else _batch(shape[0] * shape[1])
                pieces = self._take(shape, each * mesh.devices.size)
            try:
                self._compute(shape, pieces, each * mesh.devices.size, mesh)
            # Whatever a device raises is its callers' to hear.
            except Exception as error:
                for request, _, _ in pieces:
                    request.error = error
                    request.finished.set()

    def _take(self, shape: _Shape, batch: int) -> list[tuple[_Request, int, int]]:
        """Return (request, first, end) of up to `batch` pairs, the oldest first; called with the lock held."""
        pieces, left = [], batch
        requests = self._waiting.pop(shape)
        while requests and left:
            request = requests[0]
            end = min(len(request.sources), request.taken + left)
            pieces.append((request, request.taken, end))
            left -= end - request.taken
            request.taken = end
            if end == len(request.sources):
                requests.pop(0)
        if requests:
            # Behind the other shapes, so that none of them waits for ever.
            self._waiting[shape] = requests
            self._changed.notify()
        return pieces

    def _compute(self, shape: _Shape, pieces: list[tuple[_Request, int, int]], batch: int, mesh) -> None:
        """Fill in the fields of these pieces of requests; a batch with places to spare repeats its first pair there."""
        height, width, both = shape
        frames, sizes = np.zeros((2, batch, height, width), np.uint8), np.empty((batch, 2), np.int32)
        row = 0
        for request, first, end in pieces:
            h, w = request.sources.shape[1:3]
            rows = slice(row, row + end - first)
            frames[0, rows, :h, :w], frames[1, rows, :h, :w] = request.sources[first:end], request.targets[first:end]
            sizes[rows] = h, w
            row += end - first
        frames[:, row:], sizes[row:] = frames[:, :1], sizes[0]
        put = [jax.device_put(array, meshes.sharded_rows(mesh)) for array in (*frames, sizes)]
        fields = self._program(shape, put, mesh)(*put)
        self._hand_out(pieces, [np.asarray(found) for found in (fields if both else (fields,))])

    def _program(self, shape: _Shape, put: list[jax.Array], mesh: jax.sharding.Mesh) -> Callable:
        """Return the program for batches like `put`, compiled once whoever asks."""
        with self._compiling:
            if shape not in self._programs:
                method, rows = _METHODS[self._method], PartitionSpec("data")
                compute = method.both if shape[2] else method.forward
                # Not one loop for all devices, which would have to agree in each turn whether it goes on.
                split = jax.shard_map(compute, mesh=mesh, in_specs=(rows,) * 3, out_specs=rows, check_vma=False)
                self._programs[shape] = jax.jit(split).lower(*put).compile()
            return self._programs[shape]

    def _hand_out(self, pieces: list[tuple[_Request, int, int]], fields: list[np.ndarray]) -> None:
        row = 0
        for request, first, end in pieces:
            h, w = request.sources.shape[1:3]
            for found, computed in zip(request.found, fields, strict=True):
                found[first:end] = computed[row : row + end - first, :h, :w]
            row += end - first
            with self._changed:
                request.done += end - first
                if request.done == len(request.sources):
                    request.finished.set()


@functools.cache
def device_flow(method: str) -> DeviceFlow | None:
    """Return the flow of a method that jax computes, one for the whole process; None for OpenCV's and for none."""
    return DeviceFlow(method) if method in DEVICE_METHODS else None


def flow_between_frames(frames: np.ndarray, method: str) -> np.ndarray:
    """Return the flow between neighbours of uint8 frames [F, H, W, 3] by any method, float32 [F-1, H, W, 2] px.

    Raises UserError where a device fails.
    """
    engine, planes = device_flow(method), grey(frames)
    if engine is None:
        return compute_flow(planes, method)
    with failures_named(method):
        return engine(planes[:-1], planes[1:], False)()[0]


def flow_version(method: str) -> str:
    """Return which version of a device method this is; "" of the others."""
    return _METHODS[method].version if method in DEVICE_METHODS else ""


def resolve(method: str, records: Path | None = None, tell=None) -> str:
    """Return the method that `flow.method` means, and tell stdout, or the stream `tell`, what `auto` means here.

    No device is touched. auto is what the flow in the folder `records` was made by, where there is some, also unfinished,
    else jax_tvl1: on an accelerator nothing is as good and as fast, and a CPU takes an eighth of the time that OpenCV's
    TV-L1 does (docs/flow.md).
    """
    if method != "auto":
        return method
    if records and (records / DATASET_FILE).is_file():
        flow = read_dataset(records).flow
        if flow and flow.method != "given":
            print(f"flow.method=auto: {flow.method}, as in {records}", file=tell)
            return flow.method
    elif records and (begun := interrupted_method(records)) not in (None, "none"):
        print(f"flow.method=auto: {begun}, as in the interrupted run in {records}", file=tell)
        return begun
    print(f"flow.method=auto: {AUTO}", file=tell)
    return AUTO


def _on_cpu(mesh: jax.sharding.Mesh) -> bool:
    return mesh.devices.flat[0].platform == "cpu"


def _padded(side_px: int) -> int:
    return -(-side_px // BUCKET_PX) * BUCKET_PX


def _batch(pixels: int) -> int:
    """Return how many pairs of so many pixels a device computes at once: a power of two, so that few shapes arise."""
    fits = min(MOST_AT_ONCE, max(1, PIXELS_AT_ONCE // pixels))
    return 1 << (fits.bit_length() - 1)
