"""One field's DCT coefficients as bytes: a checked header, then its planes, LZ4 in one piece.

Planes that are all zero are left out. Of thin ones, with hardly a coefficient (most high frequencies of TV-L1 flow), only
the blocks that have one are stored, which takes a fifth off the time of reading; the others are stored whole.
"""

from __future__ import annotations

import functools
import hashlib
import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import lz4.block
import numpy as np

from input_pipeline.dct import BLOCK, POSITIONS, Coding, join_planes, split_planes

# CRC-32 of all that follows it; then the video's key, the field's index, mean x and y in px, height and width in px, 1 / the
# unit of the steps, twice the zero level, the number of whole planes, of thin planes and of coefficients in the latter, and
# the steps in that unit. Then come the numbers (component * 128 + plane) of the whole planes, those of the thin ones and how
# many coefficients each of these has, a byte each; then LZ4: whole planes, blocks of the thin planes' coefficients (uint16,
# in rows), their values.
_CHECK = struct.Struct("<I")
_HEADER = struct.Struct("<8sI2fHHBHHHH64s")
_NUMBERS_AT = _CHECK.size + _HEADER.size

_NUMBERS = 4 * POSITIONS  # of planes: two components of 128

# A plane with coefficients in at most one of so many blocks is thin. 32 or 128 change time by 5 % and size by 1 %.
_THIN = 64

_NOWHERE = -(2**40)  # in places: below anything that a place in a window can add


