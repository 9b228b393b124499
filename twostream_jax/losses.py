"""Softmax cross-entropy of one or several tasks that share a trunk."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def task_weights(task: jax.Array, weight: jax.Array, tasks: int) -> jax.Array:
    """Return the sum of the samples' weights by task, float32 [tasks]; task int32 [B], weight float32 [B]."""
    return jnp.zeros(tasks, jnp.float32).at[task].add(weight)


def multi_task_loss(
    logits: dict[str, jax.Array],
    labels: jax.Array,
    task: jax.Array,
    weight: jax.Array,
    task_names: tuple[str, ...],
    totals: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Return (total, {task: loss}), float32 scalars: the total is the sum of the tasks' losses (2014 paper, Sect. 4).

    logits {task: [B, T, C_task]}; labels int32 [B], 0-based in the sample's own task; task int32 [B], an index into
    `task_names`; weight float32 [B], 0 for padding; `totals` are the `task_weights` of the whole batch where these are
    samples of a part of it, so that the parts' losses add up to the batch's. A task's loss is the weighted mean over its
    own samples in the whole (global) batch, 0 where it has none, and the mean over T. That each task takes the mean, not
    the sum, is our reading: the paper only says that a task's loss "operates only on the videos" of its data set. A label
    outside its own task's classes gives NaN.
    """
    if totals is None:
        totals = task_weights(task, weight, len(task_names))
    per_task = {}
    for index, name in enumerate(task_names):
        own = task == index
        # Another task's label may lie beyond this head's classes: it must not index at all.
        label = jnp.where(own, labels, 0)
        entropy = jnp.where(own, _cross_entropy(logits[name], label), jnp.float32(0))
        own_weight = jnp.where(own, weight, jnp.float32(0))
        count = jnp.maximum(totals[index], np.finfo(np.float32).tiny)
        per_task[name] = (own_weight * entropy).sum() / count
    return sum(per_task.values(), jnp.zeros((), jnp.float32)), per_task


def _cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return -log softmax at the label, float32 [B], averaged over T; logits [B, T, C], labels int32 [B]."""
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    index = jnp.broadcast_to(labels[:, None, None], (*logits.shape[:2], 1))
    return -jnp.take_along_axis(log_probs, index, axis=-1)[..., 0].mean(axis=1)
