"""How much TV-L1 computes for a pair: iterations made until it stopped by itself, and the memory traffic they need."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from twostream_jax import flow
from twostream_jax.flow import pyramid
from twostream_jax.flow.pyramid import Level
from twostream_jax.flow.tvl1 import Duals, Edges, Linearised, Planes, TVL1Settings, iterate, levels, linearise, settle
from twostream_jax.flow.warp import centred_gradient

# Arrays of one iteration of two planes, each read or written once, as if all of it were one pass: the residual's constant,
# its two slopes and the inverse are read (4), the field (2) and its dual vectors (4) are read and written.
ARRAYS_HELD = 4 + 2 + 4
ARRAYS_MOVED = 4 + 2 * (2 + 4)
BYTES_MOVED = 4 * ARRAYS_MOVED
_ITERATIONS = 100  # that are timed


def work(frame0: np.ndarray, frame1: np.ndarray, settings: TVL1Settings, together: bool) -> dict:
    """Return iterations, bytes and operations of a pair, means over pairs of frames [B, H, W].

    `iterations` are those that are made, `most_iterations` what the settings allow. Where the pairs are computed `together`,
    as on accelerators, a warp goes on for all of them until the last has settled. `bytes` are the least that these must move
    (`ARRAYS_MOVED` in each), `flops` XLA's count, `iterations_s` the seconds that they take with nothing between them.
    AssertionError where the counted iterations do not lead to the flow that `flow.tvl1` finds.
    """
    rounds, fields = counted(frame0, frame1, settings)
    apart = np.linalg.norm(fields - flow.tvl1(frame0, frame1, settings=settings), axis=-1).mean(axis=(1, 2))
    # Compiled otherwise, sums differ in their last bits, and with them where a warp stops: of 64 pairs the flow was .004 px
    # apart in the middle, .034 px at most. Noise of 1e-4 grey levels on the frames moves it as much.
    assert np.median(apart) < 0.05, apart
    rounds = np.asarray(rounds)
    made = settings.inner_iterations * (rounds.max(axis=0, keepdims=True) if together else rounds)
    per_level = made.sum(axis=2).mean(axis=0)
    pixels = np.array(level_pixels(frame0.shape[1:], settings))
    of_pixels = float((per_level * pixels).sum())
    # A process that keeps to one core is timed by what it got of that.
    held, clock = (frame0.shape, time.perf_counter) if together else ((1, *frame0.shape[1:]), time.process_time)
    one = iteration(held, settings, clock)
    return {
        "iterations": float(per_level.sum()),
        "most_iterations": settings.inner_iterations * settings.outer_iterations * settings.warps * len(pixels),
        "bytes": of_pixels * BYTES_MOVED,
        "bytes_a_pixel": BYTES_MOVED,
        "bytes_by_xla_a_pixel": one["bytes"],
        "flops": of_pixels * one["flops"],
        "iterations_s": of_pixels * one["seconds"],
    }


def level_pixels(shape: tuple[int, int], settings: TVL1Settings) -> list[int]:
    """Return the pixels of each level of the pyramid, the smallest first, as the rounds of `counted` are ordered."""
    made = jax.eval_shape(lambda image: _pyramid(image, settings), jax.ShapeDtypeStruct(shape, jnp.float32))
    return [int(np.prod(level.image.shape)) for level in reversed(made)]


@partial(jax.jit, static_argnames="settings")
def counted(frame0: jax.Array, frame1: jax.Array, settings: TVL1Settings) -> tuple[jax.Array, jax.Array]:
    """Return (rounds of iterations of each warp, int32 [B, levels, warps], the smallest level first; flow [B, H, W, 2])."""

    def pair(frames: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        of0, of1 = (_pyramid(frame, settings) for frame in frames)
        u, rounds = tuple(jnp.zeros_like(of0[-1].image) for _ in range(2)), []
        for level0, level1 in zip(reversed(of0), reversed(of1), strict=True):
            if rounds:
                size = jnp.int32(u[0].shape)
                u = tuple(
                    pyramid.grow(p, size, level0.image.shape, settings.scale_step) / settings.scale_step for p in u
                )
            u, made = _refine(level0, level1, u, settings)
            rounds.append(made)
        return jnp.stack(rounds), jnp.stack(u, axis=-1)

    return lax.map(pair, (frame0, frame1))


def _pyramid(frame: jax.Array, settings: TVL1Settings) -> list[Level]:
    assert settings.gamma == 0, settings  # which would be a third plane
    return levels(frame, jnp.int32(frame.shape), settings)


def _refine(level0: Level, level1: Level, u: Planes, settings: TVL1Settings) -> tuple[Planes, jax.Array]:
    """Return what `tvl1.refine` does, and the rounds of each warp."""
    shown = jnp.stack((level1.image, *centred_gradient(*level1)), axis=-1)
    zero = jnp.zeros_like(level0.image)

    def after_warp(state: tuple[Planes, Duals], _: None) -> tuple[tuple[Planes, Duals], jax.Array]:
        u, p = state
        residual = linearise(level0.image, shown, u, level1.size, settings.gamma)
        u, p, rounds = _settle(u, p, residual, level0, settings)
        return (u, p), rounds

    (u, _), rounds = lax.scan(after_warp, (u, tuple((zero, zero) for _ in u)), length=settings.warps)
    return u, rounds


def _settle(
    u: Planes, p: Duals, residual: Linearised, level: Level, settings: TVL1Settings
) -> tuple[Planes, Duals, jax.Array]:
    """Return what `tvl1.settle` does, and the rounds that it made: it is called for one round at a time, in two parts."""
    to_the_last = dataclasses.replace(settings, outer_iterations=1, inner_iterations=settings.inner_iterations - 1)
    the_last = dataclasses.replace(settings, outer_iterations=1, inner_iterations=1, median_filtering=1)
    tolerance = settings.epsilon**2 * u[0].size

    def unsettled(state: tuple[jax.Array, jax.Array, Planes, Duals]) -> jax.Array:
        return (state[0] < settings.outer_iterations) & (state[1] > tolerance)

    def one_round(state: tuple[jax.Array, jax.Array, Planes, Duals]) -> tuple[jax.Array, jax.Array, Planes, Duals]:
        rounds, _, u, p = state
        before, p = settle(u, p, residual, level, to_the_last)
        u, p = settle(before, p, residual, level, the_last)
        change = sum(((new - old) ** 2).sum() for new, old in zip(u, before, strict=True))
        return rounds + 1, change, u, p

    rounds, _, u, p = lax.while_loop(unsettled, one_round, (jnp.int32(0), jnp.float32(jnp.inf), u, p))
    return u, p, rounds


def iteration(shape: tuple[int, int, int], settings: TVL1Settings, clock: Callable[[], float]) -> dict[str, float]:
    """Return XLA's count of `flops` and `bytes` of one iteration, and the `seconds` of one among many, all per pixel.

    `shape` is that of the planes that are iterated at once, [B, H, W]. The seconds, by `clock`, are the best of five.
    """
    count, height, width = shape
    plane = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    duals = ((0 * plane, 0 * plane),) * 2
    residual = Linearised(plane, (plane + 1, plane - 1), 1 / (1 + plane * plane))
    edges = Edges(jnp.ones((1, width), jnp.float32), jnp.ones((height, 1), jnp.float32))
    one = jax.vmap(lambda u, p, residual: iterate(u, p, residual, edges, settings))
    many = jax.jit(lambda u, p, residual: lax.fori_loop(0, _ITERATIONS, lambda _, up: one(*up, residual), (u, p)))
    counts = jax.jit(one).lower((plane,) * 2, duals, residual).compile().cost_analysis()
    times = []
    for _ in range(6):  # the first compiles
        begun = clock()
        jax.block_until_ready(many((plane,) * 2, duals, residual))
        times.append(clock() - begun)
    per_pixel = {"flops": counts["flops"], "bytes": counts["bytes accessed"], "seconds": min(times[1:]) / _ITERATIONS}
    return {what: float(amount) / (count * height * width) for what, amount in per_pixel.items()}
