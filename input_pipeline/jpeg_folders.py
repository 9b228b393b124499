"""Folders of JPEGs that a flow extractor left: which of the known layouts a set has, and its videos' sources.

| layout                                                                | written by                            |
|-----------------------------------------------------------------------|---------------------------------------|
| <video>/flow_x_00001.jpg, flow_y_00001.jpg, img_00001.jpg             | dense_flow (TSN), denseflow (mmaction) |
| <video>/x_00001.jpg, y_00001.jpg, with or without RGB                 | unpacked archives of dense_flow       |
| u/<video>/frame000001.jpg, v/<video>/..., RGB in jpegs_256/ or rgb/   | gpu_flow (feichtenhofer)              |

Each <video> may lie in a class folder. RGB may also lie in a folder of its own beside the flow or elsewhere
(`data.frames`), or be all there is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from input_pipeline.jpeg_video import JpegVideo, Series, prefixes
from input_pipeline.schema import UserError
from input_pipeline.video_list import VIDEO_SUFFIXES, Entries, Video, VideoList, one_spelling, subfolders, unreadable

_FLOW_PREFIXES = (("flow_x_", "flow_y_"), ("x_", "y_"))
# "flow_i_" is what dense_flow calls RGB when it is told nothing.
_FRAME_PREFIXES = ("img_", "image_", "flow_i_", "frame_", "frame", "")
_FRAME_FOLDERS = ("jpegs_256", "rgb")
_HALVES = ("u", "v")
# Folders of a set that are looked at, evenly spread: enough to see past a few that hold nothing.
_LOOKED_AT = 50

_KNOWN = (
    "known are <video>/flow_x_00001.jpg and flow_y_00001.jpg; <video>/x_00001.jpg and y_00001.jpg; "
    "u/<video>/frame000001.jpg and v/<video>/frame000001.jpg; each with RGB as img_, image_, frame_ or frame and a number, "
    "or RGB alone"
)


@dataclass(frozen=True)
class Place:
    """Where one series of every video lies: root/<video>/<prefix><number>.jpg."""

    root: Path
    prefix: str


@dataclass(frozen=True)
class Layout:
    """Where a set's videos lie. `root` is what lists are relative to: the root of x or, without flow, of RGB."""

    root: Path
    rgb: Place | None
    x: Place | None
    y: Place | None
    notes: tuple[str, ...] = ()  # lines for whoever prepares it

    @property
    def entries(self) -> Entries:
        """What the lists take for a video: a folder that is not one of RGB kept apart."""
        apart = self.rgb.root if self.rgb and self.rgb.root != self.root else None
        return Entries(partial(_folders_in, apart=apart), _bare)

    def check_classes(self) -> None:
        """Raise UserError where videos lie in no class folder, so that nothing says what they show."""
        prefix = (self.x or self.rgb).prefix
        flat = [folder for folder in _spread(subfolders(self.root)) if prefix in prefixes(folder)]
        if flat:
            raise UserError(
                f"data.videos: {flat[0]} lies in no class folder: set data.splits (official lists) or data.split_file "
                "(CSV), or put each class's videos into its own folder"
            )


def find_layout(root: Path, frames: Path | None) -> Layout:
    """Return the layout of the set in `root`; `frames` is the folder of RGB kept apart, where a user names one.

    Raises UserError where no layout is recognised, or more than one.
    """
    apart = frames or _first_folder(root, _FRAME_FOLDERS)
    here = _Look(root, apart)
    pairs = [pair for pair in _FLOW_PREFIXES if here.holds(pair[0]) or here.holds(pair[1])]
    if len(pairs) > 1:
        raise UserError(
            f"data.videos={root}: holds both flow_x_*.jpg and x_*.jpg: keep the flow of one extractor there"
        )
    if pairs:
        x, y = (Place(root, prefix) for prefix in pairs[0])
        own = None if frames else _frame_prefix(here)
        rgb = Place(root, own) if own is not None else _place_apart(apart)
        return Layout(root, rgb, x, y, () if rgb else _unknown_note(here, pairs[0]))
    halves = [folder for folder in (root, root / "tvl1_flow") if any((folder / half).is_dir() for half in _HALVES)]
    if halves:
        x, y = (_half(halves[0] / half) for half in _HALVES)
        return Layout(x.root, _place_apart(apart or _first_folder(halves[0], _FRAME_FOLDERS)), x, y)
    if frames:
        raise UserError(f"data.frames={frames}: goes with flow, but data.videos={root} holds none: {_KNOWN}")
    return _frames_only(here, apart)


def with_sources(listed: VideoList, layout: Layout, spare_field: str) -> VideoList:
    """Return the list with the source of each video (`JpegVideo`); `given` says which streams there are.

    Raises UserError where two videos would take the same folder.
    """
    others = {place: _Finder(place, layout.root) for place in (layout.rgb, layout.x, layout.y) if place}
    series = {place: [finder.series(video) for video in listed.videos] for place, finder in others.items()}
    for found in series.values():
        taken: dict[Path, Video] = {}
        for video, one in zip(listed.videos, found, strict=True):
            if taken.setdefault(one.folder, video) is not video:
                raise UserError(
                    f"{taken[one.folder].name} and {video.name} would both take {one.folder}: keep their folders apart"
                )
    columns = [series[p] if p else [None] * len(listed.videos) for p in (layout.rgb, layout.x, layout.y)]
    videos = tuple(
        replace(video, path=source.series[0].folder, source=source)
        for video, source in zip(listed.videos, map(partial(JpegVideo, spare_field=spare_field), *columns), strict=True)
    )
    given = tuple(stream for stream, place in (("rgb", layout.rgb), ("flow", layout.x)) if place)
    return replace(listed, kind="jpeg_folders", videos=videos, given=given, notes=(*listed.notes, *layout.notes))


