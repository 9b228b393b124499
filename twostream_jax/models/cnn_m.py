"""CNN-M-2048, the network of both streams (Simonyan and Zisserman 2014, Fig. 1; Chatfield et al. 2014, CNN-M)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from input_pipeline.schema import UserError
from twostream_jax.models.conv1 import StridedConv
from twostream_jax.models.heads import WholeMapConv, class_scores
from twostream_jax.models.layers import convolved_size, hidden_init, lrn, max_pool, pooled_size, score_init
from twostream_jax.preprocess import TenCrops

# name: (channels, kernel, stride, padding); 2014 paper, Fig. 1; paddings from the released VGG_CNN_M_2048.
CONVOLUTIONS = {
    "conv1": (96, 7, 2, 0),
    "conv2": (256, 5, 2, 1),
    "conv3": (512, 3, 1, 1),
    "conv4": (512, 3, 1, 1),
    "conv5": (512, 3, 1, 1),
}
POOLED = {"conv1": "pool1", "conv2": "pool2", "conv5": "pool5"}
FULL6, FULL7 = 4096, 2048
SMALLEST_CROP = 41  # px; below it nothing is left at pool5


class CnnM(nn.Module):
    """CNN-M-2048 with one full8 per task. Parameters are float32; `dtype` is that of the computation."""

    stream: str  # rgb | flow: the key of `inputs` that is read
    normalised: tuple[str, ...]  # convolutions followed by response normalisation
    tasks: Mapping[str, int]  # task name -> classes
    width: float = 1.0  # multiplier of every hidden layer's channels
    dropout: float = 0.9  # share of full6 and full7 that is dropped
    start: str = "he"  # he | caffe, see layers.hidden_init
    dtype: jnp.dtype = jnp.float32

    takes_frames = True  # and cuts them after conv1, which is so computed once a frame

    @nn.compact
    def __call__(
        self,
        inputs: Mapping[str, jax.Array],
        *,
        train: bool,
        features: tuple[str, ...] = (),
        crops: TenCrops | None = None,
    ):
        """Return {task: logits float32 [B, T, classes]}; with `features`, (logits, {name: activation}) instead.

        inputs[stream] is float [B, T, H, W, C], preprocessed; T is folded into the batch. With `train` a "dropout" rng
        is needed. Logits are averaged over the positions of an input larger than the initial one. Features: conv1,
        norm1, pool1, ..., pool5, full6, full7 as [B, T, h, w, channels], after the ReLU and before dropout.

        With `crops` the inputs are whole frames and the logits those of their ten crops [10 B, T, classes], a sample's next
        to each other, as if each had been cut out first.
        """
        assert crops is None or not features, features
        images = inputs[self.stream]
        batch, time = images.shape[:2]
        activations: dict[str, jax.Array] = {}
        x = self._convolve(images.reshape(-1, *images.shape[2:]), activations, crops)
        for name, channels in (("full6", FULL6), ("full7", FULL7)):
            x = nn.relu(self._full(name, channels)(x))
            activations[name] = x
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        logits = class_scores(x, self.tasks, score_init(self.start))
        by_frame = {task: scores.reshape(batch, time, -1, scores.shape[-1]) for task, scores in logits.items()}
        logits = {
            task: jnp.moveaxis(scores, 2, 1).reshape(-1, time, scores.shape[-1]) for task, scores in by_frame.items()
        }
        if not features:
            return logits
        unknown = [name for name in features if name not in activations]
        if unknown:
            raise ValueError(f"no feature named {', '.join(unknown)}; there are {', '.join(activations)}")
        return logits, {name: activations[name].reshape(batch, time, *activations[name].shape[1:]) for name in features}

    def _convolve(self, x: jax.Array, activations: dict[str, jax.Array], crops: TenCrops | None) -> jax.Array:
        """Return pool5 of x [N, H, W, C], [N, h, w, C] or, with `crops`, [10 N, h, w, C]; fills in `activations`."""
        pool5_size(x.shape[1]), pool5_size(x.shape[2])  # raises for an input too small
        for name, (channels, kernel, stride, padding) in CONVOLUTIONS.items():
            common = {"kernel_init": hidden_init(self.start), "dtype": self.dtype, "name": name}
            size = (self._channels(channels), (kernel, kernel))
            if name == "conv1":
                conv = StridedConv(*size, **common)
            else:
                conv = nn.Conv(*size, strides=(stride, stride), padding=padding, **common)
            layer = partial(self._activated, name, conv, activations)
            if name == "conv1" and crops is not None:
                maps = crops.of_layer(layer, x, flow=self.stream == "flow")
                x = maps.reshape(-1, *maps.shape[2:])
            else:
                x = layer(x)
            if name in POOLED:
                x = activations[POOLED[name]] = max_pool(x)
        return x

    def _activated(self, name: str, conv: nn.Module, activations: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        """Return what follows the ReLU and the normalisation, filling in `activations`."""
        x = activations[name] = nn.relu(conv(x))
        if name in self.normalised:
            x = activations[name.replace("conv", "norm")] = lrn(x)
        return x

    def _full(self, name: str, channels: int) -> nn.Module:
        """Return full6, which covers the whole map, or full7, which is a 1x1 convolution."""
        layer = WholeMapConv if name == "full6" else nn.Dense
        return layer(self._channels(channels), kernel_init=hidden_init(self.start), dtype=self.dtype, name=name)

    def _channels(self, channels: int) -> int:
        return max(8, round(channels * self.width))


def pool5_size(crop: int) -> int:
    """Return the side of pool5's map for a side of `crop` px: 6 for 224. UserError below SMALLEST_CROP."""
    size = crop
    for name, (_, kernel, stride, padding) in CONVOLUTIONS.items():
        size = convolved_size(size, kernel, stride, padding)
        size = pooled_size(size) if name in POOLED else size
    if size < 1:
        raise UserError(f"input.crop is {crop} px, too small for CNN-M: set at least {SMALLEST_CROP} px")
    return size
