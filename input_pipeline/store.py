"""Record files, read: any frame or flow field of a prepared data set in one small read each.

A records folder holds `dataset.json`, `quarantine.jsonl` and, of `rgb/`, `flow/` and `flow_backward/`, those that were
asked for: ArrayRecord files with one serialised tf.train.Example a record (see `codecs`). A video of F frames has F
records in rgb/ and F - 1 in flow/: field i moves frame i to frame i+1, and flow_backward's field i moves frame i+1 back
to frame i. A video's records lie one after another in a single file. Flow of `data.codec=dct` lies in files of its own
(`dct_store`).
"""

from __future__ import annotations

import os
import pathlib
import threading
from collections.abc import Sequence

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from input_pipeline import codecs
from input_pipeline.dataset_file import DATASET_FILE, Dataset, read_dataset
from input_pipeline.dct_store import DctFolder, Stack
from input_pipeline.schema import UserError, quantise_flow

# Random access: read the record's own bytes and nothing around them, in the calling thread.
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"


class Records:
    """A prepared data set. `len` is the number of videos; `video` below is a position in `.videos`, sorted by name.

    May be shared between threads, and pickled: files open at the first read in each process. A read touches only the
    wanted records. Raises UserError when dataset.json or a record file is missing or not what dataset.json says, and
    IndexError for a video, frame or field that does not exist.
    """

    def __init__(self, path: str | os.PathLike, dataset: Dataset | None = None):
        self.path = pathlib.Path(path)
        self.dataset = dataset or read_dataset(self.path)
        self.videos = self.dataset.videos
        self._readers: dict[tuple[str, int], ArrayRecordReader] = {}
        self._lock = threading.Lock()
        folders = {folder: files for folder, files in self.dataset.files.items() if self.dataset.has_dct(folder)}
        self._dct = {folder: DctFolder(self.path / folder, files) for folder, files in folders.items()}

    def __len__(self) -> int:
        return len(self.videos)

    def __getstate__(self) -> dict:
        return {"path": self.path, "dataset": self.dataset}

    def __setstate__(self, state: dict) -> None:
        self.__init__(**state)

    def frames(self, video: int, indices: Sequence[int]) -> np.ndarray:
        """Return the frames at `indices` (from 0, any order), uint8 RGB [n, H, W, 3]."""
        images = self.frame_jpegs(video, indices)
        frames = np.empty((len(images), *self._size(video), 3), np.uint8)
        for frame, image, i in zip(frames, images, indices, strict=True):
            frame[:] = self.frame(image, video, i)
        return frames

    def flow(self, video: int, i: int, count: int, backward: bool = False) -> tuple[np.ndarray, np.ndarray, float]:
        """Return `count` fields from field i on: levels uint8 [count, H, W, 2], means float32 [count, 2] px, bound px.

        `schema.dequantise_flow(levels, bound)` gives px per frame, of DCT records rounded to levels. Means are those of
        whole fields as stored.
        """
        folder = _flow_folder(backward)
        if folder in self._dct:
            return self._decoded_flow(folder, video, i, count)
        fields = self.field_jpegs(video, range(i, i + count), backward)
        levels = np.empty((count, *self._size(video), 2), np.uint8)
        for k, (x, y, _) in enumerate(fields):
            levels[k, ..., 0], levels[k, ..., 1] = (self.plane(jpeg, video, i + k, folder) for jpeg in (x, y))
        means = np.array([mean for _, _, mean in fields], np.float32).reshape(count, 2)
        return levels, means, self.videos[video].bound_px

    def _decoded_flow(self, folder: str, video: int, i: int, count: int) -> tuple[np.ndarray, np.ndarray, float]:
        stored, place = self.videos[video], self._place(folder, video, range(i, i + count))
        levels = np.empty((count, *self._size(video), 2), np.uint8)
        means = np.empty((count, 2), np.float32)
        for k in range(count):
            px, means[k] = self._dct[folder].field(place, stored.name, i + k, stored.bound_px)
            levels[k] = quantise_flow(self._sized(px, folder, video, i + k), stored.bound_px)
        return levels, means, stored.bound_px

    def planes(self, backward: bool = False) -> tuple[int, ...]:
        """Return the DCT planes that windows of a direction's fields must have to be exact; () of JPEGs.

        Plane 0 is always among them, so that windows of flow that is zero everywhere have some.
        """
        folder = _flow_folder(backward)
        return tuple(sorted({0, *self._dct[folder].planes})) if folder in self._dct else ()

    def read_planes(
        self,
        video: int,
        indices: Sequence[int],
        planes: tuple[int, ...],
        corner: tuple[int, int],
        out: np.ndarray,
        backward: bool = False,
    ) -> Stack:
        """Fill windows of DCT fields, zero before, from the block `corner` on; see `DctFolder.read_stack`."""
        folder = _flow_folder(backward)
        place = self._place(folder, video, indices)
        stack = self._dct[folder].read_stack(place, self.videos[video].name, indices, planes, corner, out)
        self._check_size(stack.size, folder, video, int(indices[0]))
        return stack

    def frame_jpegs(self, video: int, indices: Sequence[int]) -> list[bytes]:
        """Return the JPEGs of the frames at `indices` (from 0, any order, repeats allowed)."""
        records = self._read("rgb", video, indices)
        images = []
        for record, i in zip(records, indices, strict=True):
            name, index, image = self._decode(codecs.parse_frame, record, "rgb", video, i)
            self._check(name, index, "rgb", video, i)
            images.append(image)
        return images

    def field_jpegs(
        self, video: int, indices: Sequence[int], backward: bool = False
    ) -> list[tuple[bytes, bytes, np.ndarray]]:
        """Return (x JPEG, y JPEG, mean float32 [2] px) of the fields at `indices`, as `frame_jpegs` does of frames."""
        folder = _flow_folder(backward)
        assert folder not in self._dct, f"{self.path / folder} holds no JPEGs"
        records = self._read(folder, video, indices)
        fields = []
        for record, i in zip(records, indices, strict=True):
            name, index, x, y, mean = self._decode(codecs.parse_field, record, folder, video, i)
            self._check(name, index, folder, video, i)
            fields.append((x, y, mean))
        return fields

    def raw(self, folder: str, video: int) -> list[bytes]:
        """Return all of a video's records in `folder` as they lie there; nothing is decoded."""
        stored = self.videos[video]
        count = stored.frames if folder == "rgb" else stored.frames - 1
        if folder in self._dct:
            return self._dct[folder].raw(self._place(folder, video, range(count)), stored.name, count)
        return self._read(folder, video, range(count))

    def frame(self, jpeg: bytes, video: int, index: int) -> np.ndarray:
        """Return the frame [H, W, 3] of a JPEG that `frame_jpegs` gave; UserError where it is damaged."""
        return self._sized(self._decode(codecs.decode_frame, jpeg, "rgb", video, index), "rgb", video, index)

    def plane(self, jpeg: bytes, video: int, index: int, folder: str = "flow") -> np.ndarray:
        """Return one component's levels [H, W] of a JPEG that `field_jpegs` gave; UserError where it is damaged."""
        return self._sized(self._decode(codecs.decode_grey, jpeg, folder, video, index), folder, video, index)

    def check(self, folder: str, video: int, index: int) -> None:
        """Raise UserError unless one record can be read and decoded, and is of its video and of the video's size."""
        if folder == "rgb":
            (jpeg,) = self.frame_jpegs(video, [index])
            self.frame(jpeg, video, index)
            return
        if folder in self._dct:
            self._decoded_flow(folder, video, index, 1)
            return
        ((x, y, _),) = self.field_jpegs(video, [index], folder == "flow_backward")
        self.plane(x, video, index, folder)
        self.plane(y, video, index, folder)

    def _sized(self, image: np.ndarray, folder: str, video: int, index: int) -> np.ndarray:
        self._check_size(image.shape[:2], folder, video, index)
        return image

    def _check_size(self, found: tuple[int, int], folder: str, video: int, index: int) -> None:
        height, width = self._size(video)
        if found != (height, width):
            raise UserError(
                f"{self._whereabouts(folder, video, index)}: is {found[1]}x{found[0]} px, {DATASET_FILE} says "
                f"{width}x{height}; run --mode=prepare --verify"
            )

    def _place(self, folder: str, video: int, indices: Sequence[int]) -> tuple[int, int]:
        """Return (file's number, first record) of a video; raise unless the records at `indices` exist."""
        if not 0 <= video < len(self.videos):
            raise IndexError(f"video {video} of {len(self.videos)} in {self.path}")
        stored = self.videos[video]
        place = getattr(stored, folder)
        if place is None:
            remedies = {"rgb": "its RGB frames", "flow": "a flow.method other than none"}
            remedy = remedies.get(folder, "flow.backward=True")
            raise UserError(f"data.records: {self.path} holds no {folder}; prepare another folder with {remedy}")
        limit = stored.frames if folder == "rgb" else stored.frames - 1
        for i in indices:
            if not 0 <= i < limit:
                raise IndexError(f"{stored.name}: {folder} record {i} of {limit}")
        return place

    def _read(self, folder: str, video: int, indices: Sequence[int]) -> list[bytes]:
        number, first = self._place(folder, video, indices)
        if not len(indices):
            return []
        try:
            reader = self._reader(folder, number)
            # One by one: asked for several at once it takes more than twice the time.
            return [reader.read([first + int(i)])[0] for i in indices]
        except RuntimeError as error:
            where = self._whereabouts(folder, video, indices[0])
            raise UserError(f"{where}: cannot be read, run --mode=prepare --verify ({error})") from error

    def _reader(self, folder: str, number: int) -> ArrayRecordReader:
        with self._lock:
            reader = self._readers.get((folder, number))
            if reader is None:
                reader = self._readers[folder, number] = self._open(folder, number)
            return reader

    def _open(self, folder: str, number: int) -> ArrayRecordReader:
        file = self._file(folder, number)
        # The reader opens a missing or truncated file without complaint and finds no records in it.
        if not file.is_file():
            raise UserError(f"{file}: no such file, but {DATASET_FILE} lists it; run --mode=prepare --verify")
        reader = ArrayRecordReader(str(file), _READER_OPTIONS)
        wanted, found = self.dataset.files[folder][number].records, reader.num_records()
        if found != wanted:
            raise UserError(
                f"{file}: holds {found} records instead of {wanted}; it is damaged, run --mode=prepare --verify"
            )
        return reader

    def _file(self, folder: str, number: int) -> pathlib.Path:
        return self.path / folder / self.dataset.files[folder][number].file

    def _size(self, video: int) -> tuple[int, int]:
        return self.videos[video].height, self.videos[video].width

    def _decode(self, function, data: bytes, folder: str, video: int, index: int):
        """Return `function(data)` (of `codecs`); UserError naming file, video and record where it raises ValueError."""
        try:
            return function(data)
        except ValueError as error:
            raise UserError(f"{self._whereabouts(folder, video, index)}: {error}") from error

    def _check(self, name: str, index: int, folder: str, video: int, wanted: int) -> None:
        if (name, index) != (self.videos[video].name, wanted):
            where = self._whereabouts(folder, video, wanted)
            raise UserError(
                f"{where}: found record {index} of {name}; {DATASET_FILE} is of other files: run --mode=prepare --verify, "
                "or wait for a prepare that is at work there"
            )

    def _whereabouts(self, folder: str, video: int, index: int) -> str:
        stored = self.videos[video]
        return f"{self._file(folder, getattr(stored, folder)[0])}, {stored.name}, record {index}"


def _flow_folder(backward: bool) -> str:
    return "flow_backward" if backward else "flow"
