"""full6, full7 and full8: the classifier on pool5, applied at one position or fully convolutionally."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax


class WholeMapConv(nn.Module):
    """Convolution whose kernel covers the whole map it was initialised on (6x6 at 224 px); later maps may be larger.

    One set of weights so serves a crop, where it is a fully connected layer, and a whole frame, where it slides.
    """

    features: int
    kernel_init: Callable
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return [N, H - kh + 1, W - kw + 1, features] of x [N, H, W, C]; ValueError where the map is too small."""
        if self.has_variable("params", "kernel"):
            # The stored kernel's size rules; nn.Module.param would insist on that of this input.
            kernel = self.get_variable("params", "kernel")
        else:
            kernel = self.param("kernel", self.kernel_init, (*x.shape[1:], self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
        if x.shape[1] < kernel.shape[0] or x.shape[2] < kernel.shape[1]:
            raise ValueError(
                f"the map before {self.name} is {x.shape[1]}x{x.shape[2]}, smaller than its {kernel.shape[0]}x"
                f"{kernel.shape[1]} kernel: use frames at least as large as the crop the net was trained on"
            )
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        if x.shape[1:3] == kernel.shape[:2]:
            # One position only: a matrix product, which runs faster than a convolution of that size.
            y = x.reshape(x.shape[0], -1) @ kernel.reshape(-1, self.features)
            y = y[:, None, None, :]
        else:
            y = lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return y + bias.astype(self.dtype)[None, None, None, :]


def class_scores(x: jax.Array, tasks: Mapping[str, int], kernel_init: Callable) -> dict[str, jax.Array]:
    """Return {task: logits float32 [N, classes]} of x [N, H, W, C], averaged over the positions H, W.

    One layer full8_<task> per task on the shared x (2014 paper, Sect. 4). In float32 whatever x is: it is a thousandth
    of the net's work. Call it inside the compact method of the module that is to own the layers.
    """
    x = x.astype(jnp.float32)
    return {
        task: nn.Dense(classes, kernel_init=kernel_init, name=f"full8_{task}")(x).mean(axis=(1, 2))
        for task, classes in tasks.items()
    }
