"""Prepared records as a source: their flow JPEGs become DCT records, coefficient by coefficient; nothing is computed."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from input_pipeline import dct_jpeg
from input_pipeline.dataset_file import DATASET_FILE
from input_pipeline.schema import UserError
from input_pipeline.shards import EncodedVideo
from input_pipeline.store import Records
from input_pipeline.video_list import Video, VideoList, existing_folder


@dataclass(frozen=True)
class StoredSource:
    """The `Source` of a video that lies in the records folder `records`, at `position` among its videos."""

    records: str
    position: int
    frames: int
    source_bytes: int  # size of what its records were made of
    variant: str  # checksum of all of these records: others are another source

    def exists(self) -> bool:
        """Return True: what dataset.json lists is there, or --verify says what is not."""
        return True

    def size_bytes(self) -> int:
        """Return the size of what the records were made of."""
        return self.source_bytes

    def count_frames(self) -> int:
        """Return the number of frames."""
        return self.frames

    def describe(self) -> str:
        """Return in words what is taken over."""
        return f"the records in {self.records}"


def list_records(data) -> VideoList:
    """Return the videos of the records folder `data.videos`, with the labels, groups and splits that stand there.

    UserError unless it holds flow as JPEGs.
    """
    folder = existing_folder("data.videos", data.videos)
    if not (folder / DATASET_FILE).is_file():
        raise UserError(
            f"data.videos={data.videos}: holds no {DATASET_FILE}; data.kind=records takes over a folder that --mode=prepare "
            "wrote"
        )
    stored = Records(folder).dataset
    if stored.flow is None or stored.flow.codec != "jpeg":
        held = "flow as DCT records already" if stored.flow else "no flow"
        raise UserError(f"data.videos={data.videos}: holds {held}; data.kind=records takes over flow in JPEGs")
    if data.records and os.path.realpath(data.records) == os.path.realpath(folder):
        raise UserError(f"data.records={data.records}: is the folder that is taken over; name another")
    videos = tuple(
        Video(
            video.name,
            folder,
            video.label,
            video.group,
            dict(video.subsets),
            StoredSource(str(folder), position, video.frames, video.source_bytes, stored.checksum),
        )
        for position, video in enumerate(stored.videos)
    )
    return VideoList(stored.name, stored.kind, stored.classes, stored.splits, videos, stored.streams, flow=stored.flow)


def take_over(video: Video, folders: tuple[str, ...]) -> EncodedVideo:
    """Return a stored video's records for these folders: frames as they are, fields with their JPEGs' coefficients.

    Raises UserError (one line, the records first) for a damaged record, or a JPEG that cannot be taken over.
    """
    source = video.source
    records, position = _opened(source.records, source.variant), source.position
    if records.dataset.checksum != source.variant:
        raise UserError(f"{records.path}: was prepared anew meanwhile; run the same command again")
    stored = records.videos[position]
    content = {
        folder: records.raw(folder, position) if folder == "rgb" else list(_fields(records, position, folder))
        for folder in folders
    }
    return EncodedVideo(stored.frames, stored.height, stored.width, stored.bound_px, content, stored.flow_facts)


# One for each worker process, which has many videos of the same folder.
@functools.lru_cache(maxsize=2)
def _opened(path: str, checksum: str) -> Records:
    return Records(Path(path))


def _fields(records: Records, position: int, folder: str) -> Iterator[bytes]:
    """Yield the DCT records of a video's fields in one direction."""
    stored, common = records.videos[position], None
    for index in range(stored.pairs):
        ((x, y, _),) = records.field_jpegs(position, [index], folder == "flow_backward")
        where = f"{records.path}, {stored.name}, field {index}"
        try:
            record, coding = dct_jpeg.field_record(stored.name, index, x, y, stored.bound_px)
        except ValueError as error:
            raise UserError(f"{where}: {error}") from error
        # A stack is read with one table for all of it.
        common = common or coding
        if coding != common:
            raise UserError(f"{where}: its quantisation tables differ from those of the fields before")
        yield record
