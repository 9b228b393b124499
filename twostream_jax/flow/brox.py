"""Optical flow after Brox, Bruhn, Papenberg, Weickert, "High Accuracy Optical Flow Estimation Based on a Theory for
Warping", ECCV 2004.

Minimised is the sum over pixels of
    psi(|I1(x + u) - I0(x)|^2) + gamma psi(|grad I1(x + u) - grad I0(x)|^2) + alpha psi(|grad u1|^2 + |grad u2|^2)
with psi(s^2) = sqrt(s^2 + epsilon^2): brightness and its gradient stay what they are, the flow is smooth but for edges.
Coarse to fine, the residuals are linearised around each warp (the paper's outer fixed point iteration); the weights psi'
are held while a linear system is relaxed, then renewed (its inner one). Holding them replaces the energy by a quadratic
one that touches it at u and lies above it elsewhere, and each sweep lowers that one: the energy falls, whatever the number
of sweeps.

Four things differ from the paper, as they do in its followers: each data term has a psi of its own (Bruhn & Weickert
2005); a residual is divided by the length of its gradient, which makes it a distance in px and keeps strong edges from
outvoting weak texture (Zimmer, Bruhn, Weickert 2011, section 3.1); image gradients are the mean of both frames'; and the
colour channels' squared residuals are averaged under one psi, so that three equal channels weigh as much as one. All but
the colour are in OpenCV's DeepFlow. There is no median filter between warps: on the pairs with ground truth it changed
nothing.

Pure functions of one pair of images [C, H, W], C = 1 or 3, whose padding, if any, has no influence (see `pyramid`); float32.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from twostream_jax.flow import pyramid, sor
from twostream_jax.flow.pyramid import Level
from twostream_jax.flow.sor import to_above, to_left
from twostream_jax.flow.warp import centred_gradient, warp

# A field: its x and y components [H, W].
Planes = tuple[jax.Array, jax.Array]


@dataclasses.dataclass(frozen=True)
class BroxSettings:
    """Settings under the paper's names where it has one; intensities are 0..255, epsilon and the residuals are in px."""

    alpha: float  # weight of the smoothness term beside a brightness term of weight 1
    gamma: float  # weight of the gradient constancy term
    epsilon: float  # px; psi is quadratic below, linear above
    flat: float  # grey levels per px; a gradient well below this says little about motion (zeta of Zimmer et al.)
    blur_px: float  # sigma of the Gaussian that both frames are smoothed with
    nscales: int  # levels of the pyramid, at most
    scale_step: float  # size of a level over that of the next larger one
    smallest_px: int  # no level but the first has a side below
    warps: int  # linearisations of the residuals, a level
    inner_iterations: int  # renewals of the weights psi', a warp
    sweeps: int  # sweeps of the linear solver, an inner iteration
    relaxation: float  # of the solver, within 0 and 2

    def __post_init__(self) -> None:
        assert 0 < self.scale_step < 1 and 0 < self.relaxation < 2, self
        assert min(self.nscales, self.smallest_px, self.warps, self.inner_iterations, self.sweeps) >= 1, self
        assert min(self.alpha, self.epsilon, self.flat, self.blur_px) > 0 and self.gamma >= 0, self


# Chosen on the five pairs with ground truth by mean end-point error, px. alpha and gamma are near OpenCV's DeepFlow's (24
# and 10), a little smoother than where the fast object of one pair tears loose (alpha 16 beside gamma 10: 2.4, not 2.1).
# The paper's epsilon, .001, needs three times the sweeps for the same error, and 2.8 is left with relaxation 1.6. Levels of
# .5, .7, .8 of the size: 2.11, 2.10, 2.09; 3, 5, 8 warps: 2.11, 2.10, 2.09. Blurs of .4 to .7 px are alike, 1 px is worse.
BROX = BroxSettings(
    alpha=11.0,
    gamma=5.0,
    epsilon=0.01,
    flat=0.1,
    blur_px=0.6,
    nscales=8,
    scale_step=0.7,
    smallest_px=16,
    warps=5,
    inner_iterations=3,
    sweeps=5,
    relaxation=1.9,
)


