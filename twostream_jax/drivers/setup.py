"""What train and eval both need before any device work: the records, who is in which subset, the net and its inputs."""

from __future__ import annotations

import importlib.metadata
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import jax
import jax.numpy as jnp

from input_pipeline import pipeline, sampling, store, subsets, transforms
from input_pipeline.schema import UserError
from twostream_jax import validate, validate_run
from twostream_jax.drivers.input_checks import check_directions, check_input
from twostream_jax.models import STREAMS, build_model
from twostream_jax.steps import Inputs

PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


@dataclass(frozen=True)
class Setup:
    """A config that has passed every check, with its records opened; no device has been touched."""

    config: Any
    records: store.Records
    positions: dict[str, tuple[int, ...]]

    @classmethod
    def of(cls, config) -> Setup:
        """Return the setup of a config; UserError for anything that does not fit."""
        check_values(config)
        validate.check_split(config)
        if not config.data.records:
            raise UserError("data.records is empty: name the folder that --mode=prepare wrote")
        records = store.Records(Path(config.data.records))
        stored = records.dataset
        smallest = min((min(video.height, video.width) for video in records.videos), default=0)
        validate.check_records(config, stored.streams, smallest)
        check_directions(config, stored)
        wanted = tuple(config.data.classes)
        if wanted and set(wanted) != set(stored.classes):
            raise UserError(
                f"data.classes={','.join(wanted)}: {config.data.records} was prepared with {len(stored.classes)} classes "
                f"({', '.join(stored.classes[:3])}, ...); prepare records with these classes"
            )
        data = config.data
        chosen = subsets.select(
            records.videos,
            split=data.split,
            folds=data.folds,
            validation_fraction=data.validation_fraction,
            seed=data.seed,
        )
        return cls(config, records, chosen)

    @property
    def task(self) -> str:
        """The one task's name: that of the data set."""
        return self.records.dataset.name

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the records' labels."""
        return self.records.dataset.classes

    @property
    def records_facts(self) -> dict:
        """What of the records a checkpoint must remember: identity, and how to make the same from a new video."""
        stored = self.records.dataset
        return {
            "name": stored.name,
            "checksum": stored.checksum,
            "videos": len(stored.videos),
            "short_side": stored.short_side,
            "flow": asdict(stored.flow) if stored.flow else None,
        }

    @cached_property
    def trained_videos(self) -> str:
        """The fingerprints of the training videos, by which eval knows them again."""
        return validate_run.fingerprints(self.records.videos[i].name for i in self.positions["train"])

    @cached_property
    def inputs(self) -> Inputs:
        """How batches become the net's input."""
        return Inputs.of(self.config.input)

    @cached_property
    def span(self) -> tuple[int, int]:
        """Frames needed before and after an anchor."""
        section = self.config.input
        return sampling.anchor_span(
            section.streams, section.stack, section.flow_offset, section.bidirectional, section.clip_frames
        )

    def model(self, tasks: dict[str, int]):
        """Return the config's net with a head for each task."""
        return build_model(self.config.model, tasks, jnp.dtype(self.config.train.dtype))

    def table(self, subset: str) -> sampling.VideoTable:
        """Return the videos of a subset; UserError when it has none."""
        if not self.positions[subset]:
            hint = "; set data.validation_fraction above 0" if subset == "validation" else ""
            raise UserError(f"eval.subset={subset}: split {self.config.data.split} has no such videos{hint}")
        return sampling.VideoTable.of(self.records.videos, self.positions[subset])

    def window(self, side: int) -> transforms.Window:
        """Return the window that is read for one training sample: a square of `side` px, or the whole frame.

        Trajectories leave the crop they start in. Their windows have the largest stored size, so that all are of one shape.
        """
        section, videos = self.config.input, self.records.videos
        whole = "flow" in section.streams and section.stacking == "trajectory"
        height, width = (max(v.height for v in videos), max(v.width for v in videos)) if whole else (side, side)
        return transforms.Window(
            tuple(section.streams),
            section.stack,
            section.flow_offset,
            height,
            width,
            bidirectional=section.bidirectional,
            clip_frames=section.clip_frames,
            whole=whole,
        )

    def reading(self) -> pipeline.Reading:
        """Return how this process reads its rows of each batch."""
        data = self.config.data
        return pipeline.Reading(data.num_threads, data.num_workers, jax.process_index(), jax.process_count())


def package_versions() -> dict[str, str]:
    """Return the versions of what decides over numbers: the packages of the computation and of the flow."""
    versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    return versions | {"opencv": cv2.__version__}


def check_values(config) -> None:
    """Check a config's values by themselves, the net's smallest crop and its clip among them."""
    validate.check_config(config, STREAMS)
    check_input(config)
