"""conv1 as matrix products against a direct loop, and its gradients against autodiff of the plain convolution."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from twostream_jax.models.conv1 import FEWEST_CHANNELS, StridedConv, as_products, convolve


def direct(x, kernel):
    """Return the convolution by loops over output pixels, float64."""
    height, width, _, features = kernel.shape
    rows, columns = ((n - k) // 2 + 1 for n, k in zip(x.shape[1:3], (height, width), strict=True))
    out = np.zeros((len(x), rows, columns, features))
    for i, j in np.ndindex(rows, columns):
        window = x[:, 2 * i : 2 * i + height, 2 * j : 2 * j + width].astype(np.float64)
        out[:, i, j] = np.tensordot(window, kernel.astype(np.float64), axes=3)
    return out


def random(size, channels=20, features=5, kernel=7):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *size, channels)).astype(np.float32)
    return x, rng.normal(size=(kernel, kernel, channels, features)).astype(np.float32)


@pytest.mark.parametrize(("size", "kernel"), [((13, 13), 7), ((14, 15), 7), ((8, 7), 7), ((7, 12), 3), ((10, 9), 4)])
def test_products_are_the_convolution(size, kernel):
    x, weights = random(size, kernel=kernel)
    # Sums of up to 980 products of order 1 in float32.
    for found in (as_products(x, weights), convolve(x, weights)):
        np.testing.assert_allclose(found, direct(x, weights), atol=2e-4)


@pytest.mark.parametrize("channels", [3, FEWEST_CHANNELS, 20])
def test_value_and_gradients_are_those_of_flax(channels):
    x, _ = random((17, 14), channels)
    ours = StridedConv(6, (7, 7), nn.initializers.lecun_normal(), jnp.float32)
    theirs = nn.Conv(6, (7, 7), strides=(2, 2), padding=0)
    params = theirs.init(jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, ours.init(jax.random.key(0), x)) == jax.tree.map(jnp.shape, params)

    def loss(module):
        return lambda params, x: jnp.sin(module.apply(params, x)).sum()

    for a, b in zip(
        jax.tree.leaves(jax.jit(jax.value_and_grad(loss(ours), (0, 1)))(params, x)),
        jax.tree.leaves(jax.jit(jax.value_and_grad(loss(theirs), (0, 1)))(params, x)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_the_input_gradient_of_a_net_on_data_is_not_computed():
    x, weights = random((41, 41))
    text = jax.jit(jax.grad(lambda k: convolve(x, k).sum())).lower(weights).compile().as_text()
    both = jax.jit(jax.grad(lambda x, k: convolve(x, k).sum(), (0, 1))).lower(x, weights).compile().as_text()
    assert text.count("convolution(") < both.count("convolution(")


def test_bfloat16_stays_bfloat16():
    x, weights = (jnp.asarray(a, jnp.bfloat16) for a in random((13, 13)))
    value, gradient = jax.value_and_grad(lambda k: convolve(x, k).astype(jnp.float32).sum())(weights)
    assert gradient.dtype == jnp.bfloat16 and np.isfinite(float(value))
