"""What train and eval both need before any device work: the records, who is in which subset, the net and its inputs."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import jax
import jax.numpy as jnp

from input_pipeline import dct, pipeline, sampling, transforms
from input_pipeline.workers import usable_cores
from twostream_jax import validate
from twostream_jax.drivers.input_checks import check_input
from twostream_jax.drivers.tasks import Task, open_tasks
from twostream_jax.models import STREAMS, build_model
from twostream_jax.steps import Inputs

PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


@dataclass(frozen=True)
class Setup:
    """A config that has passed every check, with its records opened; no device has been touched."""

    config: Any
    tasks: tuple[Task, ...]

    @classmethod
    def of(cls, config) -> Setup:
        """Return the setup of a config; UserError for anything that does not fit."""
        check_values(config)
        validate.check_split(config)
        return cls(config, open_tasks(config))

    @property
    def only(self) -> Task:
        """The task of a config that has one."""
        (task,) = self.tasks
        return task

    @property
    def heads(self) -> dict[str, int]:
        """How many classes the head of each task tells apart."""
        return {task.name: len(task.classes) for task in self.tasks}

    @property
    def records_facts(self) -> dict[str, dict]:
        """What a checkpoint must remember of the records of each task."""
        return {task.name: task.facts for task in self.tasks}

    @cached_property
    def inputs(self) -> Inputs:
        """How batches become the net's input."""
        return Inputs.of(self.config.input, self.planes)

    @cached_property
    def planes(self) -> tuple[int, ...]:
        """The DCT planes of the tasks' flow, together; () where it is stored as JPEGs, or none is read."""
        section = self.config.input
        if "flow" not in section.streams:
            return ()
        directions = (False, True) if section.bidirectional else (False,)
        found = [task.records.planes(backward) for task in self.tasks for backward in directions]
        return tuple(sorted(set().union(*found)))

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

    def window(self, side: int) -> transforms.Window:
        """Return the window that is read for one training sample: a square of `side` px, or the whole frame.

        Trajectories leave the crop they start in. Their windows have the largest stored size, so that all are of one shape.
        Of DCT records the square is the blocks that hold it wherever it lies, and the frame is all of its blocks.
        """
        section = self.config.input
        videos = [video for task in self.tasks for video in task.records.videos]
        whole = "flow" in section.streams and section.stacking == "trajectory"
        height, width = (max(v.height for v in videos), max(v.width for v in videos)) if whole else (side, side)
        if self.planes:
            blocks = (lambda px: -(-px // dct.BLOCK)) if whole else dct.window_blocks
            height, width = dct.BLOCK * blocks(height), dct.BLOCK * blocks(width)
        return transforms.Window(
            tuple(section.streams),
            section.stack,
            section.flow_offset,
            height,
            width,
            bidirectional=section.bidirectional,
            clip_frames=section.clip_frames,
            whole=whole,
            planes=self.planes,
        )

    def reading(self, workers: bool = True) -> pipeline.Reading:
        """Return how this process reads its rows of each batch; without `workers`, in threads whatever the config says."""
        data = self.config.data
        # DCT records are read by many short calls, in which threads only wait for each other.
        threads = data.num_threads or (1 if self.planes else usable_cores() + 1)
        return pipeline.Reading(threads, data.num_workers * workers, jax.process_index(), jax.process_count())


def package_versions() -> dict[str, str]:
    """Return the versions of what decides over numbers: the packages of the computation and of the flow."""
    versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    return versions | {"opencv": cv2.__version__}


def check_values(config) -> None:
    """Check a config's values by themselves, the net's smallest crop and its clip among them."""
    validate.check_config(config, STREAMS)
    check_input(config)
