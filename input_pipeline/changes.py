"""What has changed since records were completed: in the settings, in the list of videos, in the videos themselves."""

from __future__ import annotations

import pathlib
from dataclasses import dataclass, replace

import cv2

from input_pipeline import dataset_file
from input_pipeline.dataset_file import Dataset
from input_pipeline.quarantine import content_of, read_quarantine
from input_pipeline.schema import UserError, shown
from input_pipeline.stages import PrepareSettings
from input_pipeline.video_list import Video, VideoList

_SHOWN = 3  # names an error shows


@dataclass(frozen=True)
class Changes:
    """What complete records lack: `videos` are to be prepared, and `dataset` has the list's labels, groups and splits."""

    new: tuple[str, ...]
    mended: tuple[str, ...]  # their files are others than those that were stored or set aside
    relabelled: tuple[str, ...]  # with another label, group or split
    dataset: Dataset

    @property
    def videos(self) -> frozenset[str]:
        """The names of all that must be prepared."""
        return frozenset(self.new + self.mended)


def changes_since(dataset: Dataset, video_list: VideoList, records: pathlib.Path, settings: PrepareSettings) -> Changes:
    """Return what must be done to make complete records those of this list.

    Raises UserError where they are of other settings or hold videos that the list has not: then they may be another data
    set's, which is not touched.
    """
    check_same_settings(dataset, records, settings)
    listed = {video.name: video for video in video_list.videos}
    stored = {video.name: video for video in dataset.videos}
    quarantine = read_quarantine(records)
    gone = sorted(name for name in {*stored, *quarantine} if name not in listed)
    if gone:
        raise UserError(
            f"data.records: {records} holds {len(gone)} videos that are not in the list now, such as "
            f"{', '.join(map(shown, gone[:_SHOWN]))}; choose another data.records or delete the folder"
        )
    new = [name for name in listed if name not in stored and name not in quarantine]
    mended = [
        name for name, video in listed.items() if name in stored and video.size_bytes() != stored[name].source_bytes
    ]
    mended += [name for name, line in quarantine.items() if line["content"] != content_of(listed[name])]
    if new or mended:
        check_same_opencv(dataset, records, "new videos")
    relabelled = _relabel(dataset, video_list, listed)
    pairs = zip(dataset.videos, relabelled.videos, strict=True)
    names = [before.name for before, after in pairs if _membership(before, dataset) != _membership(after, relabelled)]
    return Changes(tuple(sorted(new)), tuple(sorted(mended)), tuple(names), relabelled)


def check_same_settings(dataset: Dataset, records: pathlib.Path, settings: PrepareSettings) -> None:
    """Raise UserError, naming key and values, unless the records were made with these settings."""
    flow = dataset.flow
    found = {"flow.method": flow.method if flow else "none"}
    wanted = {"flow.method": settings.method}
    if settings.given:
        found["what it holds"], wanted["what it holds"] = dataset.streams, settings.given
    else:
        found["data.short_side"], wanted["data.short_side"] = dataset.short_side, settings.short_side
    if flow and settings.method != "none":
        bound_key = "data.jpeg_bound_px" if settings.given else "flow.bound_px"
        found |= {bound_key: flow.bound_px, "flow.backward": flow.backward}
        wanted |= {bound_key: settings.bound_px, "flow.backward": settings.backward}
    for key, value in found.items():
        if value != wanted[key]:
            raise UserError(
                f"data.records: {records} was prepared otherwise: {key} is {_words(value)} there and "
                f"{_words(wanted[key])} now; choose another data.records or delete the folder"
            )


def check_same_opencv(dataset: Dataset, records: pathlib.Path, what: str) -> None:
    """Raise UserError where another OpenCV made the flow: `what` made now would differ from the rest."""
    version = dataset.flow.opencv_version if dataset.flow else ""
    if version and version != cv2.__version__:
        raise UserError(
            f"data.records: the flow in {records} is by OpenCV {version}, {what} would get that of {cv2.__version__}; "
            f"install opencv-contrib-python-headless=={version}, or choose another data.records"
        )


def _relabel(dataset: Dataset, video_list: VideoList, listed: dict[str, Video]) -> Dataset:
    """Return the data set with the list's classes, splits, labels, groups and memberships."""
    videos = tuple(
        replace(video, label=now.label, group=now.group, subsets=dict(now.subsets))
        for video, now in ((video, listed[video.name]) for video in dataset.videos)
    )
    lists = {"classes": tuple(video_list.classes), "splits": tuple(video_list.splits)}
    return replace(dataset, videos=videos, checksum=dataset_file.checksum(dataset.files, videos), **lists)


def _membership(video, dataset: Dataset) -> tuple:
    return dataset.classes[video.label], video.label, video.group, video.subsets


def _words(value) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)
