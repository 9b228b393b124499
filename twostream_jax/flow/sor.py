"""Successive over-relaxation in red-black order: a parallel solver of the linear systems of variational optical flow.

A system has one 2x2 block per pixel, the data terms', and one weight per pair of neighbours, the smoothness term's:
    A(x) u(x) - sum over the neighbours y of x: weight(x, y) (u(y) - u(x)) = b(x)
The pixels of one colour of a chequerboard have neighbours of the other colour only, so each half of a sweep updates all of
one colour at once (Young 1971). A is symmetric and at least positive semidefinite, so every half sweep lowers the quadratic
form that the system is the stationary point of, for any relaxation between 0 and 2.

Planes are split into their four phases (rows even or odd, columns even or odd), so that no work is spent on the other
colour: on a CPU a masked sweep took five times as long.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

# Of a plane, its pixels by (row parity, column parity): [H / 2, W / 2] each.
Phases = dict[tuple[int, int], jax.Array]

_RED, _BLACK = ((0, 0), (1, 1)), ((0, 1), (1, 0))

# Keeps blocks without data or neighbours, those of the padding, from being singular; their u stays 0.
_TINY = 1e-9


class System(NamedTuple):
    """The blocks, the right side, and the weights of neighbours; each plane float32 [H, W]."""

    a11: jax.Array
    a12: jax.Array
    a22: jax.Array
    b1: jax.Array
    b2: jax.Array
    across: jax.Array  # weight of a pixel and the one to its right; 0 where there is none
    down: jax.Array  # weight of a pixel and the one below; 0 where there is none


def solve(
    u: tuple[jax.Array, jax.Array], system: System, sweeps: int, relaxation: float
) -> tuple[jax.Array, jax.Array]:
    """Return the two planes u, float32 [H, W], after `sweeps` over both colours from the planes given.

    `relaxation` above 1 overshoots: what plain Gauss-Seidel needs hundreds of sweeps for comes in tens.
    """
    height, width = u[0].shape
    left, above = to_right(system.across), to_below(system.down)
    weights = system.across + left + system.down + above + _TINY
    d1, d2 = system.a11 + weights, system.a22 + weights
    scale = relaxation / (d1 * d2 - system.a12 * system.a12)
    inverse = [_split(plane) for plane in (d2 * scale, -system.a12 * scale, d1 * scale)]
    b = _split(system.b1), _split(system.b2)
    edges = [_split(plane) for plane in (left, system.across, above, system.down)]

    def relaxed(u: tuple[Phases, Phases], phase: tuple[int, int]) -> list[jax.Array]:
        i11, i12, i22 = (plane[phase] for plane in inverse)
        pulled = [side[phase] + _neighbours(plane, edges, phase) for side, plane in zip(b, u, strict=True)]
        kept = [(1 - relaxation) * plane[phase] for plane in u]
        return [kept[0] + i11 * pulled[0] + i12 * pulled[1], kept[1] + i12 * pulled[0] + i22 * pulled[1]]

    def sweep(_: jax.Array, u: tuple[Phases, Phases]) -> tuple[Phases, Phases]:
        for colour in (_RED, _BLACK):
            new = {phase: relaxed(u, phase) for phase in colour}
            u = tuple(plane | {phase: new[phase][c] for phase in colour} for c, plane in enumerate(u))
        return u

    u = lax.fori_loop(0, sweeps, sweep, tuple(_split(plane) for plane in u))
    return tuple(_join(plane)[:height, :width] for plane in u)


def to_right(plane: jax.Array) -> jax.Array:
    """Return each pixel's left neighbour, [H, W]; 0 in the first column."""
    return jnp.pad(plane[:, :-1], ((0, 0), (1, 0)))


def to_left(plane: jax.Array) -> jax.Array:
    """Return each pixel's right neighbour, [H, W]; 0 in the last column."""
    return jnp.pad(plane[:, 1:], ((0, 0), (0, 1)))


def to_below(plane: jax.Array) -> jax.Array:
    """Return each pixel's upper neighbour, [H, W]; 0 in the first row."""
    return jnp.pad(plane[:-1], ((1, 0), (0, 0)))


def to_above(plane: jax.Array) -> jax.Array:
    """Return each pixel's lower neighbour, [H, W]; 0 in the last row."""
    return jnp.pad(plane[1:], ((0, 1), (0, 0)))


def _neighbours(plane: Phases, edges: list[Phases], phase: tuple[int, int]) -> jax.Array:
    """Return the weighted sum of the four neighbours of one phase's pixels."""
    row, column = phase
    beside, over = plane[row, 1 - column], plane[1 - row, column]
    # In a pair of columns the even one is the left: its right neighbour has its own place in the other phase.
    left, right = (beside, to_left(beside)) if column else (to_right(beside), beside)
    above, below = (over, to_above(over)) if row else (to_below(over), over)
    neighbours = left, right, above, below
    return sum(edge[phase] * neighbour for edge, neighbour in zip(edges, neighbours, strict=True))


def _split(plane: jax.Array) -> Phases:
    """Return the phases of a plane [H, W]; an odd side is extended by zeros."""
    plane = jnp.pad(plane, [(0, side % 2) for side in plane.shape])
    return {(row, column): plane[row::2, column::2] for row in (0, 1) for column in (0, 1)}


def _join(phases: Phases) -> jax.Array:
    """Return the plane [H, W], both even, of four phases."""
    height, width = phases[0, 0].shape
    rows = [jnp.stack([phases[row, 0], phases[row, 1]], axis=-1).reshape(height, 2 * width) for row in (0, 1)]
    return jnp.stack(rows, axis=1).reshape(2 * height, 2 * width)
