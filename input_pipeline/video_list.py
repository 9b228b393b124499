"""A list of videos, and the paths that lists of every kind are made of."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from input_pipeline.dataset_file import FlowSettings
from input_pipeline.schema import UserError, shown_name

VIDEO_SUFFIXES = (".avi", ".mp4", ".mkv", ".mov", ".webm", ".mpg", ".mpeg", ".m4v", ".wmv", ".flv", ".3gp")


# Control characters, line separators, and what Python makes of bytes in file names that are not UTF-8.
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Source(Protocol):
    """Where the frames of a video come from that is no file of its own."""

    def exists(self) -> bool:
        """Return whether it is there."""

    def size_bytes(self) -> int:
        """Return its size on disk; another size means another content."""

    def count_frames(self) -> int:
        """Return how many frames it has, as far as is known without decoding one."""


@dataclass(frozen=True, slots=True)
class Video:
    """One video: `subsets` maps a split's name to "train" or "test"; a split it has no part in is absent."""

    name: str  # relative posix path without suffix, e.g. "Biking/v_Biking_g01_c04"
    path: Path  # the file or folder that messages name
    label: int  # 0-based position in VideoList.classes
    group: str  # source of the clip; folds and held-out validation groups never divide one
    subsets: dict[str, str]
    source: Source | None = None  # None: the file at `path`

    def exists(self) -> bool:
        """Return whether there is something to decode."""
        return self.source.exists() if self.source else os.path.isfile(self.path)

    def size_bytes(self) -> int:
        """Return the size of what is decoded, 0 where there is nothing."""
        if not self.exists():
            return 0
        return self.source.size_bytes() if self.source else self.path.stat().st_size


@dataclass(frozen=True)
class VideoList:
    """The videos of a data set, sorted by name, names unique."""

    name: str
    kind: str
    classes: tuple[str, ...]
    splits: tuple[str, ...]
    videos: tuple[Video, ...]
    given: tuple[str, ...] = ()  # streams ("rgb", "flow") that lie there as JPEGs and are taken over; () decodes
    flow: FlowSettings | None = None  # how given flow was made, where that is known
    still: bool = False  # every video is one picture, so that there is no flow
    notes: tuple[str, ...] = ()  # lines for whoever prepares it: what was left out, what looks like a mistake


def check_still(videos: VideoList, method: str) -> None:
    """Raise UserError when flow is wanted (`flow.method`) of still images."""
    if videos.still and method != "none":
        raise UserError(
            f"flow.method={method}: {videos.name} holds still images, which have no flow; set flow.method=none and "
            "train a net on RGB"
        )


def existing_folder(key: str, value: str) -> Path:
    """Return the absolute path of an existing folder that can be read, links kept."""
    if not value:
        raise UserError(f"{key} is empty: give a folder")
    folder = Path(os.path.abspath(os.path.expanduser(value)))
    if not folder.is_dir():
        raise UserError(f"{key}={value} is not a folder")
    if reason := unreadable(folder):
        raise UserError(f"{key}={value} cannot be read ({reason}): mend its permissions, or give another folder")
    return folder


def unreadable(folder: Path) -> str:
    """Return why the disk refuses to list a folder; empty where it does not."""
    try:
        os.scandir(folder).close()
    except OSError as error:
        return error.strerror or type(error).__name__
    return ""


def inside(root: Path, entry: str, where: str) -> Path:
    """Return root/entry, which must lie in `root` by name (a link in there may lead elsewhere).

    An absolute entry may name `root` by another path that leads there.
    """
    path = Path(os.path.normpath(root / entry))
    if path.is_relative_to(root) and path != root:
        return path
    real = root.resolve()
    if real not in path.parents:
        raise UserError(f"{where}: {entry} lies outside the videos folder {root}: move it in or set data.videos")
    return root / path.relative_to(real)


def one_spelling(text: str) -> str:
    """Return a name with accents as single characters (NFC); disks and archives of macOS spell them as two (NFD)."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def on_disk(root: Path, path: Path) -> Path:
    """Return a path below `root` as the disk spells it, each name's accents as one character or two.

    From where there is neither it stays as given.
    """
    if str(path).isascii():
        return path
    for part in path.relative_to(root).parts:
        spellings = (part, unicodedata.normalize("NFC", part), unicodedata.normalize("NFD", part))
        root = next((root / each for each in spellings if os.path.lexists(root / each)), root / part)
    return root


def unfit(text: str) -> bool:
    """Return whether a name holds line breaks, other control characters, or bytes that are no text.

    Such a name would break messages, records and score files.
    """
    return _UNFIT.search(text) is not None


def such_as(names: list[str]) -> str:
    """Return the first three of these names, for a line of text."""
    return f"such as {', '.join(shown_name(name) for name in names[:3])}"


def check_spellings(classes: Iterable[str], where: str) -> None:
    """Raise UserError when two class names differ in nothing but case."""
    seen: dict[str, str] = {}
    for name in classes:
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            raise UserError(f"{where}: a class is spelt both {other!r} and {name!r}: choose one")


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in a folder that are not hidden, by name."""
    # scandir knows what is a folder without a call for each of the many files that one may hold.
    with os.scandir(folder) as entries:
        return sorted(folder / entry.name for entry in entries if is_folder(entry) and not entry.name.startswith("."))


def is_folder(entry: os.DirEntry) -> bool:
    """Return whether what scandir found is a folder; a link that leads back to itself is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def video_files(folders: Iterable[Path]) -> list[Path]:
    """Return the files with a video's suffix, whatever its case, that lie in these folders."""
    return [
        path
        for folder in folders
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".")
    ]


def without_suffix(path: Path) -> Path:
    """Return the path of a video file without its suffix."""
    return path.with_suffix("")


@dataclass(frozen=True)
class Entries:
    """What stands for a video in a folder: a file by its suffix, or a folder of pictures."""

    find: Callable[[Iterable[Path]], list[Path]]  # the videos that lie in these folders, by name
    bare: Callable[[Path], Path]  # a video's path less what is no part of its name


FILES = Entries(video_files, without_suffix)


def clean_name(name: str) -> str:
    """Return a name fit for a file: lower case, other signs than letters, digits, _ and - as one dash."""
    return re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-") or "videos"
