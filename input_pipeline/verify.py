"""Records checked against their checksums, and damaged files made anew, byte for byte, from the videos."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from input_pipeline import dataset_file, shards
from input_pipeline.changes import check_same_makers, check_same_settings
from input_pipeline.dataset_file import Dataset
from input_pipeline.quarantine import SetAside
from input_pipeline.safe_files import write_atomically
from input_pipeline.schema import UserError
from input_pipeline.stages import PrepareSettings
from input_pipeline.store import Records
from input_pipeline.video_list import Video, VideoList

_SHOWN = 3  # records of a video that a line names

FindVideos = Callable[[], tuple[VideoList, PrepareSettings]]
# (videos, settings) -> {name: FinishedVideo, or SetAside}, with the records kept in a folder of finished videos.
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
    every = [(folder, number) for folder, files in dataset.files.items() for number in range(len(files))]
    places, damages = _places(dataset), []
    for done, (folder, number) in enumerate(every):
        stated = dataset.files[folder][number]
        on_file(done, len(every), stated.file)
        file = path / folder / stated.file
        if not file.is_file():
            whole = {i: tuple(range(_length(dataset, folder, i))) for i in places[folder, number]}
            damages.append(Damage(folder, number, file, "is missing", whole))
        elif not _is_as_written(file, stated.sha256):
            videos = _damaged_records(path, dataset, folder, places[folder, number])
            reason = "is damaged" if videos else "is damaged outside its records"
            damages.append(Damage(folder, number, file, reason, videos))
    on_file(len(every), len(every), "")
    return damages


def repair(damages: list[Damage], path: Path, partial: Path, find_videos: FindVideos, make: MakeAgain) -> None:
    """Write the damaged files of the records folder `path` anew: sound records as they are, the others from the videos.

    `find_videos` is called where a video must be decoded again, `make` prepares it into the folder `partial`. A file is
    replaced only by one with the stored checksum. What can be repaired is; then UserError names the rest: where a video
    has changed, is gone, or another OpenCV would make other flow.
    """
    dataset, faults = dataset_file.read_dataset(path), []
    wanted = {dataset.videos[position].name for damage in damages for position in damage.videos}
    made: dict = {}
    if wanted:
        videos, settings = find_videos()
        settings = _settings_of_repair(damages, dataset, path, settings)
        sources, faults = _sources(wanted, dataset, videos)
        made = make(sources, settings)
        faults += [f"{name}: {why.reason}" for name, why in made.items() if isinstance(why, SetAside)]
    usable = {name for name, result in made.items() if not isinstance(result, SetAside)}
    places = _places(dataset)
    for damage in damages:
        if not {dataset.videos[position].name for position in damage.videos} <= usable:
            continue
        content = _mended_records(path, dataset, damage, places[damage.folder, damage.number], partial)
        try:
            sha256, dct = dataset.files[damage.folder][damage.number].sha256, dataset.has_dct(damage.folder)
            shards.write_record_file(damage.file, content, dct=dct, sha256=sha256)
        except UserError:
            raise
        except ValueError as error:
            faults.append(
                f"{damage.file}: {error}: a video, a library or the device that computes flow has changed since"
            )
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise UserError(
            f"{path}: cannot all be repaired: {faults[0]}{more}; copy the damaged files or these videos again, or delete "
            "the folder and run --mode=prepare again"
        )


def _settings_of_repair(
    damages: list[Damage], dataset: Dataset, path: Path, settings: PrepareSettings
) -> PrepareSettings:
    """Return the settings that make the damaged records anew; UserError where they are not those of the records."""
    check_same_settings(dataset, path, settings)
    folders = {damage.folder for damage in damages if damage.videos}
    if folders - {"rgb"}:
        check_same_makers(dataset, path, "repaired records", settings)
        return settings
    # The frames need no flow.
    return replace(settings, method="none", backward=False, given=("rgb",) if settings.given else ())


def mend_metadata(path: Path) -> list[Path]:
    """Write tensorflow-datasets' two files of each folder anew where they differ from what they must be; return those."""
    dataset = dataset_file.read_dataset(path)
    mended = []
    for folder, files in dataset.files.items():
        if dataset.has_dct(folder):
            continue
        size = sum((path / folder / file.file).stat().st_size for file in files)
        for name, text in shards.tfds_metadata(folder, files, size).items():
            file = path / folder / name
            if not file.is_file() or not _same_json(file, text):
                write_atomically(file, text)
                mended.append(file)
    return mended


def _places(dataset: Dataset) -> dict[tuple[str, int], list[int]]:
    """Return {(folder, file's number): positions of the videos in it, in the order in which they lie there}."""
    inside: dict[tuple[str, int], list[tuple[int, int]]] = defaultdict(list)
    for position, video in enumerate(dataset.videos):
        for folder in dataset.files:
            number, first = getattr(video, folder)
            inside[folder, number].append((first, position))
    return defaultdict(list, {where: [i for _, i in sorted(found)] for where, found in inside.items()})


def _is_as_written(file: Path, sha256: str) -> bool:
    try:
        return shards.sha256_of(file) == sha256
    except OSError:  # a disk that cannot read it
        return False


def _damaged_records(path: Path, dataset: Dataset, folder: str, positions: list[int]) -> dict[int, tuple[int, ...]]:
    """Return the records of a file that cannot be read, by video; only videos that have some."""
    records, damaged = Records(path, dataset), {}
    for position in positions:
        bad = tuple(i for i in range(_length(dataset, folder, position)) if not _readable(records, folder, position, i))
        if bad:
            damaged[position] = bad
    return damaged


def _readable(records: Records, folder: str, video: int, index: int) -> bool:
    try:
        records.check(folder, video, index)
    except (UserError, OSError):
        return False
    return True


def _sources(wanted: Iterable[str], dataset: Dataset, video_list: VideoList) -> tuple[list[Video], list[str]]:
    """Return the videos of these names, and why some cannot serve: not listed, or not the file that was stored."""
    listed = {video.name: video for video in video_list.videos}
    sources, faults = [], []
    for stored in (video for video in dataset.videos if video.name in wanted):
        video = listed.get(stored.name)
        if video is None:
            faults.append(f"{stored.name} is not in the list of videos")
        elif video.size_bytes() != stored.source_bytes:
            size = video.size_bytes()
            faults.append(f"{video.path} has {size} bytes, its records were made of {stored.source_bytes}")
        else:
            sources.append(video)
    return sources, faults


def _mended_records(
    path: Path, dataset: Dataset, damage: Damage, positions: list[int], partial: Path
) -> Iterator[bytes]:
    records = Records(path, dataset)
    for position in positions:
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
