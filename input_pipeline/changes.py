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
    forgotten: tuple[str, ...]  # set aside, and no longer listed
    before: Dataset
    dataset: Dataset

    @property
    def none(self) -> bool:
        """Whether there is nothing to do."""
        return self.dataset == self.before and not self.videos and not self.forgotten

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
    gone = sorted(name for name in stored if name not in listed)
    if gone:
        raise UserError(
            f"data.records: {records} holds {len(gone)} videos that are not in the list now, such as "
            f"{', '.join(map(shown, gone[:_SHOWN]))}; list them again or choose another data.records"
        )
    new = [name for name in listed if name not in stored and name not in quarantine]
    mended = [
        name for name, video in listed.items() if name in stored and video.size_bytes() != stored[name].source_bytes
    ]
    forgotten = tuple(name for name in quarantine if name not in listed)
    here = {name: aside for name, aside in quarantine.items() if name in listed and listed[name].exists()}
    mended += [name for name, aside in here.items() if aside.content and aside.content != content_of(listed[name])]
    if new or mended:
        check_same_makers(dataset, records, "new videos", settings)
    theirs, ours = _makers(dataset, settings)
    if theirs == ours:
        mended += [name for name, aside in here.items() if not aside.content]  # may be usable now
    relabelled = _relabel(dataset, video_list, listed, quarantine)
    pairs = zip(dataset.videos, relabelled.videos, strict=True)
    names = [before.name for before, after in pairs if _membership(before, dataset) != _membership(after, relabelled)]
    return Changes(tuple(sorted(new)), tuple(sorted(mended)), tuple(names), forgotten, dataset, relabelled)


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
        bound_key = _bound_key(settings)
        found |= {bound_key: flow.bound_px, "flow.backward": flow.backward}
        wanted |= {bound_key: settings.bound_px, "flow.backward": settings.backward}
        coding = ("dct", flow.dct_planes) if flow.codec == "dct" else ()
        found |= _coding_keys(coding) | {"flow.camera_compensation": flow.camera_compensation}
        wanted |= _coding_keys(settings.coding) | {"flow.camera_compensation": settings.camera_compensation}
    for key, value in found.items():
        if value != wanted[key]:
            raise UserError(
                f"data.records: {records} was prepared otherwise: {key} is {_words(value)} there and "
                f"{_words(wanted[key])} now; choose another data.records or delete the folder"
            )


def _bound_key(settings: PrepareSettings) -> str:
    """Return what decides over the bound of the flow."""
    if not settings.given:
        return "flow.bound_px"
    return "data.jpeg_bound_px" if settings.method == "given" else "the bound of data.videos"


def _coding_keys(coding: tuple) -> dict:
    """Return how flow is stored, by key, of `PrepareSettings.coding`."""
    return dict(zip(("data.codec", "data.dct_planes"), coding or ("jpeg", "all"), strict=True))


def shown_settings(settings: PrepareSettings) -> dict[str, str]:
    """Return {key: value in words} of all settings that decide over records, and the OpenCV that computes flow."""
    if settings.given:
        keys = {"the streams": ", ".join(settings.given), _bound_key(settings): settings.bound_px}
        return {key: str(value) for key, value in (keys | _coding_keys(settings.coding)).items()}
    keys = {"data.short_side": settings.short_side, "flow.method": settings.method, "OpenCV": cv2.__version__}
    if settings.method != "none":
        keys |= {"flow.bound_px": settings.bound_px, "flow.backward": settings.backward}
        keys |= {"flow.camera_compensation": True} if settings.camera_compensation else {}
        keys |= {f"{settings.method}'s version": settings.flow_version} if settings.on_device else {}
        keys |= _coding_keys(settings.coding)
    return {key: str(value) for key, value in keys.items()}


def check_same_makers(dataset: Dataset, records: pathlib.Path, what: str, settings: PrepareSettings) -> None:
    """Raise UserError where other software made the flow: `what` made now would differ from the rest."""
    theirs, ours = _makers(dataset, settings)
    if theirs == ours:
        return
    if settings.given:
        raise UserError(
            f"data.records: the flow in {records} is by {theirs}, that of data.videos by {ours}; choose another data.records"
        )
    remedy = f"install opencv-contrib-python-headless=={dataset.flow.opencv_version}, or " * theirs.startswith("OpenCV")
    raise UserError(
        f"data.records: the flow in {records} is by {theirs}, {what} would get that of {ours.removeprefix('OpenCV ')}; "
        f"{remedy}choose another data.records"
    )


def _makers(dataset: Dataset, settings: PrepareSettings) -> tuple[str, str]:
    """Return what software made the flow and what would make more of it, in words; equal where there is none."""
    flow = dataset.flow
    if flow is None:
        return "", ""
    if flow.opencv_version != settings.opencv:
        return f"OpenCV {flow.opencv_version}", f"OpenCV {settings.opencv}"
    return f"{flow.method} {flow.version}", f"{flow.method} {settings.flow_version}"


def _relabel(dataset: Dataset, video_list: VideoList, listed: dict[str, Video], quarantine: dict) -> Dataset:
    """Return the data set with the list's classes, splits, labels, groups and memberships."""
    videos = tuple(
        replace(video, label=now.label, group=now.group, subsets=dict(now.subsets))
        for video, now in ((video, listed[video.name]) for video in dataset.videos)
    )
    lists = {"classes": tuple(video_list.classes), "splits": tuple(video_list.splits)}
    count = sum(name in listed for name in quarantine)
    lists["counts"] = dataset.counts | {"quarantined": count}
    return replace(dataset, videos=videos, checksum=dataset_file.checksum(dataset.files, videos), **lists)


def _membership(video, dataset: Dataset) -> tuple:
    return dataset.classes[video.label], video.label, video.group, video.subsets


def _words(value) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)