class MotionTensor(NamedTuple):
    """A squared residual near the field that was warped with, as a form in (du, dv, 1); planes [H, W], px^2 and below."""

    uu: jax.Array
    uv: jax.Array
    vv: jax.Array
    u: jax.Array
    v: jax.Array
    constant: jax.Array

    def squared(self, du: jax.Array, dv: jax.Array) -> jax.Array:
        """Return the squared residual at the increment (du, dv), [H, W]; not below 0."""
        linear = 2 * (self.u * du + self.v * dv) + self.constant
        return jnp.maximum(self.uu * du * du + 2 * self.uv * du * dv + self.vv * dv * dv + linear, 0.0)


class Linearised(NamedTuple):
    """Both data terms near the field `around`; 0 where it leaves the second frame, and in the padding."""

    brightness: MotionTensor
    gradient: MotionTensor
    around: Planes


def levels(frame: jax.Array, size: jax.Array, settings: BroxSettings) -> list[Level]:
    """Return the pyramid of a frame [H, W] or [H, W, C], any dtype, valid h, w int32 [2]; its images are [C, h, w]."""
    channels = frame[None] if frame.ndim == 2 else jnp.moveaxis(frame, -1, 0)

    def of_channel(image: jax.Array) -> list[Level]:
        smooth = pyramid.blur(image.astype(jnp.float32), size, settings.blur_px)
        return pyramid.build(smooth, size, settings.scale_step, settings.nscales, settings.smallest_px)

    return [Level(level.image, level.size[0]) for level in jax.vmap(of_channel)(channels)]


def flow_between(levels0: list[Level], levels1: list[Level], settings: BroxSettings) -> jax.Array:
    """Return the flow [H, W, 2] in px, x right, y down, from one frame's `levels` to another's; 0 in the padding."""
    u = tuple(jnp.zeros_like(levels0[-1].image[0]) for _ in range(2))
    for i in reversed(range(len(levels0))):
        (image, size), step = levels0[i], settings.scale_step
        if i + 1 < len(levels0):
            u = tuple(pyramid.grow(plane, levels0[i + 1].size, image.shape[1:], step) / step for plane in u)
        refined = refine(levels0[i], levels1[i], u, settings)
        # Levels that only the padding made possible are passed over.
        used = (size >= settings.smallest_px).all() | (i == 0)
        u = tuple(jnp.where(used, new, old) for new, old in zip(refined, u, strict=True))
    valid = valid_part(u[0].shape, levels0[0].size)
    return jnp.where(valid[..., None], jnp.stack(u, axis=-1), 0.0)


def refine(level0: Level, level1: Level, u: Planes, settings: BroxSettings) -> Planes:
    """Return the field u of one level after all of the level's warps."""
    size = level0.size
    shown = jnp.moveaxis(level1.image, 0, -1)

    def warped(u: Planes) -> tuple[jax.Array, jax.Array]:
        read, inside = warp(shown, jnp.stack(u, axis=-1), size)
        return jnp.moveaxis(read, -1, 0), inside

    def after_warp(_: jax.Array, state: tuple[Planes, jax.Array, jax.Array]) -> tuple[Planes, jax.Array, jax.Array]:
        u, read, inside = state
        data = linearise(level0, read, inside, u, settings.flat)
        u = lax.fori_loop(0, settings.inner_iterations, lambda _, u: inner_iteration(u, data, size, settings), u)
        return u, *warped(u)

    # Carried by the loop, what was read lies in memory: fused into its derivatives it would be read again for each of them.
    return lax.fori_loop(0, settings.warps, after_warp, (u, *warped(u)))[0]


