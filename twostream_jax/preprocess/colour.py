"""RGB: lighting jitter on 0..255, then the shift and scale to about unit variance. float32."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

# One mean and deviation for the three channels, on 0..255. The paper is silent; ImageNet's means (124, 117, 104)
# average 115, and the darker video frames come out near mean 0 and deviation 1, which a variance-scaled start wants.
RGB_MEAN = 110.0
RGB_STD = 58.0

# Principal components of ImageNet's RGB in [0, 1] (Krizhevsky et al. 2012, Sect. 4.1, ref. [15] of the 2014 paper;
# values as in the public AlexNet ports). One eigenvector a column.
LIGHTING_EIGENVALUES = np.array([0.2175, 0.0188, 0.0045], np.float32)
LIGHTING_EIGENVECTORS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]], np.float32
)


def normalise_rgb(rgb: jax.Array) -> jax.Array:
    """Return (x - 110) / 58, float32, of RGB on 0..255, uint8 or float, any shape."""
    return (rgb.astype(jnp.float32) - jnp.float32(RGB_MEAN)) * jnp.float32(1.0 / RGB_STD)


def lighting(rgb: jax.Array, draws: jax.Array, std: float) -> jax.Array:
    """Return float32 rgb [B, T, H, W, 3] on 0..255, each sample shifted by one RGB vector; not clipped.

    draws float32 [B, 3] are standard normal; times `std` (0.1 in ref. [15], on [0, 1] RGB) and the eigenvalues they are
    the weights of the eigenvectors. A whole clip shares its draw.
    """
    weights = draws * (jnp.float32(std) * LIGHTING_EIGENVALUES)[None, :]
    # Highest precision: an accelerator's default would round the 3x3 product to 8 or 11 bits.
    shift = jnp.matmul(weights, LIGHTING_EIGENVECTORS.T, precision=jax.lax.Precision.HIGHEST)
    return rgb.astype(jnp.float32) + jnp.float32(255.0) * shift[:, None, None, None, :]