class _Look:
    """The prefixes of JPEGs in a sample of the folders in `root`, the folder `apart` left out."""

    def __init__(self, root: Path, apart: Path | None):
        self.root = root
        self.folders = _with_pictures(root, apart)
        self.found = {folder: prefixes(folder) for folder in self.folders}

    def holds(self, prefix: str) -> bool:
        return any(prefix in found for found in self.found.values())


def _frame_prefix(look: _Look) -> str | None:
    """Return the prefix of RGB frames, None where there are none."""
    found = [prefix for prefix in _FRAME_PREFIXES if look.holds(prefix)]
    if len(found) > 1:
        names = " and ".join(f"{prefix}*.jpg" for prefix in found[:2])
        raise UserError(
            f"{look.root}: holds both {names}: keep one kind of RGB frames there (data.videos, data.frames)"
        )
    return found[0] if found else None


def _unknown_note(look: _Look, flow: tuple[str, str]) -> tuple[str, ...]:
    """Return what lies beside flow that is taken over alone: it may be RGB under a name of its own."""
    for folder, found in look.found.items():
        if unknown := sorted(found - set(flow)):
            known = ", ".join(name for name in _FRAME_PREFIXES if name.endswith("_"))
            return (
                f"data.videos={look.root}: only flow is taken over; {folder}/{unknown[0]}*.jpg is not known for RGB, which "
                f"is named {known} or frame and a number (data.frames: RGB that lies apart)",
            )
    return ()


def _place_apart(folder: Path | None) -> Place | None:
    if folder is None:
        return None
    prefix = _frame_prefix(_Look(folder, None))
    if prefix is None:
        raise UserError(f"{folder}: holds no <video>/frame000001.jpg or img_00001.jpg: name the RGB in data.frames")
    return Place(folder, prefix)


def _half(folder: Path) -> Place:
    """Return the place of one component of gpu_flow's layout."""
    prefix = _frame_prefix(_Look(folder, None)) if folder.is_dir() else None
    if prefix is None:
        raise UserError(
            f"data.videos: {folder} holds no <video>/frame000001.jpg, but the flow's two halves lie in u/ and v/: complete "
            "both (downloads come in several parts)"
        )
    return Place(folder, prefix)


def _frames_only(here: _Look, apart: Path | None) -> Layout:
    """Return the layout of a set of RGB frames without flow."""
    root = here.root
    if root.name in _HALVES and all((root.parent / half).is_dir() for half in _HALVES):
        raise UserError(f"data.videos={root} is one half of the flow: give the folder that holds u/ and v/")
    prefix = _frame_prefix(here)
    rgb = Place(root, prefix) if prefix is not None else _place_apart(apart)
    # Flow in PNGs beside RGB in JPEGs must not pass for RGB alone.
    patterns = ("flow_x_*.png", "x_*.png") if rgb else ("*.png",)
    png = next((path for folder in here.folders for pattern in patterns for path in folder.glob(pattern)), None)
    if png:
        raise UserError(f"data.videos={root}: {png} is a PNG; only JPEGs are taken over, convert the pictures")
    if rgb is None:
        raise UserError(f"data.videos={root}: no folders of JPEGs are recognised; {_KNOWN}")
    return Layout(rgb.root, rgb, None, None)


class _Finder:
    """Finds a video's folder in a place: at the same path, or by its name whatever its case and the spelling of accents.

    UCF-101's flow and frames spell one class in two ways, v_HandstandPushups_g01_c01 and v_HandStandPushups_g01_c01.
    """

    def __init__(self, place: Place, listed_from: Path):
        self._place, self._listed_from = place, listed_from

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        for path in _folders_in([self._place.root, *subfolders(self._place.root)]):
            found.setdefault(one_spelling(_bare(path).name).lower(), []).append(path)
        return found

    def series(self, video: Video) -> Series:
        """Return the video's series in this place, whether it is there or not."""
        path = video.path if video.path.is_dir() else _bare(video.path)
        same = self._place.root / path.relative_to(self._listed_from)
        if not same.is_dir() and self._place.root != self._listed_from:
            others = self._by_name.get(one_spelling(same.name).lower(), [])
            same = others[0] if len(others) == 1 else same
        return Series(same, self._place.prefix)


def _folders_in(folders: Iterable[Path], apart: Path | None = None) -> list[Path]:
    """Return the folders in these folders, by name, without what lies in the folder `apart` or cannot be read."""
    shown = [folder for folder in folders if folder != apart and not unreadable(folder)]
    return [path for folder in shown for path in subfolders(folder) if path != apart]


def _bare(folder: Path) -> Path:
    """Return the path without the suffix of the video that it was made from, if it bears one; other dots are its name's."""
    return folder.with_suffix("") if folder.suffix.lower() in VIDEO_SUFFIXES else folder


def _first_folder(root: Path, names: Iterable[str]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def _with_pictures(root: Path, apart: Path | None, depth: int = 4) -> list[Path]:
    """Return a spread of the folders below `root` that hold JPEGs or PNGs themselves, at most `_LOOKED_AT`."""
    found = []
    for folder in _spread([path for path in subfolders(root) if path != apart and not unreadable(path)]):
        if any(path.suffix.lower() in (".jpg", ".jpeg", ".png") for path in folder.iterdir()):
            found.append(folder)
        elif depth > 1:
            found += _with_pictures(folder, apart, depth - 1)
    return _spread(found)


def _spread(items: list[Path]) -> list[Path]:
    """Return at most `_LOOKED_AT` of the items, evenly spread."""
    step = max(1.0, len(items) / _LOOKED_AT)
    return [items[int(i * step)] for i in range(min(len(items), _LOOKED_AT))]
