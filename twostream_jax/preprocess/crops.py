"""Crops and mirrored copies of training windows and whole test frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from twostream_jax.preprocess.stacking import flip_flow

# Place of the unmirrored centre among the ten crops.
CENTRE = 4


@dataclass(frozen=True)
class TenCrops:
    """The ten crops of whole frames, for a net whose first layer is computed once a frame and cut afterwards.

    `size` int32 [N, 2] is the valid h, w of each frame. `apart` are those of the first five places that lie at odd offsets
    in some frame (`input_pipeline.sampling.crops_apart`).
    """

    side: int  # px
    size: jax.Array
    apart: tuple[int, ...]

    def of_layer(self, layer: Callable[[jax.Array], jax.Array], images: jax.Array, *, flow: bool) -> jax.Array:
        """Return [N, 10, h, w, M], `layer` of each of `ten_crops` of images [N, H, W, C].

        The layer may be any that has a stride of 2 and no padding, followed by what acts on each pixel alone: of a crop at
        an even offset (y, x) it makes the part at (y / 2, x / 2) of what it makes of the image. The crops that lie `apart`
        are cut out first.
        """
        # With an even rest beyond the crop, what the layer makes of the image is larger by half of it than that of a crop;
        # and in the image reversed, padding and all, a crop from x on begins at W - side - x, which is even if x is.
        rest = [(0, (n - self.side) % 2) for n in images.shape[1:3]]
        images = jnp.pad(images, ((0, 0), *rest, (0, 0)))
        mirrored = flip_flow(images) if flow else images[..., ::-1, :]
        origins = _origins(images, self.side, self.size)
        turned = origins.at[..., 1].set(images.shape[2] - self.side - origins[..., 1])
        crops = self._of_image(layer, images, origins) + self._of_image(layer, mirrored, turned)
        return jnp.stack(crops, axis=1)

    def _of_image(self, layer: Callable, images: jax.Array, origins: jax.Array) -> list[jax.Array]:
        """Return the layer [N, h, w, M] of each of the five crops at `origins` [N, 5, 2]."""
        whole = layer(images)
        shape = tuple(
            n - (pixels - self.side) // 2 for n, pixels in zip(whole.shape[1:3], images.shape[1:3], strict=True)
        )
        return [
            layer(_cut_each(images, origins[:, place], (self.side, self.side)))
            if place in self.apart
            else _cut_each(whole, origins[:, place] // 2, shape)
            for place in range(origins.shape[1])
        ]


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
    return _cut_each(images, _origins(images, crop, size)[:, CENTRE], (crop, crop))


def _five_crops(images: jax.Array, crop: int, size: jax.Array | None) -> jax.Array:
    """Return [N, 5, crop, crop, C]: four corners and the centre."""
    origins = _origins(images, crop, size)
    return jnp.stack([_cut_each(images, origins[:, place], (crop, crop)) for place in range(origins.shape[1])], axis=1)


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


def _cut_each(images: jax.Array, origins: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Return [N, h, w, C] of images [N, H, W, C], from each one's origins [N, 2] = (y, x) on; shape is (h, w)."""

    def cut(image: jax.Array, origin: jax.Array) -> jax.Array:
        zero = jnp.zeros_like(origin[0])
        return jax.lax.dynamic_slice(image, (origin[0], origin[1], zero), (*shape, image.shape[-1]))

    return jax.vmap(cut)(images, origins)
