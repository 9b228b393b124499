"""TV-L1 optical flow: Zach, Pock, Bischof, "A Duality Based Approach for Realtime TV-L1 Optical Flow", DAGM 2007.

Minimised is the sum over pixels of |grad u1| + |grad u2| + lambda |I1(x + u) - I0(x)|, coarse to fine, the residual
linearised around each warp. The two terms meet in a second field v near u, at a price of |u - v|^2 / (2 theta): v has a
closed form in each pixel (section 3.1 of the paper, "thresholding"), u is a denoised v, found by Chambolle's dual
iteration, one step of each in turn, as in OpenCV's DualTVL1OpticalFlow. Two things differ from OpenCV: levels are blurred
before they are subsampled, and whether to stop is asked once per median filter, not in every iteration.

Pure functions of one pair of images [H, W] whose padding, if any, has no influence (see `pyramid`); float32.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from twostream_jax.flow import pyramid
from twostream_jax.flow.median import median
from twostream_jax.flow.pyramid import Level
from twostream_jax.flow.warp import centred_gradient, warp

# No level but the first has a side below this; as in OpenCV.
SMALLEST_PX = 16

# Where the squared gradient is below this, the pixel says nothing about its motion: float32's epsilon, as in OpenCV.
_FLAT = 1.1920929e-07


@dataclasses.dataclass(frozen=True)
class TVL1Settings:
    """Settings under the names of OpenCV's DualTVL1OpticalFlow; its defaults are `OPENCV`, ours `DEFAULT`.

    Intensities are 0..255 in all of them.
    """

    tau: float  # step of the dual iteration, in units of theta; above .25 it need not converge
    lambda_: float  # weight of the data term, 1 / grey level; a smaller one gives a smoother flow
    theta: float  # looseness of the coupling of u and v, px
    nscales: int  # levels of the pyramid, at most
    scale_step: float  # size of a level over that of the next larger one
    warps: int  # linearisations of the residual, a level
    inner_iterations: int  # iterations after one median filter
    outer_iterations: int  # median filters, each followed by its iterations, a warp; at most
    epsilon: float  # px; a warp ends when the flow's change, root mean square, of the last iteration was below
    median_filtering: int  # window of the median filter, px, odd; 1 filters nothing
    gamma: float  # weight of a third plane that takes up changes of the illumination; 0 has none

    def __post_init__(self) -> None:
        assert 0 < self.scale_step < 1, self
        assert min(self.nscales, self.warps, self.inner_iterations, self.outer_iterations) >= 1, self
        assert min(self.tau, self.lambda_, self.theta) > 0 and min(self.epsilon, self.gamma) >= 0, self
        assert self.median_filtering % 2 == 1, self


# cv2.optflow.DualTVL1OpticalFlow's own, the same from 4.11 to 5.0.
OPENCV = TVL1Settings(
    tau=0.25,
    lambda_=0.15,
    theta=0.3,
    nscales=5,
    scale_step=0.8,
    warps=5,
    inner_iterations=30,
    outer_iterations=10,
    epsilon=0.01,
    median_filtering=5,
    gamma=0.0,
)

# Chosen beside OpenCV with its own settings, on the pairs with ground truth (mean end-point error) and on real clips of
# 256 px (mean residual): three more levels for large motions (error .96 of OpenCV's), 50 iterations a warp instead of up
# to 300 and a 3x3 median (1 % of error, six tenths of the time), lambda .2 (residual .95, the same error). Levels of
# half the size take half the time, but the error was 14 % larger on one of the pairs with three of them, 25 % with all.
DEFAULT = dataclasses.replace(
    OPENCV, lambda_=0.2, nscales=8, inner_iterations=10, outer_iterations=5, median_filtering=3
)

# A field: its x and y components [H, W], then the illumination where gamma is not 0.
Planes = tuple[jax.Array, ...]
# Of each plane the dual vectors' x and y components [H, W]; none is longer than 1.
Duals = tuple[tuple[jax.Array, jax.Array], ...]


class Linearised(NamedTuple):
    """The residual of a field near the one that was warped with: rho(u) = constant + sum(slopes * u), grey levels."""

    constant: jax.Array  # [H, W]
    slopes: Planes
    inverse: jax.Array  # [H, W], 1 / sum(slopes^2); 0 where the residual is not to be trusted


class Edges(NamedTuple):
    """Where a forward difference lies within the valid part: 1, else 0."""

    across: jax.Array  # [1, W]
    down: jax.Array  # [H, 1]


def levels(frame: jax.Array, size: jax.Array, settings: TVL1Settings) -> list[Level]:
    """Return the pyramid of a frame [H, W], any dtype, valid h, w int32 [2], that `flow_between` takes."""
    return pyramid.build(frame, size, settings.scale_step, settings.nscales, SMALLEST_PX)


def flow_between(levels0: list[Level], levels1: list[Level], settings: TVL1Settings) -> jax.Array:
    """Return the flow [H, W, 2] in px, x right, y down, from one frame's `levels` to another's; 0 in the padding."""
    u = tuple(jnp.zeros_like(levels0[-1].image) for _ in range(3 if settings.gamma else 2))
    for i in reversed(range(len(levels0))):
        level, step = levels0[i], settings.scale_step
        if i + 1 < len(levels0):
            u = tuple(pyramid.grow(plane, levels0[i + 1].size, level.image.shape, step) for plane in u)
            u = (u[0] / step, u[1] / step, *u[2:])
        refined = refine(level, levels1[i], u, settings)
        # Levels that only the padding made possible are passed over.
        used = (level.size >= SMALLEST_PX).all() | (i == 0)
        u = tuple(jnp.where(used, new, old) for new, old in zip(refined, u, strict=True))
    valid = _valid(levels0[0])[..., None]
    return jnp.where(valid, jnp.stack(u[:2], axis=-1), 0.0)


def refine(level0: Level, level1: Level, u: Planes, settings: TVL1Settings) -> Planes:
    """Return the field u of one level after all of the level's warps."""
    image1, size = pyramid.extend(*level1), level1.size
    shown = jnp.stack((image1, *centred_gradient(image1, size)), axis=-1)

    def after_warp(_: jax.Array, state: tuple[Planes, Duals]) -> tuple[Planes, Duals]:
        return settle(*state, linearise(level0.image, shown, state[0], size, settings.gamma), level0, settings)

    zero = jnp.zeros_like(level0.image)
    u, _ = lax.fori_loop(0, settings.warps, after_warp, (u, tuple((zero, zero) for _ in u)))
    return u


