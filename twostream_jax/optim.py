"""Momentum SGD with weight decay, the papers' step schedules, and which layers stay fixed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import jax
import jax.numpy as jnp
import optax

from input_pipeline.schema import UserError


def learning_rate(optim) -> optax.Schedule:
    """Return the rate by step: `learning_rate`, multiplied by `drop_factor` at each step of `drops`, after a linear rise.

    2014 Sect. 5: 1e-2, 1e-3 after 50K steps, 1e-4 after 70K; fine-tuning 1e-2, 1e-3 after 14K.
    """
    drops = optax.piecewise_constant_schedule(optim.learning_rate, {int(s): optim.drop_factor for s in optim.drops})
    rise = optax.linear_schedule(1.0 / max(optim.warmup_steps, 1), 1.0, max(optim.warmup_steps - 1, 1))

    def rate(step) -> jax.Array:
        # As float32, exact to 2^24 steps: optax compares steps with floats, which strict promotion refuses.
        step = jnp.asarray(step, jnp.float32)
        return drops(step) * rise(step) if optim.warmup_steps else jnp.asarray(drops(step))

    return rate


def is_kernel(params) -> dict:
    """Return the tree of booleans that is True at kernels: weight decay leaves biases alone, as in Caffe's nets."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def make_optimizer(optim) -> optax.GradientTransformation:
    """Return SGD: gradient + weight_decay * kernel, momentum, times -learning_rate (2014 Sect. 5, its ref. [15]).

    Caffe scales by the learning rate before momentum, optax after; they differ for a while after a drop of the rate.
    """
    return optax.chain(
        optax.add_decayed_weights(optim.weight_decay, mask=is_kernel),
        optax.trace(decay=optim.momentum),
        optax.scale_by_learning_rate(learning_rate(optim)),
    )


def frozen_layers(layers: Iterable[str], patterns: Sequence[str]) -> tuple[str, ...]:
    """Return which of the net's layers (conv1, ..., full8_<task>) the patterns of `init.freeze` cover, sorted.

    A pattern is a layer's name, or has * for any letters. UserError for one that covers no layer, and where nothing
    would be left to train.
    """
    names = sorted(layers)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UserError(f"init.freeze={pattern!r}: covers no layer of the net; it has {', '.join(names)}")
    frozen = tuple(name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns))
    if len(frozen) == len(names):
        raise UserError(f"init.freeze={','.join(patterns)}: covers every layer, so nothing would train; leave one out")
    return frozen


def trained_part(params: Mapping[str, Any], frozen: Sequence[str]) -> dict[str, Any]:
    """Return the layers of `params` that train: gradients, momentum and weight decay are of these alone."""
    return {name: layer for name, layer in params.items() if name not in frozen}
