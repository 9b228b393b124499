"""Slow fusion: a net on a stack of RGB frames, whose first three layers each see more of the time.

Simonyan and Zisserman 2014, Sect. 6 ("which amounts to applying a ConvNet to a stack of RGB frames (11 frames in our
case)"; 56.4 % on UCF-101 split 1 from scratch), after its ref. [14], Karpathy et al., CVPR 2014: on clips of 10 frames the
first convolution has a temporal extent of 4 and a stride of 2, which leaves 4 responses in time, the second and third an
extent and stride of 2, which leave 2 and 1.

The 2014 paper says no more than that. Our reading: the layers are those of its spatial net, CNN-M-2048, with [14]'s
extents in time. An extent of 4 would leave the last of 11 frames unread, so conv1's is 5 there: T - 6, for four responses
two frames apart that together see each of T frames.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from input_pipeline.schema import UserError
from twostream_jax.models.cnn_m import CONVOLUTIONS, FULL6, FULL7, POOLED, pool5_size
from twostream_jax.models.heads import WholeMapConv, class_scores
from twostream_jax.models.layers import hidden_init, lrn, max_pool, score_init

NORMALISED = ("conv1", "conv2")
RESPONSES = 4  # in time, after conv1
STRIDE = 2  # frames, of conv1, conv2 and conv3
SMALLEST_CLIP = 8  # frames; conv1 has to span its stride


class SlowFusion(nn.Module):
    """CNN-M-2048 that fuses the frames of a clip in conv1, conv2 and conv3, with one full8 per task.

    A convolution over E frames is one over the E frames' channels side by side, frame after frame: kernels are
    [kh, kw, E * C, channels], and conv1's is that of the spatial net E times. Parameters are float32.
    """

    tasks: Mapping[str, int]  # task name -> classes
    stream: str = "rgb"  # the key of `inputs` that is read
    width: float = 1.0  # multiplier of every hidden layer's channels
    dropout: float = 0.9  # share of full6 and full7 that is dropped
    start: str = "he"  # he | caffe, see layers.hidden_init
    dtype: jnp.dtype = jnp.float32  # of the computation

    takes_frames = False  # but crops: conv1 sees several frames at once

    @nn.compact
    def __call__(self, inputs: Mapping[str, jax.Array], *, train: bool, features: tuple[str, ...] = ()):
        """Return {task: logits float32 [B, 1, classes]}; with `features`, (logits, {name: activation}) instead.

        inputs["rgb"] is float [B, T, H, W, 3], preprocessed. With `train` a "dropout" rng is needed. Logits are averaged
        over the positions of an input larger than the initial one. Features: conv1, norm1, ..., pool5, full6, full7 as
        [B, t, h, w, channels] with t = 4 in layer 1, 2 in layer 2 and 1 from layer 3 on.
        """
        activations: dict[str, jax.Array] = {}
        x = self._convolve(inputs[self.stream], activations)[:, 0]
        full6 = WholeMapConv(self._channels(FULL6), kernel_init=hidden_init(self.start), dtype=self.dtype, name="full6")
        full7 = nn.Dense(self._channels(FULL7), kernel_init=hidden_init(self.start), dtype=self.dtype, name="full7")
        for name, layer in (("full6", full6), ("full7", full7)):
            x = nn.relu(layer(x))
            activations[name] = x[:, None]
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        logits = class_scores(x, self.tasks, score_init(self.start))
        logits = {task: scores[:, None] for task, scores in logits.items()}
        if not features:
            return logits
        unknown = [name for name in features if name not in activations]
        if unknown:
            raise ValueError(f"no feature named {', '.join(unknown)}; there are {', '.join(activations)}")
        return logits, {name: activations[name] for name in features}

    def _convolve(self, x: jax.Array, activations: dict[str, jax.Array]) -> jax.Array:
        """Return pool5 [B, 1, h, w, C] of x [B, T, H, W, C], filling in `activations`."""
        pool5_size(x.shape[2]), pool5_size(x.shape[3])  # raises for an input too small
        extents = {"conv1": conv1_extent(x.shape[1]), "conv2": STRIDE, "conv3": STRIDE}
        for name, (channels, kernel, stride, padding) in CONVOLUTIONS.items():
            x = frames_side_by_side(x, extents[name]) if name in extents else x
            batch, time = x.shape[:2]
            x = nn.Conv(
                self._channels(channels),
                (kernel, kernel),
                strides=(stride, stride),
                padding=padding,
                kernel_init=hidden_init(self.start),
                dtype=self.dtype,
                name=name,
            )(x.reshape(batch * time, *x.shape[2:]))
            stages = {name: (x := nn.relu(x))}
            if name in NORMALISED:
                stages[name.replace("conv", "norm")] = x = lrn(x)
            if name in POOLED:
                stages[POOLED[name]] = x = max_pool(x)
            activations |= {key: stage.reshape(batch, time, *stage.shape[1:]) for key, stage in stages.items()}
            x = x.reshape(batch, time, *x.shape[1:])
        return x

    def _channels(self, channels: int) -> int:
        return max(8, round(channels * self.width))


def conv1_extent(clip_frames: int) -> int:
    """Return how many frames conv1 spans for clips of T frames, T - 6; UserError where some would go unread."""
    if clip_frames < SMALLEST_CLIP:
        raise UserError(
            f"input.clip_frames={clip_frames}: slow_fusion takes clips of at least {SMALLEST_CLIP} frames; "
            "the 2014 paper's have 11"
        )
    return clip_frames - STRIDE * (RESPONSES - 1)


def frames_side_by_side(x: jax.Array, extent: int) -> jax.Array:
    """Return [B, n, H, W, extent * C] of x [B, T, H, W, C]: frames 2i .. 2i + extent - 1 as channels, i < n."""
    windows = (x.shape[1] - extent) // STRIDE + 1
    last = STRIDE * (windows - 1)
    return jnp.concatenate([x[:, first : first + last + 1 : STRIDE] for first in range(extent)], axis=-1)
