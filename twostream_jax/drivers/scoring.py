"""Scores of whole videos: every stack goes to the device once, its crops are made there, and the host sums per video."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from input_pipeline import pipeline, sampling
from twostream_jax import mesh as meshes
from twostream_jax.drivers.setup import Setup
from twostream_jax.drivers.tasks import Task
from twostream_jax.steps import jit_eval_step

# Batches that may be on the device at once: one computes while the next is copied.
IN_FLIGHT = 2


@dataclass(frozen=True)
class VideoScores:
    """Scores of N videos in the order of the table, float64 means over each video's stacks.

    `probs`, `logits` [N, C]: over stacks and crops; `centre_probs` [N, C]: over stacks, centre crop only; `clip_accuracy`
    [N]: the share of a video's stacks whose centre crop alone is classified right.
    """

    probs: np.ndarray
    logits: np.ndarray
    centre_probs: np.ndarray
    clip_accuracy: np.ndarray


class Scorer:
    """Scores the videos of a setup with given parameters; compiled once per frame size."""

    def __init__(self, setup: Setup, model, mesh: Mesh, *, crops: int):
        self._setup, self._model, self._mesh, self._crops = setup, model, mesh, crops
        self._step = jit_eval_step(mesh, model=model, inputs=setup.inputs, crops=crops)

    def __call__(
        self,
        params: Any,
        task: Task,
        table: sampling.VideoTable,
        labels: np.ndarray,
        head: str,
        frames: int,
        on_progress: Callable[[int, int], None],
    ) -> VideoScores:
        """Return the scores of a table of a task's videos at `frames` positions each, by a head of the net.

        labels: int [N], in the order of the head's classes. `on_progress(stacks done, stacks)` is called as it goes.
        """
        devices = self._mesh.devices.size
        batch_size = -(-self._setup.config.eval.batch_size // devices) * devices
        before, after = self._setup.span
        crop = self._setup.config.input.crop
        cut_late = crop if self._crops == 10 and self._model.takes_frames else None
        chunks = sampling.eval_chunks(table, batch_size, before=before, after=after, count=frames, crop=cut_late)
        batches = pipeline.eval_batches(
            task.records, table, chunks, self._setup.window(crop), reading=self._setup.reading()
        )
        sums = _Sums(labels, frames)
        on_progress(0, len(labels) * frames)
        flying: list[tuple[dict, dict]] = []
        for chunk, batch in zip(chunks, batches, strict=True):
            flying.append((chunk, self._step(params, meshes.put_batch(batch, self._mesh), chunk["apart"])[head]))
            if len(flying) >= IN_FLIGHT:
                sums.add(*flying.pop(0))
                on_progress(sums.stacks, len(labels) * frames)
        for chunk, outputs in flying:
            sums.add(chunk, outputs)
        on_progress(sums.stacks, len(labels) * frames)
        return sums.means()


class _Sums:
    """Running sums per video; float64, so that the order of batches does not show."""

    def __init__(self, labels: np.ndarray, frames: int):
        self._labels, self._frames = labels, frames
        self._arrays: dict[str, np.ndarray] = {}
        self._right = np.zeros(len(labels))
        self.stacks = 0

    def add(self, chunk: dict, outputs: dict[str, jax.Array]) -> None:
        real = chunk["weight"] > 0
        rows = chunk["row"][real]
        fetched = {key: np.asarray(value, np.float64)[real] for key, value in jax.device_get(outputs).items()}
        for key, values in fetched.items():
            total = self._arrays.setdefault(key, np.zeros((len(self._labels), values.shape[1])))
            np.add.at(total, rows, values)
        np.add.at(self._right, rows, fetched["centre_probs"].argmax(axis=1) == self._labels[rows])
        self.stacks += len(rows)

    def means(self) -> VideoScores:
        assert self.stacks == len(self._labels) * self._frames, (self.stacks, len(self._labels), self._frames)
        means = {key: total / self._frames for key, total in self._arrays.items()}
        return VideoScores(means["probs"], means["logits"], means["centre_probs"], self._right / self._frames)
