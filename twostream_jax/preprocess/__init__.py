"""Batches of bytes (`input_pipeline.schema`) -> float32 network inputs, inside jit. Pure functions of arrays.

The result equals, in this order: dequantise, stack (trajectories over the whole field), subtract means, crop, flip. What is
done in another order here is cheaper on uint8 and proven equal by a test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp

from twostream_jax.preprocess.colour import lighting, normalise_rgb
from twostream_jax.preprocess.crops import CENTRE, TenCrops, centre_crop, crop_windows, ten_crops
from twostream_jax.preprocess.dequantise import FLOW_SCALE_PX, dequantise, dequantise_dct
from twostream_jax.preprocess.stacking import bidirectional_stack, flip_flow, stack_flow, subtract_mean_flow
from twostream_jax.preprocess.trajectories import follow, trajectory_stack

# Values [B, ...] of stored fields -> px.
ToPx = Callable[[jax.Array], jax.Array]

__all__ = [
    "CENTRE",
    "FLOW_SCALE_PX",
    "TenCrops",
    "bidirectional_stack",
    "centre_crop",
    "dequantise",
    "eval_frames",
    "eval_inputs",
    "flip_flow",
    "lighting",
    "normalise_rgb",
    "stack_flow",
    "subtract_mean_flow",
    "ten_crops",
    "train_inputs",
    "trajectory_stack",
]


def train_inputs(
    batch: Mapping[str, jax.Array],
    *,
    mean_subtraction: bool,
    crop: int,
    lighting_std: float,
    stacking: str = "flow",
    bidirectional: bool = False,
    planes: tuple[int, ...] = (),
) -> dict[str, jax.Array]:
    """Return {"rgb": [B, T, crop, crop, 3]} and / or {"flow": [B, T, crop, crop, 2L]}, by the streams in `batch`.

    The crop box of each sample is cut out, what `flip` marks is mirrored (d^x negated), RGB gets its lighting draw
    (none with lighting_std 0); both come out near zero mean and unit variance. With stacking "trajectory" (else "flow")
    windows are whole fields, and the crop box is where the trajectories start. `planes` are those of flow in DCT
    coefficients; () takes levels.
    """
    flip = batch["flip"][:, None, None, None, None]
    inputs = {}
    if "rgb" in batch:
        colours = crop_windows(jnp.moveaxis(batch["rgb"], -1, -3), batch["crop"], crop)
        rgb = jnp.moveaxis(colours, -3, -1).astype(jnp.float32)
        if lighting_std > 0:
            rgb = lighting(rgb, batch["lighting"], lighting_std)
        rgb = normalise_rgb(rgb)
        inputs["rgb"] = jnp.where(flip, rgb[..., ::-1, :], rgb)
    if "flow" in batch:
        fields, to_px = _fields(batch, planes)
        if stacking == "trajectory":
            # Only the box's points are followed, which is cheaper than cropping whole stacks.
            corners, shape = batch["crop"][:, :2], (crop, crop)
            stack = partial(_trajectories, to_px=to_px, sizes=batch["size"], corners=corners, shape=shape)
        else:
            stack = partial(_plain, to_px=to_px)
            fields = crop_windows(fields, batch["crop"], crop)
        # The mean is the whole field's, so that it may be taken off after the crop.
        flow = _flow_stack(fields, batch, stack, mean_subtraction, bidirectional)
        inputs["flow"] = jnp.where(flip, flip_flow(flow), flow)
    return inputs


def eval_inputs(batch: Mapping[str, jax.Array], *, crop: int, crops: int, **flow) -> dict[str, jax.Array]:
    """Return {stream: [B * crops, T, crop, crop, C]}, a sample's crops next to each other, by the streams in `batch`.

    crops is 10 (`ten_crops` in its order, of the valid region `size`) or 1 (the centre); `flow` is what `eval_frames` takes.
    """
    frames = eval_frames(batch, **flow)
    return {key: _eval_crops(value, batch["size"], crop, crops, flow=key == "flow") for key, value in frames.items()}


def eval_frames(
    batch: Mapping[str, jax.Array],
    *,
    mean_subtraction: bool,
    stacking: str = "flow",
    bidirectional: bool = False,
    planes: tuple[int, ...] = (),
) -> dict[str, jax.Array]:
    """Return {stream: [B, T, H, W, C]}, whole frames, by the streams in `batch`; beyond `size` stands anything.

    `planes` as in `train_inputs`.
    """
    inputs = {}
    if "rgb" in batch:
        inputs["rgb"] = normalise_rgb(batch["rgb"])
    if "flow" in batch:
        fields, to_px = _fields(batch, planes)
        stack = partial(_plain, to_px=to_px)
        if stacking == "trajectory":
            sizes, corners = batch["size"], jnp.zeros_like(batch["size"])
            stack = partial(_trajectories, to_px=to_px, sizes=sizes, corners=corners, shape=fields.shape[-2:])
        inputs["flow"] = _flow_stack(fields, batch, stack, mean_subtraction, bidirectional)
    return inputs


def _fields(batch: Mapping[str, jax.Array], planes: tuple[int, ...]) -> tuple[jax.Array, ToPx]:
    """Return planar fields [B, T, L, 2, H, W], and what makes px of values [B, ...] of them; levels stay uint8 so long."""
    if not planes:
        return batch["flow"], partial(dequantise, bound=batch["bound"])
    return dequantise_dct(batch["flow"], batch["steps"], batch["zero"], batch["bound"], planes), lambda px: px


def _flow_stack(
    fields: jax.Array,
    batch: Mapping[str, jax.Array],
    stack: Callable[[jax.Array], jax.Array],
    mean_subtraction: bool,
    bidirectional: bool,
) -> jax.Array:
    """Return float32 [B, T, h, w, 2L] in units of FLOW_SCALE_PX of planar fields [B, T, L, 2, H, W]."""
    fields = jnp.moveaxis(fields, -3, -1)
    flow = bidirectional_stack(fields, stack) if bidirectional else stack(fields)
    if mean_subtraction:
        mean = batch["mean"]
        flow = subtract_mean_flow(flow, mean.reshape(*mean.shape[:2], -1))
    return flow * jnp.float32(1.0 / FLOW_SCALE_PX)


def _plain(fields: jax.Array, *, to_px: ToPx) -> jax.Array:
    """Return px [B, T, H, W, 2L] of fields [B, T, L, H, W, 2]; stacking before dequantising moves a quarter of the bytes."""
    return to_px(stack_flow(fields))


def _trajectories(
    fields: jax.Array, *, to_px: ToPx, sizes: jax.Array, corners: jax.Array, shape: tuple[int, int]
) -> jax.Array:
    """Return px [B, T, h, w, 2L] of fields [B, T, L, H, W, 2] along the paths from boxes of `shape` at corners [B, 2]."""
    count, time = fields.shape[:2]
    sizes, corners = (jnp.repeat(value, time, axis=0) for value in (sizes, corners))

    def clips_to_px(values: jax.Array) -> jax.Array:
        return to_px(values.reshape(count, time, *values.shape[1:])).reshape(values.shape)

    stacks = follow(fields.reshape(-1, *fields.shape[2:]), corners, shape, sizes, clips_to_px)
    return stacks.reshape(count, time, *stacks.shape[1:])


def _eval_crops(frames: jax.Array, size: jax.Array, crop: int, crops: int, *, flow: bool) -> jax.Array:
    """Return [B * crops, T, crop, crop, C] of frames [B, T, H, W, C]; size int32 [B, 2] holds for a whole clip."""
    assert crops in (1, 10), crops
    batch, time = frames.shape[:2]
    images = frames.reshape(batch * time, *frames.shape[2:])
    size = jnp.repeat(size, time, axis=0)
    cut = centre_crop(images, crop, size)[:, None] if crops == 1 else ten_crops(images, crop, flow=flow, size=size)
    cut = cut.reshape(batch, time, *cut.shape[1:])
    return jnp.moveaxis(cut, 2, 1).reshape(batch * crops, time, *cut.shape[3:])
