"""dataset.json: what is stored of a data set, and which video lies where; read with every value checked."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from input_pipeline.dct import POSITIONS
from input_pipeline.flow_facts import FlowFacts
from input_pipeline.schema import CODECS, SCHEMA_VERSION, SUBSETS, UserError, first_line, shown

DATASET_FILE = "dataset.json"
FOLDERS = ("rgb", "flow", "flow_backward")


@dataclass(frozen=True)
class StoredVideo:
    """One video of a prepared data set. The last three say where its records start: (number of the file, record)."""

    name: str
    label: int  # 0-based
    group: str
    subsets: dict[str, str]  # split -> "train" or "test"
    frames: int
    height: int  # px, as stored
    width: int
    bound_px: float | None  # the px per frame that level 255 stands for; None without flow
    source_bytes: int  # size of what it was made from
    flow_facts: FlowFacts | None = None  # None without flow, and in records made before they were taken
    rgb: tuple[int, int] | None = None
    flow: tuple[int, int] | None = None
    flow_backward: tuple[int, int] | None = None

    @property
    def pairs(self) -> int:
        """Number of stored flow fields in each direction, F - 1, or 0 without flow."""
        return self.frames - 1 if self.flow else 0


@dataclass(frozen=True)
class FlowSettings:
    """How the flow was made: `bound_px` is in px per frame, or "video" for each video's own largest component."""

    method: str
    bound_px: float | str
    backward: bool
    opencv_version: str  # values differ between versions; "" where OpenCV has no part in it
    codec: str = "jpeg"  # one of schema.CODECS
    dct_planes: int = 0  # of the 64 positions of a block, the first in zigzag order that are stored; 0 in JPEGs
    camera_compensation: bool = False  # to the next frame as it would be had the camera not moved
    version: str = ""  # of a method that is this program's own

    def plain(self) -> dict:
        """Return the fields by name; those that records had not from the beginning only where they say something."""
        fields = dataclasses.asdict(self)
        added = ("codec", "dct_planes") * (self.codec == "jpeg")
        added += tuple(key for key in ("camera_compensation", "version") if not fields[key])
        return {key: value for key, value in fields.items() if key not in added}


@dataclass(frozen=True)
class RecordFile:
    """One record file of a folder."""

    file: str
    records: int
    sha256: str


@dataclass(frozen=True)
class Dataset:
    """All of dataset.json, in its order; `videos` are sorted by name. It holds no times and no host's names."""

    name: str
    kind: str
    classes: tuple[str, ...]
    splits: tuple[str, ...]
    streams: tuple[str, ...]  # "rgb", and "flow" where there is some
    short_side: int  # px; of JPEGs taken over, the commonest smallest side
    jpeg_quality: int  # 0 for JPEGs taken over, which do not say
    flow: FlowSettings | None
    counts: dict[str, int]  # videos, frames, pairs, quarantined, bytes
    checksum: str  # `checksum` of files and videos
    files: dict[str, tuple[RecordFile, ...]]  # folder -> its files
    videos: tuple[StoredVideo, ...]
    flow_facts: FlowFacts | None = None  # of all videos

    def has_dct(self, folder: str) -> bool:
        """Return whether a folder holds DCT records; frames are JPEGs always."""
        return folder != "rgb" and self.flow is not None and self.flow.codec == "dct"

    def plain(self) -> dict:
        """Return all but the videos as plain values, in the order in which they stand in the file."""
        fields = dataclasses.asdict(dataclasses.replace(self, videos=()))
        fields |= {"flow": self.flow and self.flow.plain()}
        return {key: value for key, value in fields.items() if key != "flow_facts" or value}


def checksum(files: dict[str, Sequence[RecordFile]], videos: Sequence[StoredVideo]) -> str:
    """Return the SHA-256 (hex) over the sorted SHA-256s of all record files and the table of videos."""
    digest = hashlib.sha256()
    for line in sorted(file.sha256 for folder in files.values() for file in folder):
        digest.update(f"{line}\n".encode())
    for video in videos:
        digest.update(f"{_video_line(video)}\n".encode())
    return digest.hexdigest()