class FieldHeader(NamedTuple):
    """What a record says before its planes."""

    key: bytes  # `video_key`
    index: int
    mean: tuple[float, float]  # px, of the field as stored
    height: int  # px
    width: int
    coding: Coding
    whole: bytes  # numbers (component * 128 + plane) of the whole planes, ascending
    thin: bytes  # those of the thin ones
    counts: bytes  # coefficients of each thin plane
    coefficients: int  # their sum

    @property
    def blocks(self) -> tuple[int, int]:
        """Number of blocks (down, across)."""
        return -(-self.height // BLOCK), -(-self.width // BLOCK)


def video_key(name: str) -> bytes:
    """Return the eight bytes that stand for a video's name in its records."""
    return hashlib.sha256(name.encode()).digest()[:8]


def serialise_field(
    video: str, index: int, coefficients: np.ndarray, coding: Coding, mean: np.ndarray, size: tuple[int, int]
) -> bytes:
    """Return the record of field `index` (from 0) of a video: coefficients int16 [2, 64, nby, nbx], size (h, w) in px."""
    unit = 1 if all(step.is_integer() for step in coding.steps) else 16
    steps = [round(step * unit) for step in coding.steps]
    assert [step / unit for step in steps] == list(coding.steps) and max(steps) <= 255, coding
    planes = split_planes(coefficients).reshape(_NUMBERS, -1)
    counts = np.count_nonzero(planes, axis=1)
    # Blocks are numbered in two bytes.
    thin = (counts > 0) & (counts <= min(planes.shape[1] // _THIN, 255)) & (planes.shape[1] <= 2**16)
    whole = (counts > 0) & ~thin
    places, blocks = np.nonzero(planes[thin])
    values = planes[thin][places, blocks]
    numbers = [np.flatnonzero(whole), np.flatnonzero(thin), counts[thin]]
    lengths = (len(numbers[0]), len(numbers[1]), len(values))
    facts = (video_key(video), index, *map(float, mean), *size, unit, round(2 * coding.zero), *lengths)
    # Level 4 would take a tenth of the 2 ms, for 7 % more bytes and 15 % more time to unpack.
    plain = planes[whole].tobytes() + blocks.astype("<u2").tobytes() + values.tobytes()
    packed = lz4.block.compress(plain, mode="high_compression", compression=9, store_size=False)
    body = _HEADER.pack(*facts, bytes(steps)) + b"".join(n.astype(np.uint8).tobytes() for n in numbers) + packed
    return _CHECK.pack(zlib.crc32(body)) + body


def parse_header(record: memoryview | bytes) -> FieldHeader:
    """Return what a record says before its planes. Raises ValueError when a byte of the record has changed."""
    if len(record) < _NUMBERS_AT or zlib.crc32(record[_CHECK.size :]) != _CHECK.unpack_from(record)[0]:
        raise ValueError(f"damaged: its {len(record)} bytes do not fit their checksum")
    key, index, x, y, height, width, unit, zero, whole, thin, coefficients, steps = _HEADER.unpack_from(
        record, _CHECK.size
    )
    numbers = bytes(record[_NUMBERS_AT : _NUMBERS_AT + whole + 2 * thin])
    parts = (numbers[:whole], numbers[whole : whole + thin], numbers[whole + thin :])
    return FieldHeader(key, index, (x, y), height, width, _coding(steps, unit, zero), *parts, coefficients)


# A data set of our own has one, JPEGs taken over one for each quality.
@functools.lru_cache(maxsize=256)
def _coding(steps: bytes, unit: int, zero: int) -> Coding:
    return Coding(tuple(step / unit for step in steps), zero / 2)


def _unpack(record: memoryview | bytes, header: FieldHeader) -> tuple[bytes, int]:
    """Return what was packed, and where in it the whole planes end and the thin planes' coefficients start."""
    down, across = header.blocks
    packed = record[_NUMBERS_AT + len(header.whole) + 2 * len(header.thin) :]
    end = len(header.whole) * down * across
    return lz4.block.decompress(packed, uncompressed_size=end + 3 * header.coefficients), end


def coefficients_of(record: memoryview | bytes, header: FieldHeader) -> np.ndarray:
    """Return a record's coefficients int16 [2, 64, nby, nbx]."""
    down, across = header.blocks
    (plain, end), planes = _unpack(record, header), np.zeros((_NUMBERS, down * across), np.int8)
    planes[list(header.whole)] = np.ndarray((len(header.whole), down * across), np.int8, plain)
    numbers = np.repeat(np.frombuffer(header.thin, np.uint8), np.frombuffer(header.counts, np.uint8))
    blocks = np.frombuffer(plain, "<u2", header.coefficients, end)
    planes[numbers, blocks] = np.frombuffer(plain, np.int8, header.coefficients, end + blocks.nbytes)
    return join_planes(planes.reshape(2, 2 * POSITIONS, down, across))


class _Slots(NamedTuple):
    table: bytes  # of `bytes.translate`: a whole plane's number -> its place among the 2 P
    left_out: bytes  # numbers of planes that are not wanted
    places: np.ndarray  # int64 [256]: the same places, _NOWHERE where not wanted


@functools.lru_cache(maxsize=64)
def _slots(planes: tuple[int, ...]) -> _Slots:
    """Return where component * 128 + plane goes in a window [2, P, ...] of these P planes."""
    slots = {
        component * 128 + plane: component * len(planes) + i for component in (0, 1) for i, plane in enumerate(planes)
    }
    table = bytes(slots.get(number, 0) for number in range(_NUMBERS))
    places = np.array([slots.get(number, _NOWHERE) for number in range(_NUMBERS)], np.int64)
    return _Slots(table, bytes(set(range(_NUMBERS)) - set(slots)), places)


# Whole batches share a few hundred corners; an entry of a field of 256x340 px has 11 KB.
@functools.lru_cache(maxsize=1024)
def _block_places(blocks: tuple[int, int], corner: tuple[int, int], shape: tuple[int, int]) -> np.ndarray:
    """Return int64 [nby * nbx]: where in a window of `shape` from `corner` on each block lies, _NOWHERE outside of it."""
    row, column = np.indices(blocks).reshape(2, -1) - np.array(corner)[:, None]
    inside = (row >= 0) & (row < shape[0]) & (column >= 0) & (column < shape[1])
    return np.where(inside, row * shape[1] + column, _NOWHERE)


def fill_windows(
    fields: Sequence[tuple[memoryview | bytes, FieldHeader]],
    planes: tuple[int, ...],
    corner: tuple[int, int],
    out: np.ndarray,
) -> None:
    """Fill out, int8 [count, 2, P, n, m], with the blocks of `planes` from the block at `corner` (y, x) of each field on.

    `out` must be zero and C-contiguous: only what is stored is written. Stored planes that are not among `planes`, and
    blocks beyond the field, stay out. The fields (record and header) are of one size.
    """
    assert out.flags.c_contiguous and out.shape[:3] == (len(fields), 2, len(planes)), (out.shape, len(fields), planes)
    (top, left), (down, across), (height, width) = corner, fields[0][1].blocks, out.shape[3:]
    rows, columns = min(height, down - top), min(width, across - left)
    if rows <= 0 or columns <= 0:
        return
    slots = _slots(planes)
    # A window's row of blocks as one item: half the time that NumPy takes byte by byte.
    item = np.dtype((np.void, columns))
    strides = (out.strides[0], height * width, width)
    target = np.ndarray((len(fields), 2 * len(planes), rows), item, out, 0, strides)
    blocks, values = [], []
    for (record, header), window in zip(fields, target, strict=True):
        plain, end = _unpack(record, header)
        blocks.append(plain[end : end + 2 * header.coefficients])
        values.append(plain[end + 2 * header.coefficients :])
        places = header.whole.translate(slots.table, slots.left_out)
        if not places:
            continue
        source = np.ndarray((len(header.whole), rows), item, plain, top * across + left, (down * across, across))
        if len(places) < len(header.whole):
            source = source[[number not in slots.left_out for number in header.whole]]
        window[np.frombuffer(places, np.uint8)] = source
    headers = [header for _, header in fields]
    _fill_thin(headers, blocks, values, slots.places, _block_places((down, across), corner, (height, width)), out)


def _fill_thin(
    headers: list[FieldHeader],
    blocks: list[bytes],
    values: list[bytes],
    slots: np.ndarray,
    block_places: np.ndarray,
    out: np.ndarray,
) -> None:
    """Fill the coefficients of all fields' thin planes into out at once; `blocks` and `values` are theirs by field."""
    numbers = np.frombuffer(b"".join([header.thin for header in headers]), np.uint8)
    counts = np.frombuffer(b"".join([header.counts for header in headers]), np.uint8)
    fields = np.repeat(np.arange(len(headers)), [len(header.thin) for header in headers])
    planes = (slots.take(numbers) + fields * (out.shape[1] * out.shape[2])) * (out.shape[3] * out.shape[4])
    places = np.repeat(planes, counts) + block_places.take(np.frombuffer(b"".join(blocks), "<u2"))
    inside = np.flatnonzero(places >= 0)  # faster than a mask, as take is than an index
    out.reshape(-1)[places.take(inside)] = np.frombuffer(b"".join(values), np.int8).take(inside)
