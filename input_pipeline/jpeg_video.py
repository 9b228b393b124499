"""The JPEGs of one video, as a flow extractor left them, become records byte for byte.

A series is numbered files of one prefix in one folder (flow_x_00001.jpg, flow_x_00002.jpg, ...). Extractors clip flow at
a bound b and write round(255 (d + b) / 2b) as we do: TSN's dense_flow and denseflow (`CAST` in common.cpp) and gpu_flow
(`CAST` in compute_flow.cpp).
"""

from __future__ import annotations

import itertools
import os
import re
from dataclasses import dataclass
from functools import partial as bind
from pathlib import Path

import numpy as np

from input_pipeline import codecs, dct_jpeg
from input_pipeline.dct import Coding
from input_pipeline.flow_facts import FlowSums
from input_pipeline.schema import UserError
from input_pipeline.shards import EncodedVideo
from input_pipeline.video_list import Video, unreadable

_NUMBERED = re.compile(r"(.*?)(\d+)\.(?i:jpe?g)", re.DOTALL)


@dataclass(frozen=True)
class Series:
    """The JPEGs <prefix><number>.jpg of a folder, any width of the number, any case of the suffix."""

    folder: Path
    prefix: str

    def numbered(self) -> list[tuple[int, str]]:
        """Return (number, file name) of what is there, sorted; empty where the folder is not there or cannot be read."""
        matches = [_NUMBERED.fullmatch(name) for name in _names(self.folder)]
        return sorted((int(match[2]), match[0]) for match in matches if match and match[1] == self.prefix)

    def sizes(self) -> list[int]:
        """Return the files' sizes in bytes, by their numbers; 0 for a link that leads to no file."""
        sizes = dict.fromkeys((name for _, name in self.numbered()), 0)
        if sizes:
            with os.scandir(self.folder) as entries:
                sizes |= {entry.name: _size(entry) for entry in entries if entry.name in sizes}
        return list(sizes.values())

    def checked(self) -> tuple[int, list[Path]]:
        """Return the first number and the files in order. Raises UserError ("<folder>: ...") for one missing or double."""
        numbered = self.numbered()
        if not numbered:
            reason = unreadable(self.folder) if self.folder.is_dir() else ""
            what = f"cannot be read ({reason})" if reason else f"holds no {self.prefix}*.jpg"
            raise UserError(f"{self.folder}: {what}")
        for (one, name), (other, following) in itertools.pairwise(numbered):
            if one == other:
                raise UserError(f"{self.folder}: {name} and {following} have the same number")
            if other != one + 1:
                raise UserError(f"{self.folder}: frame {one + 1} is missing, {following} comes after {name}")
        return numbered[0][0], [self.folder / name for _, name in numbered]


@dataclass(frozen=True)
class JpegVideo:
    """The `Source` of a video whose RGB frames (`rgb`), flow (`x` and `y`) or both lie there as JPEGs."""

    rgb: Series | None
    x: Series | None
    y: Series | None
    spare_field: str = ""  # of as many fields as frames, the "first" or the "last" is left out; "" refuses them

    @property
    def series(self) -> tuple[Series, ...]:
        """What there is of x, y and rgb."""
        return tuple(series for series in (self.x, self.y, self.rgb) if series)

    @property
    def variant(self) -> str:
        """What of it decides over records beside its files."""
        return self.spare_field

    def exists(self) -> bool:
        """Return whether the folder of its first series is there."""
        return self.series[0].folder.is_dir()

    def size_bytes(self) -> int:
        """Return the bytes of all JPEGs that are taken over, so that another `spare_field` shows."""
        sizes = [series.sizes() for series in self.series]
        if self.spare_field and len(sizes) == 3 and len(sizes[0]) == len(sizes[2]):
            sizes = [*(self.without_spare(half) for half in sizes[:2]), sizes[2]]
        return sum(map(sum, sizes))

    def without_spare(self, items: list) -> list:
        """Return the items of as many fields as frames less that of the field to be left out."""
        return items[1:] if self.spare_field == "first" else items[:-1]

    def count_frames(self) -> int:
        """Return the number of RGB frames, or without RGB one more than there are fields."""
        return len(self.rgb.numbered()) if self.rgb else len(self.x.numbered()) + 1

    def describe(self) -> str:
        """Return the files of each series in words: an example of what is taken over."""
        return ", ".join(f"{series.folder}/{series.prefix}*.jpg" for series in self.series)


def prefixes(folder: Path) -> set[str]:
    """Return what stands before the numbers of a folder's JPEGs."""
    matches = [_NUMBERED.fullmatch(name) for name in _names(folder)]
    return {match[1] for match in matches if match}


