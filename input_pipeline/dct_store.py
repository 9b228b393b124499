"""Files of DCT records: written whole or not at all, read with one read a stack.

Layout, little-endian: `tsdct 1\\n`; the records (`dct_record`), a video's one after another in time; uint64 offsets of the
records' starts and of the last one's end; then 36 bytes: number of records, bits of the planes that any of them holds, a
CRC-32 of all after the records, and `tsdct 1\\n` again.
"""

from __future__ import annotations

import hashlib
import io
import os
import pathlib
import struct
import threading
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from input_pipeline import dct, dct_record
from input_pipeline.dataset_file import DATASET_FILE, RecordFile
from input_pipeline.safe_files import replace_safely
from input_pipeline.schema import UserError

_MAGIC = b"tsdct 1\n"
# Number of records, bits of the planes (plane p is bit p of the 128, first byte and lowest bit first); then the check and
# the magic word.
_FACTS = struct.Struct("<Q16s")
_END = struct.Struct("<I8s")
_TAIL_BYTES = _FACTS.size + _END.size


@dataclass(frozen=True)
class Stack:
    """What was read beside the windows of some fields of a video."""

    means: np.ndarray  # float32 [count, 2] px, of whole fields as stored
    size: tuple[int, int]  # height and width of the whole field in px
    coding: dct.Coding


@dataclass(frozen=True)
class _OpenFile:
    stream: io.FileIO
    offsets: np.ndarray  # uint64 [records + 1]
    planes: tuple[int, ...]


def write_file(file: pathlib.Path, content: Iterable[bytes], sha256: str | None = None) -> str:
    """Write records (`dct_record.serialise_field`) so that the file appears when whole; return its SHA-256.

    With `sha256`, a file of another checksum never appears: ValueError. So it is for a damaged record. Raises OSError when
    the disk refuses.
    """
    aside = file.with_name(f"{file.name}.tmp")
    try:
        with aside.open("wb") as stream:
            found = _write(stream, content)
        if sha256 not in (None, found):
            raise ValueError(f"its SHA-256 would be {found[:12]}... instead of {sha256[:12]}...")
        replace_safely(aside, file)
    except (OSError, ValueError):
        # What is half written would only keep a full disk full.
        aside.unlink(missing_ok=True)
        raise
    return found


def _write(stream: io.BufferedWriter, content: Iterable[bytes]) -> str:
    digest, offsets, present = hashlib.sha256(), [len(_MAGIC)], np.zeros(256, bool)

    def write(data: bytes) -> None:
        stream.write(data)
        digest.update(data)

    write(_MAGIC)
    for record in content:
        header = dct_record.parse_header(record)
        present[list(header.whole + header.thin)] = True
        write(record)
        offsets.append(offsets[-1] + len(record))
    bits = np.packbits(present[:128] | present[128:], bitorder="little").tobytes()
    tail = np.array(offsets, "<u8").tobytes() + _FACTS.pack(len(offsets) - 1, bits)
    write(tail + _END.pack(zlib.crc32(tail), _MAGIC))
    return digest.hexdigest()


