"""Records checked against their checksums, and damaged files made anew, byte for byte, from the videos."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from input_pipeline import dataset_file, shards
from input_pipeline.changes import check_same_opencv, check_same_settings
from input_pipeline.dataset_file import Dataset
from input_pipeline.schema import UserError
from input_pipeline.stages import PrepareSettings
from input_pipeline.store import Records
from input_pipeline.video_list import Video, VideoList

_SHOWN = 3  # records of a video that a line names

# (videos, settings) -> {name: FinishedVideo or the reason why not}, with the records kept in a folder of finished videos.
MakeAgain = Callable[[list[Video], PrepareSettings], dict]


@dataclass(frozen=True)
class Damage:
    """One damaged record file: `videos` maps each video with damaged records (by position) to their numbers."""

    folder: str
    number: int
    file: Path
    reason: str
    videos: dict[int, tuple[int, ...]]

    def lines(self, dataset: Dataset) -> list[str]:
        """Return the file's line and one for each video."""
        texts = [f"{self.file}: {self.reason}"]
        for position, numbers in self.videos.items():
            video = dataset.videos[position]
            whole = len(numbers) == (video.frames if self.folder == "rgb" else video.pairs)
            some = ", ".join(map(str, numbers[:_SHOWN])) + (", ..." if len(numbers) > _SHOWN else "")
            texts.append(
                f"  {video.name}: {'all' if whole else len(numbers)} records" + ("" if whole else f" ({some})")
            )
        return texts


def find_damage(path: Path, on_file: Callable[[int, int, str], None]) -> list[Damage]:
    """Return what is damaged in the records folder `path`; `on_file(done, files, name)` is told of each file.

    Every file's SHA-256 is compared; only in a file that differs is every record read. Raises UserError where
    dataset.json itself is damaged, which nothing else could tell how to mend.
    """
    dataset = dataset_file.read_dataset(path)
    if dataset.checksum != dataset_file.checksum(dataset.files, dataset.videos):
        raise UserError(
            f"{path / dataset_file.DATASET_FILE}: its checksum does not fit its content, it was edited or "
            "damaged; copy it again, or delete the folder and run --mode=prepare again"
        )
    every = [(folder, number) for folder, files in dataset.files.items() for number in range(len(files))]
    damages = []
    for done, (folder, number) in enumerate(every):
        stated = dataset.files[folder][number]
        on_file(done, len(every), stated.file)
        file = path / folder / stated.file
        if not file.is_file():
            damages.append(Damage(folder, number, file, "is missing", _all_records(dataset, folder, number)))
        elif shards.sha256_of(file) != stated.sha256:
            videos = _damaged_records(path, dataset, folder, number)
            reason = "is damaged" if videos else "is damaged outside its records"
            damages.append(Damage(folder, number, file, reason, videos))
    on_file(len(every), len(every), "")
    return damages


def repair(
    damages: list[Damage], video_list: VideoList, path: Path, settings: PrepareSettings, partial: Path, make: MakeAgain
) -> None:
    """Write the damaged files of the records folder `path` anew: sound records as they are, the others from the videos.

    `make` prepares videos into the folder `partial`. A file is replaced only by one with the stored checksum; UserError
    where a video has changed, is gone, or another OpenCV would make other flow.
    """
    dataset = dataset_file.read_dataset(path)
    check_same_settings(dataset, path, settings)
    folders = {damage.folder for damage in damages if damage.videos}
    if folders - {"rgb"}:
        check_same_opencv(dataset, path, "repaired records")
    if folders == {"rgb"}:  # the frames need no flow
        given = ("rgb",) if settings.given else ()
        settings = replace(settings, method="none", backward=False, given=given)
    wanted = {dataset.videos[position].name: position for damage in damages for position in damage.videos}
    for name, result in make(_sources(wanted, dataset, video_list), settings).items():
        if isinstance(result, str):
            raise UserError(f"{path}: {name} cannot be repaired, {result}; copy its records or its video again")
    for damage in damages:
        stated = dataset.files[damage.folder][damage.number]
        try:
            shards.write_shard(damage.file, _mended_records(path, dataset, damage, partial), stated.sha256)
        except ValueError as error:
            raise UserError(
                f"{damage.file}: cannot be repaired, {error}: a video or a library has changed since; copy the file again, "
                "or delete the folder and run --mode=prepare again"
            ) from error


def mend_metadata(path: Path) -> list[Path]:
    """Write tensorflow-datasets' two files of each folder anew where they differ from what they must be; return those."""
    dataset = dataset_file.read_dataset(path)
    mended = []
    for folder, files in dataset.files.items():
        size = sum((path / folder / file.file).stat().st_size for file in files)
        for name, text in shards.tfds_metadata(folder, files, size).items():
            file = path / folder / name
            if not file.is_file() or not _same_json(file, text):
                shards.write_atomically(file, text)
                mended.append(file)
    return mended


def _all_records(dataset: Dataset, folder: str, number: int) -> dict[int, tuple[int, ...]]:
    places = [getattr(video, folder) for video in dataset.videos]
    inside = shards.shard_videos(places, number)
    return {i: tuple(range(_length(dataset, folder, i))) for i in inside}


def _damaged_records(path: Path, dataset: Dataset, folder: str, number: int) -> dict[int, tuple[int, ...]]:
    """Return the records of a file that cannot be read, by video; only videos that have some."""
    records, damaged = Records(path), {}
    for position, numbers in _all_records(dataset, folder, number).items():
        bad = tuple(i for i in numbers if not _readable(records, folder, position, i))
        if bad:
            damaged[position] = bad
    return damaged


def _readable(records: Records, folder: str, video: int, index: int) -> bool:
    try:
        records.check(folder, video, index)
    except UserError:
        return False
    return True


def _sources(wanted: Iterable[str], dataset: Dataset, video_list: VideoList) -> list[Video]:
    """Return the videos of these names; UserError where one is not listed or not the file that was stored."""
    listed = {video.name: video for video in video_list.videos}
    stored = {video.name: video for video in dataset.videos}
    sources = []
    for name in wanted:
        if name not in listed:
            raise UserError(
                f"data.videos: {name}, whose records are damaged, is not in the list; copy its records again"
            )
        if listed[name].size_bytes() != stored[name].source_bytes:
            raise UserError(
                f"{listed[name].path}: has {listed[name].size_bytes()} bytes instead of the {stored[name].source_bytes} "
                "that its records were made of, so they cannot be repaired from it; copy the video or the records again"
            )
        sources.append(listed[name])
    return sources


def _mended_records(path: Path, dataset: Dataset, damage: Damage, partial: Path) -> Iterator[bytes]:
    records = Records(path)
    for position in _all_records(dataset, damage.folder, damage.number):
        name, length = dataset.videos[position].name, _length(dataset, damage.folder, position)
        if position in damage.videos:
            yield from shards.finished_records(partial, name, damage.folder, length)
        else:
            yield from records.raw(damage.folder, position)


def _length(dataset: Dataset, folder: str, position: int) -> int:
    return dataset.videos[position].frames - (folder != "rgb")


def _same_json(file: Path, text: str) -> bool:
    try:
        return json.loads(file.read_bytes()) == json.loads(text)
    except ValueError:
        return False
