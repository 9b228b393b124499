"""Record files, written: a few small files a finished video, merged at the end into shards that depend on the data alone."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from input_pipeline import dct_store
from input_pipeline.dataset_file import RecordFile
from input_pipeline.flow_facts import FlowFacts
from input_pipeline.safe_files import replace_safely, write_atomically
from input_pipeline.schema import UserError

# Few enough files for a whole data set, small enough to copy one by one.
SHARD_BYTES = 256 * 2**20

# One record a chunk: a random read then decompresses nothing but its own record.
_WRITER_OPTIONS = "group_size:1"

_SUFFIXES = {False: "array_record", True: "dct"}  # of record files, by whether they hold DCT records


@dataclass(frozen=True)
class EncodedVideo:
    """A video as it is stored: its facts, and {folder: its records in order}."""

    frames: int
    height: int  # px
    width: int
    bound_px: float | None  # None without flow
    records: dict[str, list[bytes]]
    flow_facts: FlowFacts | None  # None without flow, or where nobody took them


@dataclass(frozen=True)
class FinishedVideo:
    """What is known of a video whose records lie in the folder of finished videos."""

    frames: int
    height: int  # px
    width: int
    bound_px: float | None
    records: dict[str, int]  # folder ("rgb", "flow", ...) -> number of records
    sizes: dict[str, int]  # folder -> bytes of its records
    source_bytes: int  # size of what it was made from
    flow_facts: FlowFacts | None = None


def write_finished(
    partial: pathlib.Path, name: str, fingerprint: str, encoded: EncodedVideo, source_bytes: int
) -> FinishedVideo:
    """Keep a video's records in the folder `partial` until the merge; return what is known of it.

    `fingerprint` names everything the records depend on. The small JSON file comes last and says that the rest is whole.
    Raises OSError when the disk refuses.
    """
    sizes = {folder: sum(map(len, content)) for folder, content in encoded.records.items()}
    counts = {folder: len(content) for folder, content in encoded.records.items()}
    facts = (encoded.frames, encoded.height, encoded.width, encoded.bound_px)
    finished = FinishedVideo(*facts, counts, sizes, source_bytes, encoded.flow_facts)
    for folder, content in encoded.records.items():
        path = _partial_file(partial, name, folder)
        aside = path.with_name(f"{path.name}.tmp")
        _write_records(aside, content)
        aside.replace(path)
    plain = {"fingerprint": fingerprint} | dataclasses.asdict(finished)
    # Not told to the disk at once, which would take a while for each video: what a power cut leaves half is found.
    note = _partial_file(partial, name, "json")
    aside = note.with_name(f"{note.name}.tmp")
    aside.write_text(json.dumps(plain | {"check": _check_sum(plain)}), encoding="utf-8")
    aside.replace(note)
    return finished


def read_finished(partial: pathlib.Path, name: str, fingerprint: str) -> FinishedVideo | None:
    """Return a finished video of this fingerprint; None when there is none, one made otherwise, or a damaged one."""
    file = _partial_file(partial, name, "json")
    if not file.is_file():
        return None
    try:
        plain = json.loads(file.read_bytes())
        whole = plain.pop("check") == _check_sum(plain)
        same = plain.pop("fingerprint") == fingerprint
        facts = plain.pop("flow_facts", None)
        return FinishedVideo(**plain, flow_facts=facts and FlowFacts(**facts)) if whole and same else None
    # It is only made anew.
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def is_whole(partial: pathlib.Path, name: str, finished: FinishedVideo) -> bool:
    """Return whether a finished video's files hold as many records as they should; contents are not looked at."""
    for folder, count in finished.records.items():
        file = _partial_file(partial, name, folder)
        # The reader opens a missing or truncated file without complaint and finds no records in it.
        if not file.is_file() or ArrayRecordReader(str(file)).num_records() != count:
            return False
    return True


def _check_sum(plain: dict) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def finished_records(partial: pathlib.Path, name: str, folder: str, length: int) -> list[bytes]:
    """Return a finished video's records of a folder.

    Raises UserError when they are damaged; the video then counts as unfinished, so that the next run makes it anew.
    """
    try:
        content = ArrayRecordReader(str(_partial_file(partial, name, folder))).read_all()
    except RuntimeError:
        content = []
    if len(content) != length:
        _partial_file(partial, name, "json").unlink(missing_ok=True)
        raise UserError(f"{partial}: the {folder} records of {name} are damaged; run again, which makes them anew")
    return content


def write_record_file(file: pathlib.Path, content: Iterable[bytes], *, dct: bool, sha256: str | None = None) -> str:
    """Write a file of DCT records or an ArrayRecord file; see `dct_store.write_file` and `write_shard`."""
    return dct_store.write_file(file, content, sha256) if dct else write_shard(file, content, sha256)


def write_shard(file: pathlib.Path, content: Iterable[bytes], sha256: str | None = None) -> str:
    """Write an ArrayRecord file so that it appears when whole; return its SHA-256.

    With `sha256`, a file of another checksum never appears: ValueError. Raises OSError when the disk refuses.
    """
    aside = file.with_name(f"{file.name}.tmp")
    _write_records(aside, content)
    found = sha256_of(aside)
    if sha256 not in (None, found):
        aside.unlink()
        raise ValueError(f"its SHA-256 would be {found[:12]}... instead of {sha256[:12]}...")
    replace_safely(aside, file)
    return found