def take_over(video: Video, bound_px: float, *, dct: bool = False) -> EncodedVideo:
    """Return the records of a video of JPEGs, each holding its file's bytes; every JPEG is decoded once.

    With `dct`, the records of fields hold the coefficients of their JPEGs, exactly.

    F RGB frames go with F - 1 fields; of F fields one is left out, as the source says. Without RGB, F is one more than
    there are fields. `bound_px` is what level 255 stands for. Raises UserError (one line, the folder or file first) for a
    number missing or double, counts that do not go together, damage, sizes that differ and, with `dct`, quantisation
    tables that do.
    """
    source = video.source
    frames = source.rgb.checked()[1] if source.rgb else []
    fields = _fields(source)
    if frames and source.x:
        fields = _fields_of(video, fields, len(frames))
    same_size, sums = _SameSize(), FlowSums()
    records = {}
    if source.rgb:
        read = [_read(path, codecs.decode_frame, same_size)[0] for path in frames]
        records["rgb"] = [codecs.serialise_frame(video.name, i, jpeg) for i, jpeg in enumerate(read)]
    if source.x:
        make = _DctRecords(video.name, bound_px) if dct else bind(_field_record, video.name, bound_px)
        records["flow"] = []
        for i, pair in enumerate(fields):
            (x, x_levels), (y, y_levels) = (_read(path, codecs.decode_grey, same_size) for path in pair)
            levels = np.stack([x_levels, y_levels])
            records["flow"].append(make(i, pair[0], x, y, levels))
            sums.add_levels(levels, bound_px)
    bound = bound_px if source.x else None
    return EncodedVideo(len(frames) or len(fields) + 1, *same_size.size, bound, records, sums.facts())


class _SameSize:
    """The size in px of the first picture shown, which all others must have."""

    def __init__(self):
        self.size: tuple[int, int] | None = None
        self._first: Path | None = None

    def check(self, path: Path, size: tuple[int, int]) -> None:
        """Raises UserError where a picture, [height, width], is of another size."""
        if self.size is None:
            self.size, self._first = size, path
        if size != self.size:
            ours, first = f"{size[1]}x{size[0]}", f"{self.size[1]}x{self.size[0]}"
            raise UserError(f"{path}: {ours} px, but {self._first} has {first}")


def _fields(source: JpegVideo) -> list[tuple[Path, Path]]:
    """Return the files (x, y) of each field in order."""
    if source.x is None:
        return []
    (first_x, xs), (first_y, ys) = source.x.checked(), source.y.checked()
    if (first_x, len(xs)) != (first_y, len(ys)):
        spans = [f"{first} to {first + len(files) - 1}" for first, files in ((first_x, xs), (first_y, ys))]
        raise UserError(f"{source.x.folder}: the flow's x has the numbers {spans[0]}, its y {spans[1]}")
    return list(zip(xs, ys, strict=True))


def _fields_of(video: Video, fields: list, frames: int) -> list:
    """Return frames - 1 fields."""
    if len(fields) == frames - 1:
        return fields
    counts = f"{frames} frames and {len(fields)} flow fields, but {frames} frames have {frames - 1} fields"
    if len(fields) != frames:
        raise UserError(f"{video.path}: {counts}: one of the two was cut short, or made with another step")
    if not video.source.spare_field:
        # TSN's calcDenseFlowGPU (dense_flow_gpu.cpp) writes with each field the later of its two frames only.
        raise UserError(
            f"{video.path}: {counts}: set data.spare_field=first if the tool writes no frame 0, as TSN's dense_flow does, "
            "or data.spare_field=last if it repeats the last field"
        )
    return video.source.without_spare(fields)


def _field_record(name: str, bound_px: float, index: int, file: Path, x: bytes, y: bytes, levels: np.ndarray) -> bytes:
    return codecs.serialise_field(name, index, x, y, codecs.mean_of_levels(levels, bound_px))


class _DctRecords:
    """Makes the DCT records of a video's fields from their JPEGs x and y; `file`, that of x, stands in messages."""

    def __init__(self, name: str, bound_px: float):
        self._name, self._bound_px = name, bound_px
        self._first: tuple[Path, Coding] | None = None

    def __call__(self, index: int, file: Path, x: bytes, y: bytes, levels: np.ndarray) -> bytes:
        try:
            record, coding = dct_jpeg.field_record(self._name, index, x, y, self._bound_px)
        except ValueError as error:
            raise UserError(f"{file}: {error}") from error
        # A stack is read with one table for all of it.
        first, common = self._first = self._first or (file, coding)
        if coding != common:
            raise UserError(
                f"{file}: its quantisation tables differ from those of {first}; take it over with data.codec=jpeg"
            )
        return record


def _read(path: Path, decode, same_size: _SameSize) -> tuple[bytes, np.ndarray]:
    try:
        jpeg = path.read_bytes()
        image = decode(jpeg)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}") from error
    same_size.check(path, image.shape[:2])
    return jpeg, image


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _size(entry: os.DirEntry) -> int:
    try:
        return entry.stat().st_size if entry.is_file() else 0
    except OSError:
        return 0  # a link that leads back to itself
