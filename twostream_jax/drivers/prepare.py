"""mode=prepare: video files -> records."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from input_pipeline import store, synthetic
from input_pipeline.datasets import list_videos
from input_pipeline.prepare import Estimate, PrepareSettings, estimate, prepare
from input_pipeline.schema import UserError
from input_pipeline.store import Dataset
from input_pipeline.video_list import VideoList
from twostream_jax.drivers.setup import check_values
from twostream_jax.run_log import Progress


def prepare_records(config, *, dry_run: bool = False) -> Dataset | None:
    """Write the records of the config's videos to `data.records` and return their description.

    What it will cost is printed first, and a dry run stops there, returning None; where the records are complete there
    is nothing left to do, and they are described.
    """
    check_values(config)
    if not config.data.records:
        raise UserError("data.records is empty: name the folder that is to hold the records")
    videos = list_config_videos(config)
    settings = prepare_settings(config, videos.given)
    if videos.given:
        print(f"{videos.name}: takes over {videos.videos[0].source.describe()}")
    if not (Path(config.data.records) / store.DATASET_FILE).exists():
        print(estimate_line(videos, estimate(videos, settings)))
        if dry_run:
            return None
    with Progress(f"prepare {config.data.records}", "videos") as progress:
        dataset = prepare(videos, Path(config.data.records), settings, progress.update)
    print(dataset_line(config.data.records, dataset))
    return dataset


def prepare_settings(config, given: tuple[str, ...]) -> PrepareSettings:
    """Return the settings of a config for videos of which the streams `given` lie there as JPEGs."""
    settings = PrepareSettings(
        short_side=config.data.short_side,
        method=config.flow.method,
        bound_px=config.flow.bound_px,
        backward=config.flow.backward,
        max_bad_fraction=config.data.max_bad_fraction,
        processes=config.data.prepare_processes,
    )
    if not given:
        return settings
    method, bound_px = ("given" if "flow" in given else "none"), config.data.jpeg_bound_px
    return replace(settings, given=given, method=method, bound_px=bound_px, spare_field=config.data.spare_field)


def list_config_videos(config) -> VideoList:
    """Return the videos that the config names; of kind synthetic, rendered to `data.videos` first."""
    if config.data.kind != "synthetic":
        return list_videos(config.data)
    data = config.data.copy_and_resolve_references()
    if not data.videos:
        raise UserError("data.videos is empty: name the folder that the synthetic videos are to be rendered to")
    data.split_file = str(synthetic.render(Path(data.videos), seed=data.seed))
    data.kind, data.videos = "csv", ""
    # Named after what it is, not after the folder that happens to hold it.
    return replace(list_videos(data), name="synthetic", kind="synthetic")


def estimate_line(videos: VideoList, cost: Estimate) -> str:
    """Return the line that says what prepare is about to do."""
    return (
        f"{videos.name}: {cost.videos} videos, {cost.pairs} flow pairs, "
        f"about {cost.hours:.2g} h and {cost.gigabytes:.2g} GB"
    )


def dataset_line(records: str, dataset: Dataset) -> str:
    """Return the line that says what lies in the records folder."""
    counts = dataset.counts
    flow = f"{dataset.flow.method} flow" if dataset.flow else "no flow"
    bad = f", {counts['quarantined']} set aside (see {records}/quarantine.jsonl)" if counts["quarantined"] else ""
    return (
        f"{records}: {counts['videos']} videos, {counts['frames']} frames, {counts['pairs']} {flow} pairs, "
        f"{counts['bytes'] / 1e6:.1f} MB{bad}"
    )
