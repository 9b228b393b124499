"""Files of serialised tf.train.Examples that others wrote, ArrayRecord or TFRecord: listed once, then read one by one."""

from __future__ import annotations

import functools
import mmap
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader
from google.protobuf.message import DecodeError

from input_pipeline.codecs import Example
from input_pipeline.crc32c import crc32c
from input_pipeline.schema import UserError, first_line
from input_pipeline.still_images import stored_pictures

FORMATS = ("array_record", "tfrecord")

# A TFRecord is its length (uint64) and that length's masked CRC-32C, the data, and the data's masked CRC-32C; all little
# endian (tensorflow/core/lib/io/record_writer.h). The data's sum is checked where a record is read, not where it is listed.
_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
_CRC_MASK = 0xA282EAD8

# A label or a file name is no longer than this; an encoded picture is left unread when examples are listed.
_SMALL_BYTES = 4096

# Random access: read the record's own bytes and nothing around them, in the calling thread.
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"

# Shards that a worker process keeps open; prepare goes through them in order.
_OPEN_SHARDS = 4

_REMEDY = "copy it again or prepare the set again"


@dataclass(frozen=True, slots=True)
class ExampleFrames:
    """A video, or an image as a video of one frame: the encoded pictures in one feature of one record."""

    shard: Path
    format: str  # one of FORMATS
    position: int  # array_record: the record's number; tfrecord: the byte where it begins
    size: int  # bytes of the record
    feature: str

    def exists(self) -> bool:
        """Return whether the shard is there."""
        return os.path.isfile(self.shard)

    def size_bytes(self) -> int:
        """Return the bytes of the record."""
        return self.size

    def count_frames(self) -> int:
        """Return how many pictures the record holds."""
        return len(self._pictures())

    def frames(self, short_side: int) -> Iterator[np.ndarray]:
        """Yield the frames, uint8 RGB [H, W, 3], the smallest side `short_side` px. Raises UserError ("<shard>: ...")."""
        pictures = self._pictures()
        if not pictures:
            raise UserError(f"{self.shard}: record {self.position} holds no frame")
        yield from stored_pictures(pictures, short_side, f"{self.shard}: record {self.position}")

    def _pictures(self) -> list[bytes]:
        features = _parse(read_record(self.shard, self.format, self.position), self.shard, self.position)
        return list(features[self.feature].bytes_list.value)


def list_records(shard: Path, file_format: str) -> Iterator[tuple[int, int, Mapping]]:
    """Yield (position, bytes, features) of a shard's records, without features of more than 4 KiB.

    A TFRecord file is read only where these small features lie; ArrayRecord's compressed records are read as a whole.
    Raises UserError ("<shard>: ...") for a damaged file.
    """
    if file_format == "array_record":
        yield from _list_array_record(shard)
        return
    with shard.open("rb") as stream:
        if not os.fstat(stream.fileno()).st_size:
            return
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            position = 0
            while position < len(content):
                start = position + _HEADER.size
                end = start + _length(content[position:start], shard, position)
                if end + _FOOTER.size > len(content):
                    raise UserError(f"{shard}: is cut short at byte {position}, {_REMEDY}")
                yield position, end - start, _small_features(content, start, end, shard, position)
                position = end + _FOOTER.size


def _list_array_record(shard: Path) -> Iterator[tuple[int, int, Mapping]]:
    # One after the other takes a tenth of the time of as many random reads; hence a reader of its own.
    reader = ArrayRecordReader(str(shard), _READER_OPTIONS)
    for position in range(reader.num_records()):
        try:
            record = reader.read()
        except (RuntimeError, IndexError) as error:
            raise UserError(f"{shard}: record {position} cannot be read, {_REMEDY} ({first_line(error)})") from error
        yield position, len(record), _small_features(record, 0, len(record), shard, position)


def read_record(shard: Path, file_format: str, position: int) -> bytes:
    """Return one record's bytes. Raises UserError ("<shard>: ...") where it is damaged or gone."""
    if file_format == "array_record":
        try:
            return _array_reader(str(shard)).read([position])[0]
        except (RuntimeError, IndexError) as error:
            raise UserError(f"{shard}: record {position} cannot be read, {_REMEDY} ({first_line(error)})") from error
    try:
        with shard.open("rb") as stream:
            stream.seek(position)
            length = _length(stream.read(_HEADER.size), shard, position)
            record, stored = stream.read(length), stream.read(_FOOTER.size)
    except OSError as error:
        raise UserError(f"{shard}: cannot be read ({error.strerror}), {_REMEDY}") from error
    if len(stored) != _FOOTER.size or _FOOTER.unpack(stored)[0] != _masked_crc32c(record):
        raise UserError(f"{shard}: is damaged or cut short in the record at byte {position}, {_REMEDY}")
    return record


def _length(header: bytes, shard: Path, position: int) -> int:
    """Return the length that the header of the TFRecord at byte `position` states."""
    if len(header) == _HEADER.size:
        length, stored = _HEADER.unpack(header)
        if stored == _masked_crc32c(header[:8]):
            return length
    raise UserError(f"{shard}: is damaged or cut short at byte {position}, {_REMEDY}")


def _masked_crc32c(data: bytes) -> int:
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + _CRC_MASK) & 0xFFFFFFFF


def _small_features(content, start: int, end: int, shard: Path, position: int) -> Mapping:
    """Return {name: Feature} of a serialised Example, those of more than `_SMALL_BYTES` left out without a look at them.

    An Example is field 1, its Features; these are a map, repeated entries of field 1; a field is tag, length, bytes.
    """
    size, first = _varint(content, start + 1)
    if end - start < 2 or content[start] != 0x0A or first + size != end:
        return _parse(content[start:end], shard, position)  # written in another order; or damaged, then parsing says so
    entries, at = [], first
    while at < end:
        size, body = _varint(content, at + 1)
        if content[at] != 0x0A or body + size > end:
            return _parse(content[start:end], shard, position)
        if size <= _SMALL_BYTES:
            entries.append(content[at : body + size])
        at = body + size
    return _parse_features(b"".join(entries), shard, position)


def _varint(content, at: int) -> tuple[int, int]:
    """Return (number, where what follows it begins); protobuf's base 128, the lowest seven bits first."""
    number = 0
    for length in range(1, min(11, len(content) - at + 1)):
        last = content[at + length - 1]
        number |= (last & 0x7F) << 7 * (length - 1)
        if last < 0x80:
            return number, at + length
    return 0, at  # no number; what follows will not fit


def _parse(record: bytes, shard: Path, position: int) -> Mapping:
    try:
        return Example.FromString(record).features.feature
    except DecodeError as error:
        raise UserError(f"{shard}: record {position} is no tf.train.Example, {_REMEDY}") from error


def _parse_features(entries: bytes, shard: Path, position: int) -> Mapping:
    try:
        return type(Example().features).FromString(entries).feature
    except DecodeError as error:
        raise UserError(f"{shard}: record {position} is no tf.train.Example, {_REMEDY}") from error


@functools.lru_cache(maxsize=_OPEN_SHARDS)
def _array_reader(path: str) -> ArrayRecordReader:
    return ArrayRecordReader(path, _READER_OPTIONS)
