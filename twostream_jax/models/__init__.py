"""The table of networks. A new one is a file, a line here, a config and a test."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from input_pipeline.schema import UserError
from twostream_jax.models.cnn_m import CnnM, pool5_size
from twostream_jax.models.slow_fusion import SlowFusion, conv1_extent

# The temporal net has no norm2: the 2014 paper left it out to save memory (Sect. 5 and Fig. 1).
MODELS = {
    "cnn_m_spatial": partial(CnnM, stream="rgb", normalised=("conv1", "conv2")),
    "cnn_m_temporal": partial(CnnM, stream="flow", normalised=("conv1",)),
    "slow_fusion": SlowFusion,
}
# What each takes of input.streams.
STREAMS = {"cnn_m_spatial": ("rgb",), "cnn_m_temporal": ("flow",), "slow_fusion": ("rgb",)}
INITS = ("he", "caffe")

__all__ = ["INITS", "MODELS", "STREAMS", "build_model", "check_clip", "parameter_table", "pool5_size"]


def build_model(model_config: Any, tasks: Mapping[str, int], dtype: jnp.dtype = jnp.float32) -> nn.Module:
    """Return the linen module that `model_config` (name, width, dropout, init) names, with one head per task.

    tasks is {name: classes}. The module is called as module(inputs, *, train) -> {task: logits [B, T, classes]}; see
    `cnn_m.CnnM` and `slow_fusion.SlowFusion`. UserError for a name, start, width or dropout that there is not.
    """
    if model_config.name not in MODELS:
        raise UserError(f"model.name is {model_config.name!r}: choose one of {', '.join(MODELS)}")
    if model_config.init not in INITS:
        raise UserError(f"model.init is {model_config.init!r}: choose one of {', '.join(INITS)}")
    if not model_config.width > 0:
        raise UserError(f"model.width is {model_config.width}: give a multiplier above 0, 1 for the paper's net")
    if not 0 <= model_config.dropout < 1:
        raise UserError(f"model.dropout is {model_config.dropout}: give the share dropped, from 0 to below 1")
    return MODELS[model_config.name](
        tasks=dict(tasks),
        width=model_config.width,
        dropout=model_config.dropout,
        start=model_config.init,
        dtype=dtype,
    )


def check_clip(name: str, clip_frames: int) -> None:
    """Raise UserError where the net that `name` names cannot take clips of that many frames."""
    if name == "slow_fusion":
        conv1_extent(clip_frames)
    elif clip_frames != 1:
        raise UserError(
            f"input.clip_frames={clip_frames}: {name} takes single frames; set it to 1, or model.name=slow_fusion"
        )


def parameter_table(params: Any) -> list[tuple[str, tuple[int, ...], int]]:
    """Return (name, shape, count) of every parameter, such as ("conv1/kernel", (7, 7, 3, 96), 14112), sorted by name.

    params is the tree under "params", of arrays or of `jax.eval_shape`'s stand-ins.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    rows = [("/".join(key.key for key in path), tuple(leaf.shape)) for path, leaf in leaves]
    return sorted((name, shape, math.prod(shape)) for name, shape in rows)
