"""Crops and mirrored copies of training windows and whole test frames."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from twostream_jax.preprocess.stacking import flip_flow

# Place of the unmirrored centre among the ten crops.
CENTRE = 4


def crop_windows(windows: jax.Array, boxes: jax.Array, crop: int) -> jax.Array:
    """Return [B, ..., crop, crop] of windows [B, ..., h, w], cut at each sample's boxes[:, :2] = (y, x).

    boxes int32 [B, 4] = (y, x, crop, crop), inside the window. A window of just the crop's size comes back as it is.
    """
    height, width = windows.shape[-2:]
    assert height >= crop and width >= crop, (windows.shape, crop)
    if (height, width) == (crop, crop):
        return windows
    return jax.vmap(lambda window, box: _cut(window, box[0], box[1], crop))(windows, boxes)


def ten_crops(images: jax.Array, crop: int, *, flow: bool, size: jax.Array | None = None) -> jax.Array:
    """Return [N, 10, crop, crop, C] of images [N, H, W, C] (2014 paper, Sect. 5, "Testing").

    Order: top-left, top-right, bottom-left, bottom-right, centre (at (side - crop) // 2), then the same five mirrored.
    With `flow` the mirrored ones have d^x, the even channels, negated. `size` int32 [N, 2] is the valid h, w of each
    image, at least `crop`; corners and centre are those of that region, by default of the whole image.
    """
    upright = _five_crops(images, crop, size)
    mirrored = flip_flow(upright) if flow else upright[..., ::-1, :]
    return jnp.concatenate([upright, mirrored], axis=1)


def centre_crop(images: jax.Array, crop: int, size: jax.Array | None = None) -> jax.Array:
    """Return [N, crop, crop, C], the centre (`CENTRE`) of `ten_crops` alone."""
    origins = _origins(images, crop, size)[:, CENTRE]
    return jax.vmap(lambda image, origin: _cut_channels_last(image, origin, crop))(images, origins)


def _five_crops(images: jax.Array, crop: int, size: jax.Array | None) -> jax.Array:
    """Return [N, 5, crop, crop, C]: four corners and the centre."""
    cut = jax.vmap(lambda image, origin: _cut_channels_last(image, origin, crop), in_axes=(None, 0))
    return jax.vmap(cut)(images, _origins(images, crop, size))


def _origins(images: jax.Array, crop: int, size: jax.Array | None) -> jax.Array:
    """Return int32 [N, 5, 2], y and x of the four corner crops and the centre crop of each image."""
    count, height, width, _ = images.shape
    assert height >= crop and width >= crop, (images.shape, crop)
    if size is None:
        size = jnp.broadcast_to(jnp.array([[height, width]], jnp.int32), (count, 2))
    bottom, right = size[:, 0] - crop, size[:, 1] - crop
    top = left = jnp.zeros_like(bottom)
    y = jnp.stack([top, top, bottom, bottom, bottom // 2], axis=1)
    x = jnp.stack([left, right, left, right, right // 2], axis=1)
    return jnp.stack([y, x], axis=2)


def _cut(window: jax.Array, y: jax.Array, x: jax.Array, crop: int) -> jax.Array:
    """Return [..., crop, crop] of window [..., h, w] at y, x."""
    rows = jax.lax.dynamic_slice_in_dim(window, y, crop, axis=-2)
    return jax.lax.dynamic_slice_in_dim(rows, x, crop, axis=-1)


def _cut_channels_last(image: jax.Array, origin: jax.Array, crop: int) -> jax.Array:
    """Return [crop, crop, C] of image [H, W, C] at origin = (y, x)."""
    zero = jnp.zeros_like(origin[0])
    return jax.lax.dynamic_slice(image, (origin[0], origin[1], zero), (crop, crop, image.shape[-1]))
