"""Scores of whole videos: every stack goes to the device once, its crops are made there, and the host sums per video.

A position that repeats, in a video with fewer of them than are asked for, is computed once and counted as often.
"""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from input_pipeline import pipeline, sampling
from twostream_jax import mesh as meshes
from twostream_jax.drivers.setup import Setup
from twostream_jax.drivers.step_lines import one_by_one
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
    """Scores the videos of a setup with given parameters; compiled once per frame size.

    With `one_size` that holds for videos scored one by one, too, however few positions they have: all batches have as many
    rows as those of a video with enough positions.
    """

    def __init__(self, setup: Setup, model, mesh: Mesh, *, crops: int, workers: bool = True, one_size: bool = False):
        # Worker processes take seconds to start, which few videos are not worth.
        self._reading = setup.reading(workers)
        self._setup, self._model, self._mesh, self._crops = setup, model, mesh, crops
        self._one_size = one_size
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
        (scores,) = self.by_net_and_head([params], task, table, {head: labels}, frames, on_progress)
        return scores[head]

    def by_net_and_head(
        self,
        nets: Sequence[Any],
        task: Task,
        table: sampling.VideoTable,
        labels: Mapping[str, np.ndarray],
        frames: int,
        on_progress: Callable[[int, int], None],
    ) -> list[dict[str, VideoScores]]:
        """Return, for the parameters of each of the `nets`, the scores by each head that `labels` has.

        Every batch is read, decoded and preprocessed once for all of them.
        """
        multiple = self._mesh.devices.size
        batch_size = -(-self._setup.config.eval.batch_size // multiple) * multiple
        if self._one_size:
            most = -(-frames // -(-frames // batch_size))
            multiple = batch_size = -(-most // multiple) * multiple
        before, after = self._setup.span
        crop = self._setup.config.input.crop
        cut_late = crop if self._crops == 10 and self._model.takes_frames else None
        chunks = sampling.eval_chunks(
            table, batch_size, before=before, after=after, count=frames, crop=cut_late, multiple=multiple
        )
        batches = pipeline.eval_batches(task.records, table, chunks, self._setup.window(crop), reading=self._reading)
        sums = [{head: _Sums(own, frames) for head, own in labels.items()} for _ in nets]
        in_flight = 1 if one_by_one(self._mesh) else IN_FLIGHT
        done, total = 0, sum(int((chunk["weight"] > 0).sum()) for chunk in chunks)
        on_progress(done, total)
        flying: collections.deque[tuple[dict, list[dict]]] = collections.deque()
        with contextlib.closing(batches):
            for number, (chunk, batch) in enumerate(zip(chunks, batches, strict=True), start=1):
                scores = self._step(tuple(nets), meshes.put_batch(batch, self._mesh), chunk["apart"])
                flying.append((chunk, [{head: by_head[head] for head in labels} for by_head in scores]))
                while len(flying) >= in_flight or (flying and number == len(chunks)):
                    chunk, scores = flying.popleft()
                    for of_net, by_head in zip(sums, jax.device_get(scores), strict=True):
                        for head, outputs in by_head.items():
                            of_net[head].add(chunk, outputs)
                    done += int((chunk["weight"] > 0).sum())
                    on_progress(done, total)
        return [{head: own.means() for head, own in of_net.items()} for of_net in sums]


class _Sums:
    """Running sums per video; float64, so that the order of batches does not show."""

    def __init__(self, labels: np.ndarray, frames: int):
        self._labels, self._frames = labels, frames
        self._arrays: dict[str, np.ndarray] = {}
        self._right, self._positions = np.zeros(len(labels)), np.zeros(len(labels))

    def add(self, chunk: dict, outputs: dict[str, np.ndarray]) -> None:
        """Add a chunk's scores, each as often as its weight says."""
        real = chunk["weight"] > 0
        rows, weight = chunk["row"][real], chunk["weight"][real].astype(np.float64)
        fetched = {key: value[real].astype(np.float64) for key, value in outputs.items()}
        for key, values in fetched.items():
            total = self._arrays.setdefault(key, np.zeros((len(self._labels), values.shape[1])))
            np.add.at(total, rows, weight[:, None] * values)
        right = fetched["centre_probs"].argmax(axis=1) == self._labels[rows]
        np.add.at(self._right, rows, weight * right)
        np.add.at(self._positions, rows, weight)

    def means(self) -> VideoScores:
        assert (self._positions == self._frames).all(), (self._positions, self._frames)
        means = {key: total / self._frames for key, total in self._arrays.items()}
        return VideoScores(means["probs"], means["logits"], means["centre_probs"], self._right / self._frames)
