"""mode=prepare: video files -> records."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from input_pipeline import dataset_file, synthetic
from input_pipeline.dataset_file import Dataset
from input_pipeline.datasets import list_videos
from input_pipeline.estimate import Estimate, check_room, estimate, size_words
from input_pipeline.prepare import prepare, verify
from input_pipeline.records_folder import check_before
from input_pipeline.schema import UserError
from input_pipeline.stages import PrepareSettings
from input_pipeline.video_list import VideoList, check_still
from twostream_jax.drivers.device_flow import device_flow, flow_version, resolve
from twostream_jax.drivers.setup import check_values
from twostream_jax.run_log import Progress


def prepare_records(config, *, dry_run: bool = False) -> Dataset | None:
    """Write the records of the config's videos to `data.records` and return their description.

    What it will cost is printed first, and a dry run stops there, returning None; where the records are complete there
    is nothing left to do, and they are described.
    """
    _check(config)
    if config.tasks:
        print("note: prepares the one data set of `data`; each of tasks is prepared with a config of its own")
    videos, settings = _videos_and_settings(config)
    records = Path(config.data.records)
    for note in videos.notes:
        print(f"note: {note}")
    if videos.given:
        print(f"{videos.name}: takes over {videos.videos[0].source.describe()}")
    if not (records / dataset_file.DATASET_FILE).exists():
        if not dry_run:
            check_before(records, videos, settings)
        cost = estimate(videos, settings, device_flow)
        where = f"; flow on {device_flow(settings.method).where()}" if settings.on_device else ""
        print(estimate_line(videos, cost) + where)
        check_room(records, cost)
    elif dry_run:
        print(dataset_line(config.data.records, dataset_file.read_dataset(records)))
    if dry_run:
        return None
    with Progress(f"prepare {records}", "videos") as progress:
        dataset = prepare(videos, records, settings, progress.update, progress.say, device_flow)
    print(dataset_line(config.data.records, dataset))
    return dataset


def verify_records(config) -> None:
    """Check every file of `data.records` against its checksum, name what is damaged and repair it from the videos.

    The videos are looked for only where something is damaged. Raises UserError when damage remains.
    """
    _check(config)
    records = Path(config.data.records)
    with Progress(f"verify {records}", "files") as progress:
        verify(records, partial(_videos_and_settings, config), progress.update, progress.say, device_flow)


def _videos_and_settings(config) -> tuple[VideoList, PrepareSettings]:
    videos = list_config_videos(config)
    check_still(videos, config.flow.method)
    method = config.flow.method if videos.given else resolve(config.flow.method, Path(config.data.records))
    return videos, prepare_settings(config, videos, method)


def _check(config) -> None:
    check_values(config)
    if not config.data.records:
        raise UserError("data.records is empty: name the folder that is to hold the records")


def prepare_settings(config, videos: VideoList, method: str) -> PrepareSettings:
    """Return the settings of a config for these videos, flow computed by `method`.

    How flow that is given was made is not the config's to say.
    """
    settings = PrepareSettings(
        short_side=config.data.short_side,
        method=method,
        bound_px=config.flow.bound_px,
        backward=config.flow.backward,
        max_bad_fraction=config.data.max_bad_fraction,
        processes=config.data.prepare_processes,
        codec=config.data.codec,
        dct_planes=config.data.dct_planes,
        camera_compensation=config.flow.camera_compensation,
        flow_version=flow_version(method),
    )
    if not videos.given:
        return settings
    if videos.flow:
        flow = videos.flow
        made = {"method": flow.method, "bound_px": flow.bound_px, "backward": flow.backward}
        made |= {"camera_compensation": flow.camera_compensation}
        made |= {"made_by_opencv": flow.opencv_version, "flow_version": flow.version}
        return replace(settings, given=videos.given, dct_planes=64, **made)
    method, bound_px = ("given" if "flow" in videos.given else "none"), config.data.jpeg_bound_px
    given = {"method": method, "bound_px": bound_px, "camera_compensation": False, "flow_version": ""}
    return replace(settings, given=videos.given, **given)


def list_config_videos(config) -> VideoList:
    """Return the videos that the config names; of kind synthetic, rendered to `data.videos` first."""
    if config.data.kind != "synthetic":
        return list_videos(config.data)
    data = config.data.copy_and_resolve_references()
    if not data.videos:
        raise UserError("data.videos is empty: name the folder that the synthetic videos are to be rendered to")
    variant = {"motions": tuple(data.motions), "camera_pan_px": data.camera_pan_px}
    data.split_file = str(synthetic.render(Path(data.videos), seed=data.seed, **variant))
    data.kind, data.videos = "csv", ""
    # Named after what it is, not after the folder that happens to hold it.
    # Sets of other seeds have videos of the same names, which a data set's name must tell apart.
    name = f"synthetic{data.seed}" if data.seed else "synthetic"
    return replace(list_videos(data), name=name, kind="synthetic")


def estimate_line(videos: VideoList, cost: Estimate) -> str:
    """Return the line that says what prepare is about to do."""
    seconds = 3600 * cost.hours
    time = (
        f"{cost.hours:.2g} h" if seconds >= 3600 else f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"
    )
    return (
        f"{videos.name}: {cost.videos} videos, {cost.pairs} flow pairs, about {time} and {size_words(cost.gigabytes)}"
    )


def dataset_line(records: str, dataset: Dataset) -> str:
    """Return the line that says what lies in the records folder."""
    counts = dataset.counts
    holds = [f"{counts['videos']} videos"]
    if "rgb" in dataset.streams:
        holds.append(f"{counts['frames']} frames")
    if dataset.flow:
        method = "taken over" if dataset.flow.method == "given" else dataset.flow.method
        form = ", DCT" if dataset.flow.codec == "dct" else ""
        holds.append(f"{counts['pairs']} flow pairs ({method}{form})")
        if dataset.flow_facts:
            facts, bound = dataset.flow_facts, dataset.flow.bound_px
            holds[-1] += f", {facts.mean_px:.2g} px long on average"
            holds[-1] += "" if bound == "video" else f", {100 * facts.clipped:.2g} % clipped at {bound:g} px"
    bad = f", {counts['quarantined']} set aside (see {records}/quarantine.jsonl)" if counts["quarantined"] else ""
    return f"{records}: {', '.join(holds)}, {size_words(counts['bytes'] / 1e9)}{bad}"