class DctFolder:
    """The files of one folder of DCT records; a `place` is a video's (file's number, first record).

    May be shared between threads, and pickled: files open at the first read in each process. Raises UserError where a file
    is missing, damaged, or not what dataset.json says.
    """

    def __init__(self, path: str | os.PathLike, files: Sequence[RecordFile]):
        self.path, self.files = pathlib.Path(path), tuple(files)
        self._open_files: dict[int, _OpenFile] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict:
        return {"path": self.path, "files": self.files}

    def __setstate__(self, state: dict) -> None:
        self.__init__(**state)

    @property
    def planes(self) -> tuple[int, ...]:
        """All planes that some record holds, ascending: what windows must have to be exact."""
        return tuple(sorted({p for number in range(len(self.files)) for p in self._file(number).planes}))

    def read_stack(
        self,
        place: tuple[int, int],
        video: str,
        indices: Sequence[int],
        planes: tuple[int, ...],
        corner: tuple[int, int],
        out: np.ndarray,
    ) -> Stack:
        """Fill out, int8 [count, 2, P, n, m] and zero, with windows of a video's fields `indices` (any order) in one read.

        Windows start at the block `corner` (y, x); see `dct_record.fill_windows`.
        """
        found = self._records(place, video, indices)
        first, means = found[0][1], np.empty((len(indices), 2), np.float32)
        for k, (_, header) in enumerate(found):
            if (header.height, header.width, header.coding) != (first.height, first.width, first.coding):
                raise UserError(
                    f"{self._whereabouts(place, video, header.index)}: is of another size or coding than record "
                    f"{first.index}; run --mode=prepare --verify"
                )
            means[k] = header.mean
        dct_record.fill_windows(found, planes, corner, out)
        return Stack(means, (first.height, first.width), first.coding)

    def field(
        self, place: tuple[int, int], video: str, index: int, bound_px: float
    ) -> tuple[np.ndarray, tuple[float, float]]:
        """Return a field decoded on the host, float32 [H, W, 2] px, and its mean; for looking at, not for training."""
        ((record, header),) = self._records(place, video, [index])
        px = dct.decode_field(dct_record.coefficients_of(record, header), header.coding, bound_px)
        return px[:, : header.height, : header.width].transpose(1, 2, 0), header.mean

    def raw(self, place: tuple[int, int], video: str, count: int) -> list[bytes]:
        """Return a video's first `count` records as they lie there, checked."""
        return [bytes(record) for record, _ in self._records(place, video, range(count))]

    def _records(
        self, place: tuple[int, int], video: str, indices: Sequence[int]
    ) -> list[tuple[memoryview, dct_record.FieldHeader]]:
        assert len(indices), video
        number, first = place
        file, low, high = self._file(number), min(indices), max(indices)
        if low < 0 or first + high + 1 >= len(file.offsets):
            raise IndexError(f"{video}: records {low} to {high} from {first} on, of {len(file.offsets) - 1}")
        offsets = file.offsets[first + low : first + high + 2].tolist()
        data = memoryview(self._read(number, file.stream, offsets[0], offsets[-1] - offsets[0]))
        starts = [offset - offsets[0] for offset in offsets]
        key, found = dct_record.video_key(video), []
        for i in indices:
            record = data[starts[i - low] : starts[i - low + 1]]
            found.append((record, self._header(record, place, video, int(i), key)))
        return found

    def _header(self, record: memoryview, place: tuple[int, int], video: str, index: int, key: bytes):
        try:
            header = dct_record.parse_header(record)
        except ValueError as error:
            where = self._whereabouts(place, video, index)
            raise UserError(f"{where}: {error}; run --mode=prepare --verify") from error
        if (header.key, header.index) != (key, index):
            found = f"record {header.index}" + ("" if header.key == key else " of another video")
            raise UserError(
                f"{self._whereabouts(place, video, index)}: found {found}; {DATASET_FILE} is of other files: run "
                "--mode=prepare --verify, or wait for a prepare that is at work there"
            )
        return header

    def _whereabouts(self, place: tuple[int, int], video: str, index: int) -> str:
        return f"{self.path / self.files[place[0]].file}, {video}, record {index}"

    def _read(self, number: int, stream: io.FileIO, offset: int, size: int) -> bytes:
        # Not a memory map: there a disk that fails, or a file cut short, ends the process instead of raising.
        try:
            data = os.pread(stream.fileno(), size, offset)
        except OSError as error:
            name = self.path / self.files[number].file
            raise UserError(f"{name}: cannot be read ({error}); run --mode=prepare --verify") from error
        if len(data) != size:
            name = self.path / self.files[number].file
            raise UserError(f"{name}: ends too early; it is damaged, run --mode=prepare --verify")
        return data

    def _file(self, number: int) -> _OpenFile:
        with self._lock:
            file = self._open_files.get(number)
            if file is None:
                file = self._open_files[number] = self._open(number)
            return file

    def _open(self, number: int) -> _OpenFile:
        stated = self.files[number]
        name = self.path / stated.file
        if not name.is_file():
            raise UserError(f"{name}: no such file, but {DATASET_FILE} lists it; run --mode=prepare --verify")
        stream = name.open("rb", buffering=0)
        size = os.fstat(stream.fileno()).st_size
        tail_size = 8 * (stated.records + 1) + _TAIL_BYTES
        if size < len(_MAGIC) + tail_size:
            raise UserError(f"{name}: ends too early; it is damaged, run --mode=prepare --verify")
        tail = self._read(number, stream, size - tail_size, tail_size)
        check, magic = _END.unpack_from(tail, tail_size - _END.size)
        records, bits = _FACTS.unpack_from(tail, tail_size - _TAIL_BYTES)
        magic += self._read(number, stream, 0, len(_MAGIC))
        if magic != 2 * _MAGIC or zlib.crc32(tail[: -_END.size]) != check or records != stated.records:
            raise UserError(
                f"{name}: is not a whole file of {stated.records} records; it is damaged, run --mode=prepare --verify"
            )
        planes = np.flatnonzero(np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little"))
        return _OpenFile(stream, np.frombuffer(tail, "<u8", records + 1), tuple(planes.tolist()))
