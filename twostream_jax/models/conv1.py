"""conv1 of a net on flow: 7x7 at stride 2 over 2L channels, the one layer that XLA is slow at on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

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


def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Return the convolution [N, h, w, M] of x [N, H, W, C] and kernel [kh, kw, C, M] at stride 2, without padding."""
    return (_plain if x.shape[-1] < FEWEST_CHANNELS else _convolve_many)(x, kernel)


def _plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, (STRIDE, STRIDE), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@jax.custom_vjp
def _convolve_many(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Return the convolution where there are many channels.

    A CPU computes it, and its kernel's gradient, as matrix products, for memory of kw times half the input and kh times the
    output. What is not to be differentiated, whole frames above all, takes that of one image only.
    """
    return lax.platform_dependent(x, kernel, cpu=_one_by_one, default=_plain)


def _one_by_one(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.map(lambda image: as_products(image[None], kernel)[0], x)


def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    out = lax.platform_dependent(x, kernel, cpu=as_products, default=_plain)
    # Else XLA makes the sums of the products anew for everyone who reads them.
    return lax.optimization_barrier(out), (x, kernel)


def _backward(residuals: tuple[jax.Array, jax.Array], grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    # Of conv1's input nobody asks for the gradient: what is not used falls away.
    of_x, of_kernel = jax.vjp(_plain, x, kernel)[1](grad)
    products = partial(_kernel_products, kernel.shape)
    return of_x, lax.platform_dependent(x, grad, of_kernel, cpu=products, default=lambda x, grad, plain: plain)


_convolve_many.defvjp(_forward, _backward)


def as_products(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Return `convolve(x, kernel)` as two matrix products, of the even rows of x and the odd ones.

    Each row of x meets at once all rows of the kernel that can lie over it, and output row i adds up what kernel row k
    made of row 2 i + k.
    """
    height, width, channels, features = kernel.shape
    rows = (x.shape[1] - height) // STRIDE + 1
    by_parity = _under_kernel_rows(x, width)
    total = jnp.zeros((), x.dtype)
    for parity in range(STRIDE):
        own = kernel[parity::STRIDE].reshape(-1, width * channels, features)
        products = by_parity[:, :, parity] @ jnp.moveaxis(own, 0, 1).reshape(width * channels, -1)
        for k in range(len(own)):
            total = total + products[:, k : k + rows, :, k * features : (k + 1) * features]
    return total


def _under_kernel_rows(x: jax.Array, width: int) -> jax.Array:
    """Return x as [N, H / 2, 2, w, kw C]: the kw pixels under a row of the kernel side by side as channels, rows in pairs.

    Forward and backward ask for the same, which XLA makes once.
    """
    columns = (x.shape[2] - width) // STRIDE + 1
    side_by_side = [x[:, :, k : k + STRIDE * (columns - 1) + 1 : STRIDE] for k in range(width)]
    under = jnp.concatenate(side_by_side, axis=-1)
    under = jnp.pad(under, [(0, 0), (0, x.shape[1] % STRIDE), (0, 0), (0, 0)])
    return under.reshape(len(x), -1, STRIDE, columns, under.shape[-1])


def _kernel_products(shape: tuple[int, ...], x: jax.Array, grad: jax.Array, _: jax.Array) -> jax.Array:
    """Return the kernel's gradient, of `shape`: for each of its rows one product of all that lay under it with grad."""
    height, width, channels, features = shape
    rows = grad.shape[1]
    by_parity = _under_kernel_rows(x, width)
    flat = grad.reshape(-1, features)
    by_row = []
    for k in range(height):
        under = by_parity[:, k // STRIDE : k // STRIDE + rows, k % STRIDE].reshape(-1, width * channels)
        by_row.append(lax.dot_general(under, flat, (((0,), (0,)), ((), ()))))
    return jnp.stack(by_row).reshape(shape)