def linearise(level0: Level, read: jax.Array, inside: jax.Array, u: Planes, flat: float) -> Linearised:
    """Return the data terms around u, the mean over the channels, of the second frame `read` [C, H, W] at x + u.

    They are left out where that is not `inside` the second frame [H, W]. A grey picture in three channels weighs as alone.
    """
    size = level0.size

    def of_channel(before: jax.Array, after: jax.Array) -> tuple[MotionTensor, MotionTensor]:
        change, mean = after - before, (after + before) / 2
        (change_x, change_y), (x, y) = centred_gradient(change, size), centred_gradient(mean, size)
        (xx, xy), (_, yy) = centred_gradient(x, size), centred_gradient(y, size)
        along_x, along_y = motion_tensor(xx, xy, change_x, flat), motion_tensor(xy, yy, change_y, flat)
        return motion_tensor(x, y, change, flat), MotionTensor(*(a + b for a, b in zip(along_x, along_y, strict=True)))

    def add(c: jax.Array, total: tuple[MotionTensor, MotionTensor]) -> tuple[MotionTensor, MotionTensor]:
        return jax.tree.map(jnp.add, total, of_channel(level0.image[c], read[c]))

    none = MotionTensor(*(jnp.zeros_like(u[0]),) * 6)
    total = lax.fori_loop(0, len(read), add, (none, none))
    share = (inside & valid_part(u[0].shape, size)).astype(jnp.float32) / len(read)
    return Linearised(*jax.tree.map(lambda plane: plane * share, total), u)


def inner_iteration(u: Planes, data: Linearised, size: jax.Array, settings: BroxSettings) -> Planes:
    """Return u after one renewal of the weights psi' and the solver's sweeps; the linearised energy does not rise."""
    du, dv = (new - old for new, old in zip(u, data.around, strict=True))
    squared = settings.epsilon**2
    trust = lax.rsqrt(data.brightness.squared(du, dv) + squared)
    trust_gradient = settings.gamma * lax.rsqrt(data.gradient.squared(du, dv) + squared)
    a11, a12, a22, c1, c2, _ = (
        trust * plane + trust_gradient * other for plane, other in zip(data.brightness, data.gradient, strict=True)
    )
    u0, v0 = data.around
    b1, b2 = a11 * u0 + a12 * v0 - c1, a12 * u0 + a22 * v0 - c2
    system = sor.System(a11, a12, a22, b1, b2, *_smoothness(u, size, settings))
    return sor.solve(u, system, settings.sweeps, settings.relaxation)


def _smoothness(u: Planes, size: jax.Array, settings: BroxSettings) -> tuple[jax.Array, jax.Array]:
    """Return alpha psi' of the flow's gradient for each pixel and its right and its lower neighbour; 0 past the border."""
    valid = valid_part(u[0].shape, size).astype(jnp.float32)
    across, down = valid * to_left(valid), valid * to_above(valid)
    steepness = sum(across * (to_left(plane) - plane) ** 2 + down * (to_above(plane) - plane) ** 2 for plane in u)
    weight = settings.alpha * lax.rsqrt(steepness + settings.epsilon**2)
    return weight * across, weight * down


def motion_tensor(x: jax.Array, y: jax.Array, change: jax.Array, flat: float) -> MotionTensor:
    """Return (x du + y dv + change)^2 / (x^2 + y^2 + flat^2), the squared distance in px from where it would be 0."""
    scale = 1 / (x * x + y * y + flat * flat)
    products = (x, x), (x, y), (y, y), (x, change), (y, change), (change, change)
    return MotionTensor(*(a * b * scale for a, b in products))


def valid_part(shape: tuple[int, int], size: jax.Array) -> jax.Array:
    """Return which pixels of a plane [H, W] lie within `size`, int32 [2]; bool [H, W]."""
    return (jnp.arange(shape[0])[:, None] < size[0]) & (jnp.arange(shape[1])[None] < size[1])