def sha256_of(file: pathlib.Path) -> str:
    """Return the SHA-256 (hex) of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def merge(
    records: pathlib.Path,
    folder: str,
    partial: pathlib.Path,
    finished: dict[str, FinishedVideo],
    on_video: Callable[[str], None],
    *,
    dct: bool,
) -> tuple[tuple[RecordFile, ...], list[tuple[int, int]], int]:
    """Write one folder's record files: of DCT records, or with tensorflow-datasets' two JSON files beside them.

    `finished` is in the order in which videos are stored; `on_video` is told each name. Returns (files, [(file's number,
    first record) of each video], bytes of the files). Takes as much disk again as the finished videos do. Raises OSError.
    """
    target = records / folder
    target.mkdir(exist_ok=True)
    for leftover in target.glob(f"{folder}-all.{_SUFFIXES[dct]}-*"):
        leftover.unlink()
    shards = plan_shards([video.sizes[folder] for video in finished.values()])
    names, count = list(finished), shards[-1] + 1
    files, places, size = [], [], 0
    for number, pairs in itertools.groupby(zip(shards, names, strict=True), key=lambda pair: pair[0]):
        inside = [name for _, name in pairs]
        file = target / f"{folder}-all.{_SUFFIXES[dct]}-{number:05d}-of-{count:05d}"
        lengths = {name: finished[name].records[folder] for name in inside}
        sha256 = write_record_file(file, _finished_records(partial, folder, lengths, on_video), dct=dct)
        firsts = [0, *_running_sums(lengths.values())]
        places += [(number, first) for first in firsts[:-1]]
        files.append(RecordFile(file.name, firsts[-1], sha256))
        size += file.stat().st_size
    if not dct:
        for name, text in tfds_metadata(folder, files, size).items():
            write_atomically(target / name, text)
    return tuple(files), places, size


def plan_shards(sizes: Sequence[int]) -> list[int]:
    """Return each video's shard: in order, a new one where the next video (bytes) would pass `SHARD_BYTES`."""
    shards, filled = [], 0
    for size in sizes:
        if shards and filled + size > SHARD_BYTES:
            shards.append(shards[-1] + 1)
            filled = size
        else:
            shards.append(shards[-1] if shards else 0)
            filled += size
    return shards


def _running_sums(numbers: Iterable[int]) -> Iterator[int]:
    total = 0
    for number in numbers:
        total += number
        yield total


def _partial_file(partial: pathlib.Path, name: str, suffix: str) -> pathlib.Path:
    # A name may hold slashes, and be longer than a file system allows.
    return partial / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.{suffix}"


def _finished_records(
    partial: pathlib.Path, folder: str, lengths: dict[str, int], on_video: Callable[[str], None]
) -> Iterator[bytes]:
    for name, length in lengths.items():
        content = finished_records(partial, name, folder, length)
        on_video(name)
        yield from content


def _write_records(path: pathlib.Path, content: Iterable[bytes]) -> None:
    try:
        writer = ArrayRecordWriter(str(path), _WRITER_OPTIONS)
        for record in content:
            writer.write(record)
        writer.close()
    except RuntimeError as error:
        # That is how ArrayRecord reports a full disk; what is half written would only keep it full.
        path.unlink(missing_ok=True)
        raise OSError(str(error)) from error


def tfds_metadata(folder: str, files: Sequence[RecordFile], size: int) -> dict[str, str]:
    """Return the texts of dataset_info.json and features.json as tensorflow-datasets 4.9 writes them, without importing it.

    The split is called `records`: `all` is tfds' own word for the union of all splits, so `as_data_source("all")` reads
    it, whereas a split of that name would make it recurse without end. Images are plain bytes, since tfds' Image feature
    needs tensorflow to decode.
    """
    split = {
        "filepathTemplate": "{DATASET}-all.{FILEFORMAT}-{SHARD_X_OF_Y}",
        "name": "records",
        "numBytes": str(size),
        "shardLengths": [str(file.records) for file in files],
    }
    info = {"fileFormat": "array_record", "name": folder, "splits": [split], "version": "1.0.0"}
    images = {"image": _tensor("string")} if folder == "rgb" else {"x": _tensor("string"), "y": _tensor("string")}
    features = {"video": _feature("text_feature.Text", "text", {}), "index": _tensor("int64"), **images}
    if folder != "rgb":
        features["mean"] = _tensor("float32", "2")
    top = _feature("features_dict.FeaturesDict", "featuresDict", {"features": features})
    return {"dataset_info.json": json.dumps(info, indent=2), "features.json": json.dumps(top, indent=2)}


def _feature(python_class: str, key: str, content: dict) -> dict:
    return {"pythonClassName": f"tensorflow_datasets.core.features.{python_class}", key: content}


def _tensor(dtype: str, *dimensions: str) -> dict:
    shape = {"dimensions": list(dimensions)} if dimensions else {}
    return _feature("tensor_feature.Tensor", "tensor", {"dtype": dtype, "encoding": "none", "shape": shape})
