"""conv1 of a net on flow: 7x7 at stride 2 over 2L channels, the one layer that XLA is slow at on a CPU."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

STRIDE = 2
# Below so many input channels XLA's own convolution is the faster one (measured at 3 and 20).
FEWEST_CHANNELS = 8


class StridedConv(nn.Module):
    """`nn.Conv` of stride 2 without padding, its parameters and results the same but for rounding."""

    features: int
    kernel_size: tuple[int, int]
    kernel_init: Callable
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return [N, h, w, features] of x [N, H, W, C]."""
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
        y = convolve(x.astype(self.dtype), kernel.astype(self.dtype))
        return y + bias.astype(self.dtype)[None, None, None, :]


@jax.custom_vjp
def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Return the convolution [N, h, w, M] of x [N, H, W, C] and kernel [kh, kw, C, M] at stride 2, without padding.

    When it is to be differentiated, a CPU computes it as matrix products: 2.3 times faster at 20 channels, for 1.5 times
    the output's memory a row of the kernel, which a test net's whole batches of crops should not take.
    """
    return lax.conv_general_dilated(x, kernel, (STRIDE, STRIDE), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    if x.shape[-1] < FEWEST_CHANNELS:
        return convolve(x, kernel), (x, kernel)
    out = lax.platform_dependent(x, kernel, cpu=as_products, default=convolve)
    # Else XLA makes the sums of the products anew for everyone who reads them.
    return lax.optimization_barrier(out), (x, kernel)


def _backward(residuals: tuple[jax.Array, jax.Array], grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    # That of the plain convolution, which no product was faster than; what is not asked for, conv1's input, falls away.
    plain = convolve.fun
    return jax.vjp(plain, *residuals)[1](grad)


convolve.defvjp(_forward, _backward)


def as_products(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Return `convolve(x, kernel)` as two matrix products, of the even rows of x and the odd ones.

    The kw pixels under a row of the kernel stand side by side as channels. Each row of x then meets at once all rows of
    the kernel that can lie over it, and output row i adds up what kernel row k made of row 2 i + k.
    """
    height, width, channels, features = kernel.shape
    rows = (x.shape[1] - height) // STRIDE + 1
    columns = (x.shape[2] - width) // STRIDE + 1
    side_by_side = [x[:, :, k : k + STRIDE * (columns - 1) + 1 : STRIDE] for k in range(width)]
    under = jnp.concatenate(side_by_side, axis=-1)
    under = jnp.pad(under, [(0, 0), (0, x.shape[1] % STRIDE), (0, 0), (0, 0)])
    by_parity = under.reshape(len(x), -1, STRIDE, columns, width * channels)
    total = jnp.zeros((), x.dtype)
    for parity in range(STRIDE):
        own = kernel[parity::STRIDE].reshape(-1, width * channels, features)
        products = by_parity[:, :, parity] @ jnp.moveaxis(own, 0, 1).reshape(width * channels, -1)
        for k in range(len(own)):
            total = total + products[:, k : k + rows, :, k * features : (k + 1) * features]
    return total
