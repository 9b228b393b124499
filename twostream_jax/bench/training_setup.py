"""A config's training input over all videos of some records, whatever their splits."""

from __future__ import annotations

from pathlib import Path

from input_pipeline import pipeline
from input_pipeline.store import Records
from twostream_jax.drivers.setup import Setup, check_values
from twostream_jax.drivers.tasks import Task


def all_videos_setup(config, path: Path) -> Setup:
    """Return the setup of all videos in the records at `path`."""
    check_values(config)
    records = Records(path)
    everyone = {"train": tuple(range(len(records))), "validation": (), "test": ()}
    return Setup(config, (Task("bench", "data", config.data, records, everyone),))


def draw_of(setup: Setup, batch_size: int) -> pipeline.DrawBatch:
    """Return what draws this setup's training batches."""
    section, (before, after) = setup.config.input, setup.span
    table = setup.only.table("train")
    return pipeline.DrawBatch((table,), batch_size, before, after, section.crop, section.flip, setup.config.seed)