def linearise(image0: jax.Array, shown: jax.Array, u: Planes, size: jax.Array, gamma: float) -> Linearised:
    """Return the residual around u; `shown` [H, W, 3] is the second image with its gradient (x, y).

    It is not trusted where the second image is flat, or where u leaves it.
    """
    read, inside = warp(shown, jnp.stack(u[:2], axis=-1), size)
    warped, *slopes = (read[..., c] for c in range(3))
    constant = warped - image0 - slopes[0] * u[0] - slopes[1] * u[1]
    if gamma:
        slopes.append(jnp.full_like(constant, gamma))
    steepness = sum(slope * slope for slope in slopes)
    inverse = jnp.where(inside & (steepness > _FLAT), 1 / jnp.maximum(steepness, _FLAT), 0.0)
    return Linearised(constant, tuple(slopes), inverse)


def settle(u: Planes, p: Duals, residual: Linearised, level: Level, settings: TVL1Settings) -> tuple[Planes, Duals]:
    """Return (u, p) after rounds of a median filter and iterations, until u changes by less than epsilon."""
    edges, valid = _edges(level), _valid(level)
    tolerance = settings.epsilon**2 * level.size.astype(jnp.float32).prod()

    def unsettled(state: tuple[jax.Array, jax.Array, Planes, Duals]) -> jax.Array:
        rounds, change, _, _ = state
        return (rounds < settings.outer_iterations) & (change > tolerance)

    def one_round(state: tuple[jax.Array, jax.Array, Planes, Duals]) -> tuple[jax.Array, jax.Array, Planes, Duals]:
        rounds, _, u, p = state
        u = tuple(median(plane, level.size, settings.median_filtering) for plane in u)
        before, p = lax.fori_loop(
            0, settings.inner_iterations - 1, lambda _, up: iterate(*up, residual, edges, settings), (u, p)
        )
        u, p = iterate(before, p, residual, edges, settings)
        change = sum(jnp.where(valid, (new - old) ** 2, 0.0).sum() for new, old in zip(u, before, strict=True))
        return rounds + 1, change, u, p

    start = (jnp.int32(0), jnp.float32(jnp.inf), u, p)
    _, _, u, p = lax.while_loop(unsettled, one_round, start)
    return u, p


def iterate(u: Planes, p: Duals, residual: Linearised, edges: Edges, settings: TVL1Settings) -> tuple[Planes, Duals]:
    """Return (u, p) after one step each: v from u, u from v and p, p from u."""
    rho = residual.constant + sum(slope * plane for slope, plane in zip(residual.slopes, u, strict=True))
    bound = settings.lambda_ * settings.theta
    # The paper's three cases: the full step where that does not reach rho = 0, else the step to rho = 0.
    share = lax.clamp(-bound, rho * residual.inverse, bound)
    u = tuple(
        plane - share * slope + settings.theta * divergence(*dual)
        for plane, slope, dual in zip(u, residual.slopes, p, strict=True)
    )
    step = settings.tau / settings.theta
    p = tuple(ascend(*dual, *gradient(plane, edges), step) for plane, dual in zip(u, p, strict=True))
    return u, p


def gradient(plane: jax.Array, edges: Edges) -> tuple[jax.Array, jax.Array]:
    """Return the forward differences (x, y) of a plane [H, W], 0 across the border of the valid part."""
    x = jnp.pad(plane[:, 1:] - plane[:, :-1], ((0, 0), (0, 1)))
    y = jnp.pad(plane[1:] - plane[:-1], ((0, 1), (0, 0)))
    return x * edges.across, y * edges.down


def divergence(x: jax.Array, y: jax.Array) -> jax.Array:
    """Return minus the adjoint of `gradient`, [H, W], for vectors that are 0 where the gradient always is."""
    left = jnp.pad(x[:, :-1], ((0, 0), (1, 0)))
    above = jnp.pad(y[:-1], ((1, 0), (0, 0)))
    return x - left + y - above


def ascend(
    x: jax.Array, y: jax.Array, slope_x: jax.Array, slope_y: jax.Array, step: float
) -> tuple[jax.Array, jax.Array]:
    """Return the dual vectors after Chambolle's semi-implicit step; from within the unit ball they stay there."""
    shorter = 1 / (1 + step * jnp.sqrt(slope_x * slope_x + slope_y * slope_y))
    return (x + step * slope_x) * shorter, (y + step * slope_y) * shorter


def _valid(level: Level) -> jax.Array:
    height, width = level.image.shape
    return (jnp.arange(height)[:, None] < level.size[0]) & (jnp.arange(width)[None] < level.size[1])


def _edges(level: Level) -> Edges:
    height, width = level.image.shape
    across = jnp.arange(width)[None] < level.size[1] - 1
    down = jnp.arange(height)[:, None] < level.size[0] - 1
    return Edges(across.astype(jnp.float32), down.astype(jnp.float32))
