"""Clip metrics as mergeable sums (device), and scores of whole videos (host, NumPy). Ties: the lower class index."""

from __future__ import annotations

import math
import operator

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct


@struct.dataclass
class ClipMetrics:
    """Sums over samples, by task: `merge` adds them, `compute` divides. Float32 [tasks], so counts are exact to 2^24."""

    loss_sum: jax.Array
    correct: jax.Array
    count: jax.Array
    # Scalar: of the total of the tasks' losses, times the count of all samples.
    total_sum: jax.Array

    @classmethod
    def empty(cls, tasks: int = 1) -> ClipMetrics:
        """Return the sums of no sample."""
        return cls(*(np.zeros(tasks, np.float32) for _ in range(3)), np.zeros((), np.float32))

    @classmethod
    def of(cls, losses: jax.Array, correct: jax.Array, count: jax.Array) -> ClipMetrics:
        """Return the sums of one batch from each task's loss, `correct_by_task` and `losses.task_weights`, [tasks] each.

        A loss is a mean, so it enters times its samples' count: merged losses are means over samples.
        """
        return cls(losses * count, correct, count, losses.sum() * count.sum())

    def merge(self, other: ClipMetrics) -> ClipMetrics:
        """Return the sums of both."""
        return jax.tree.map(operator.add, self, other)

    def compute(self, task_names: tuple[str, ...] = ("",)) -> dict[str, float]:
        """Return {"loss", "clip_accuracy"} as Python floats, NaN over no sample. Waits for the device.

        `loss` is the sum of the tasks' losses; of several tasks, "loss_<task>" and "clip_accuracy_<task>" are beside, of
        those that had a sample.
        """
        count = float(np.sum(self.count))
        values = {"loss": _ratio(self.total_sum, count), "clip_accuracy": _ratio(np.sum(self.correct), count)}
        for index, name in enumerate(task_names if len(task_names) > 1 else ()):
            own = float(self.count[index])
            if own:
                values[f"loss_{name}"] = _ratio(self.loss_sum[index], own)
                values[f"clip_accuracy_{name}"] = _ratio(self.correct[index], own)
        return values


def _ratio(total, count: float) -> float:
    return float(total) / count if count else math.nan


def correct_by_task(
    logits: dict[str, jax.Array], labels: jax.Array, task: jax.Array, weight: jax.Array, task_names: tuple[str, ...]
) -> jax.Array:
    """Return the weighted number of each task's samples whose head ranks the label first, float32 [tasks].

    logits {task: [B, T, C]}, averaged over T; labels, task int32 [B]; weight float32 [B].
    """
    totals = []
    for index, name in enumerate(task_names):
        hit = (jnp.argmax(logits[name].mean(axis=1), axis=-1) == labels) & (task == index)
        totals.append(jnp.where(hit, weight, jnp.float32(0)).sum())
    return jnp.stack(totals)


def accuracy(probs: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of rows of probs [N, C] whose highest class is the label [N]."""
    return float(np.mean(np.argmax(probs, axis=1) == labels))


def top_k(probs: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Return the share of rows of probs [N, C] whose label [N] is among the k highest classes."""
    own = np.take_along_axis(probs, labels[:, None], axis=1)
    earlier = np.arange(probs.shape[1])[None, :] < labels[:, None]
    rank = np.sum((probs > own) | ((probs == own) & earlier), axis=1)
    return float(np.mean(rank < k))


def mean_class_accuracy(probs: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean over the classes present in labels [N] of each class's accuracy; probs is [N, C]."""
    correct = np.argmax(probs, axis=1) == labels
    return float(np.mean([correct[labels == c].mean() for c in np.unique(labels)]))


def confusion(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """Return int64 [true class, predicted class] counts of labels [N] and predicted classes [N]."""
    counts = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(counts, (labels, predictions), 1)
    return counts


def wilson_interval(correct: float, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Return (low, high), the Wilson score interval of a share of `correct` in `n`; (0, 1) for n = 0.

    z is the normal quantile of the two-sided level, 95 % by default. E. B. Wilson, JASA 22 (1927): unlike p +- z s it
    stays inside [0, 1] and keeps a width at p = 0 and 1.
    """
    if n == 0:
        return 0.0, 1.0
    share = correct / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)