def format_dataset(dataset: Dataset) -> str:
    """Return dataset.json's text: one line a key, and one line a video."""
    head = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in dataset.plain().items() if key != "videos"]
    lines = [f'"schema": {SCHEMA_VERSION}', f'"content": "{_content_sum(dataset)}"', *head]
    videos = ",\n".join(_video_line(video) for video in dataset.videos)
    return "{\n" + ",\n".join(lines) + ',\n"videos": [\n' + videos + "\n]\n}\n"


def _content_sum(dataset: Dataset) -> str:
    """Return the SHA-256 (hex) over all that dataset.json says, class names and settings too."""
    head = json.dumps(dataset.plain(), sort_keys=True)
    lines = "".join(f"{_video_line(video)}\n" for video in dataset.videos)
    return hashlib.sha256(f"{head}\n{lines}".encode()).hexdigest()


def read_dataset(path: str | os.PathLike) -> Dataset:
    """Return what dataset.json in the records folder `path` says.

    Raises UserError when there is none, when it cannot be read, or when it is of another schema version.
    """
    file = pathlib.Path(path) / DATASET_FILE
    if pathlib.Path(path).is_file():
        raise UserError(f"data.records: {path} is a file; name the folder that --mode=prepare wrote")
    if not file.is_file():
        raise UserError(f"data.records: {path} holds no {DATASET_FILE}; run --mode=prepare first")
    try:
        plain = json.loads(file.read_bytes())
        version, content = plain.pop("schema"), plain.pop("content", "")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise UserError(
            f"{file}: cannot be read ({first_line(error)}); delete the folder and run --mode=prepare again"
        ) from error
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{file}: has schema version {shown(version)}, but this program reads {SCHEMA_VERSION}; "
            "run --mode=prepare into another data.records"
        )
    try:
        dataset = _dataset(plain)
        fault = next(itertools.chain(_faults(dataset), _video_faults(dataset)), "")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file}: cannot be read ({first_line(error)}); delete the folder and run --mode=prepare again"
        ) from error
    if not fault and content != _content_sum(dataset):
        fault = "its content does not fit its checksum, it was edited or damaged"
    if fault:
        raise UserError(f"{file}: {fault}; copy it again, or delete the folder and run --mode=prepare again")
    return dataset


def _video_line(video: StoredVideo) -> str:
    # Places of folders that do not exist are left out.
    return json.dumps({key: value for key, value in dataclasses.asdict(video).items() if value is not None})


def _dataset(plain: dict) -> Dataset:
    flow, facts = plain["flow"], plain.get("flow_facts")
    plain["flow"] = None if flow is None else FlowSettings(**flow)
    plain["flow_facts"] = None if facts is None else FlowFacts(**facts)
    plain["files"] = {folder: tuple(RecordFile(**file) for file in files) for folder, files in plain["files"].items()}
    plain["videos"] = tuple(_stored_video(video) for video in plain["videos"])
    for key in ("classes", "splits", "streams"):
        plain[key] = tuple(plain[key])
    return Dataset(**plain)


def _stored_video(plain: dict) -> StoredVideo:
    places = {folder: tuple(plain[folder]) for folder in FOLDERS if folder in plain}
    facts = {"flow_facts": FlowFacts(**plain["flow_facts"])} if "flow_facts" in plain else {}
    return StoredVideo(**({"bound_px": None} | plain | places | facts))


