"""One field's DCT coefficients as bytes: a checked header, then the planes that are not all zero, LZ4 in one piece."""

from __future__ import annotations

import functools
import hashlib
import struct
import zlib
from typing import NamedTuple

import lz4.block
import numpy as np

from input_pipeline.dct import BLOCK, POSITIONS, Coding, join_planes, split_planes

# CRC-32 of all that follows it; then the video's key, the field's index, mean x and y in px, height and width in px, 1 / the
# unit of the steps, twice the zero level, the number of planes, and the steps in that unit. One byte for each plane
# (component * 128 + plane) follows, ascending, then the planes.
_CHECK = struct.Struct("<I")
_HEADER = struct.Struct("<8sI2fHHBHH64s")
_PLANES_AT = _CHECK.size + _HEADER.size

_NUMBERS = 4 * POSITIONS  # of planes: two components of 128


class FieldHeader(NamedTuple):
    """What a record says before its planes."""

    key: bytes  # `video_key`
    index: int
    mean: tuple[float, float]  # px, of the field as stored
    height: int  # px
    width: int
    coding: Coding
    planes: bytes  # component * 128 + plane of each, ascending

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
    planes = split_planes(coefficients).reshape(_NUMBERS, *coefficients.shape[-2:])
    present = np.flatnonzero(planes.any(axis=(1, 2))).astype(np.uint8)
    facts = (video_key(video), index, *map(float, mean), *size, unit, round(2 * coding.zero), len(present))
    # A video is packed once and read for weeks; how hard it was packed costs a reader nothing.
    packed = lz4.block.compress(planes[present].tobytes(), mode="high_compression", compression=4, store_size=False)
    body = _HEADER.pack(*facts, bytes(steps)) + present.tobytes() + packed
    return _CHECK.pack(zlib.crc32(body)) + body


def parse_header(record: memoryview | bytes) -> FieldHeader:
    """Return what a record says before its planes. Raises ValueError when a byte of the record has changed."""
    if len(record) < _PLANES_AT or zlib.crc32(record[_CHECK.size :]) != _CHECK.unpack_from(record)[0]:
        raise ValueError(f"damaged: its {len(record)} bytes do not fit their checksum")
    key, index, x, y, height, width, unit, zero, count, steps = _HEADER.unpack_from(record, _CHECK.size)
    planes = bytes(record[_PLANES_AT : _PLANES_AT + count])
    return FieldHeader(key, index, (x, y), height, width, _coding(steps, unit, zero), planes)


# A data set of our own has one, JPEGs taken over one for each quality.
@functools.lru_cache(maxsize=256)
def _coding(steps: bytes, unit: int, zero: int) -> Coding:
    return Coding(tuple(step / unit for step in steps), zero / 2)


def _unpack(record: memoryview | bytes, header: FieldHeader) -> np.ndarray:
    """Return the stored planes int8 [len(header.planes), nby, nbx]."""
    shape = (len(header.planes), *header.blocks)
    packed = record[_PLANES_AT + len(header.planes) :]
    size = shape[0] * shape[1] * shape[2]
    return np.frombuffer(lz4.block.decompress(packed, uncompressed_size=size), np.int8).reshape(shape)


def coefficients_of(record: memoryview | bytes, header: FieldHeader) -> np.ndarray:
    """Return a record's coefficients int16 [2, 64, nby, nbx]."""
    planes = np.zeros((_NUMBERS, *header.blocks), np.int8)
    planes[list(header.planes)] = _unpack(record, header)
    return join_planes(planes.reshape(2, 2 * POSITIONS, *header.blocks))


class PlaneSlots(NamedTuple):
    """Where the stored planes go in a window of P planes: `bytes.translate`'s table to 0 .. 2 P - 1, and those left out."""

    table: bytes
    left_out: bytes


@functools.lru_cache(maxsize=64)
def plane_slots(planes: tuple[int, ...]) -> PlaneSlots:
    """Return the places of component * 128 + plane in a window [2, P, ...] of these P planes."""
    slots = {
        component * 128 + plane: component * len(planes) + i for component in (0, 1) for i, plane in enumerate(planes)
    }
    table = bytes(slots.get(number, 0) for number in range(_NUMBERS))
    return PlaneSlots(table, bytes(set(range(_NUMBERS)) - set(slots)))


def fill_window(
    record: memoryview | bytes, header: FieldHeader, slots: PlaneSlots, corner: tuple[int, int], out: np.ndarray
) -> None:
    """Fill out, int8 [2, P, n, m] and C-contiguous, with the blocks from the block at `corner` (y, x) on.

    `slots` is `plane_slots` of the P planes wanted; what lies beyond the field becomes zero.
    """
    assert out.flags.c_contiguous and out.dtype == np.int8, (out.shape, out.dtype)
    out.fill(0)
    (top, left), (down, across) = corner, header.blocks
    rows, columns = min(out.shape[2], down - top), min(out.shape[3], across - left)
    places = header.planes.translate(slots.table, slots.left_out)
    if rows <= 0 or columns <= 0 or not places:
        return
    stored = _unpack(record, header)
    if len(places) < len(stored):
        stored = stored[[number not in slots.left_out for number in header.planes]]
    # A window's row of blocks as one item: half the time that NumPy takes byte by byte.
    item = np.dtype((np.void, columns))
    target = np.ndarray((2 * out.shape[1], rows), item, out, 0, (out.shape[2] * out.shape[3], out.shape[3]))
    source = np.ndarray((len(places), rows), item, stored, top * across + left, (down * across, across))
    target[np.frombuffer(places, np.uint8)] = source