def _faults(dataset: Dataset) -> Iterator[str]:
    """Yield what cannot be in all but the table of videos."""
    # Names become parts of paths.
    if not _is_text(dataset.name) or not re.fullmatch(r"[\w-]+", dataset.name):
        yield f"name is {shown(dataset.name)}, not letters, digits, _ and -"
    for key in ("classes", "splits", "streams"):
        if not all(map(_is_text, getattr(dataset, key))) or len(set(getattr(dataset, key))) < len(
            getattr(dataset, key)
        ):
            yield f"{key} are not different words"
    for key in ("kind", "checksum"):
        if not isinstance(getattr(dataset, key), str):
            yield f"{key} is {shown(getattr(dataset, key))}, not a word"
    for key, least in (("short_side", 1), ("jpeg_quality", 0)):
        if not _is_whole(getattr(dataset, key), least):
            yield f"{key} is {shown(getattr(dataset, key))}, not a whole number from {least}"
    flow = dataset.flow
    if flow and not (
        _is_text(flow.method) and isinstance(flow.opencv_version, str) and isinstance(flow.backward, bool)
    ):
        yield "flow has not a method, an opencv_version and backward"
    if flow and not (isinstance(flow.camera_compensation, bool) and isinstance(flow.version, str)):
        yield f"flow.camera_compensation is {shown(flow.camera_compensation)}, flow.version {shown(flow.version)}"
    if not _are_facts(dataset.flow_facts):
        yield f"flow_facts are {shown(dataset.flow_facts)}, not px and a share"
    if flow and flow.bound_px != "video" and not _is_bound(flow.bound_px):
        yield f"flow.bound_px is {shown(flow.bound_px)}, neither px above 0 nor 'video'"
    if flow and flow.codec not in CODECS:
        yield f"flow.codec is {shown(flow.codec)}, none of {', '.join(CODECS)}"
    elif flow and not (_is_whole(flow.dct_planes, 0) and (flow.codec == "dct") == (0 < flow.dct_planes <= POSITIONS)):
        yield f"flow.dct_planes is {shown(flow.dct_planes)}, which flow.codec {flow.codec} cannot have"
    counts = ("videos", "frames", "pairs", "quarantined", "bytes")
    if set(dataset.counts) != set(counts) or not all(_is_whole(count, 0) for count in dataset.counts.values()):
        yield f"counts are not {', '.join(counts)}"
    for folder, files in dataset.files.items():
        if folder not in FOLDERS:
            yield f"files are of {shown(folder)}, none of {', '.join(FOLDERS)}"
        for file in files:
            if not _is_text(file.file) or not re.fullmatch(r"\w[\w.-]*", file.file) or not isinstance(file.sha256, str):
                yield f"files of {folder} hold {shown(file.file)}, which is no record file's name with its SHA-256"
            if not _is_whole(file.records, 0):
                yield f"{file.file} has {shown(file.records)} records"


def _video_faults(dataset: Dataset) -> Iterator[str]:
    """Yield what cannot be of each video; `_faults` has been asked before."""
    for video in dataset.videos:
        for key, least in (("label", 0), ("frames", 1), ("height", 1), ("width", 1), ("source_bytes", 0)):
            if not _is_whole(getattr(video, key), least):
                yield f"video {shown(video.name)}: {key} is {shown(getattr(video, key))}, not a whole number from {least}"
        if not _is_text(video.name) or not isinstance(video.group, str):
            yield f"video {shown(video.name)}: its name or group is not a word"
        if video.label >= len(dataset.classes):
            yield f"video {shown(video.name)}: label is {video.label}, there are {len(dataset.classes)} classes"
        if not isinstance(video.subsets, dict) or not all(subset in SUBSETS for subset in video.subsets.values()):
            yield f"video {shown(video.name)}: subsets are {shown(video.subsets)}"
        if video.bound_px is not None and not _is_bound(video.bound_px):
            yield f"video {shown(video.name)}: bound_px is {shown(video.bound_px)}, not px above 0"
        if not _are_facts(video.flow_facts):
            yield f"video {shown(video.name)}: flow_facts are {shown(video.flow_facts)}, not px and a share"
        for folder in FOLDERS:
            place, files = getattr(video, folder), dataset.files.get(folder, ())
            length = video.frames - (folder != "rgb")
            if place is not None and not _is_place(place, length, files):
                yield f"video {shown(video.name)}: its {folder} records {shown(place)} lie outside the files"
        if video.flow is not None and video.bound_px is None:
            yield f"video {shown(video.name)}: has flow and no bound_px"
    names = [video.name for video in dataset.videos]
    if names != sorted(set(names)):
        yield "the videos are not sorted by name, each once"


def _is_text(value) -> bool:
    return isinstance(value, str) and value != ""


def _is_whole(value, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_bound(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def _are_facts(facts: FlowFacts | None) -> bool:
    numbers = dataclasses.astuple(facts) if facts else ()
    return all(type(n) in (int, float) and math.isfinite(n) and n >= 0 for n in numbers) and numbers[1:] <= (1,)


def _is_place(place: tuple, length: int, files: Sequence[RecordFile]) -> bool:
    """Return whether (file's number, first record) and the `length` records from there on are among the files."""
    if len(place) != 2 or not all(_is_whole(number, 0) for number in place):
        return False
    number, first = place
    return number < len(files) and first + length <= files[number].records
