"""bench=flow: optical flow beside OpenCV's, the time of a pair with its quality, and its share of the memory's rate."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import jax
import numpy as np

from input_pipeline.opencv_flow import compute_flow
from input_pipeline.schema import UserError
from twostream_jax import flow
from twostream_jax.bench import ground_truth
from twostream_jax.bench.flow_work import ARRAYS_HELD, work
from twostream_jax.bench.ground_truth import Truth, angular_error, end_point_error, residual
from twostream_jax.bench.machine import measured_bandwidth
from twostream_jax.bench.rounds import Builder, Rounds, interleave
from twostream_jax.host_memory import computes_on_cpu, keep_freed_memory
from twostream_jax.run_log import Progress

TVL1, BROX = "twostream-jax TV-L1", "twostream-jax Brox"
# Ours: batches of grey frames [B, H, W] -> flow [B, H, W, 2].
OURS = {TVL1: flow.tvl1, BROX: flow.brox}
REFERENCE = "OpenCV TV-L1"
# OpenCV's, under the names that `flow.method` has for them.
OPENCV = {REFERENCE: "tvl1", "OpenCV DeepFlow": "deepflow", "OpenCV DIS": "dis", "OpenCV Farneback": "farneback"}
# Pairs of each of the eight clips in a call of ours: on an accelerator 64 in all, on a CPU few, since they take their turn.
PAIRS_A_CLIP = {True: 1, False: 8}  # whether on a CPU
# What is computed once, on one core, is timed by what the process got of it: that is not in turn with anything.
ONE_CORE_CLOCK = time.process_time

# (first, second), [n, H, W] uint8 each -> n fields [H, W, 2]
Method = Callable[[np.ndarray, np.ndarray], np.ndarray]


def bench_flow(config, rounds: int, workdir: Path) -> dict:
    """Return every round's seconds of each method for the same pairs, and beside them its errors.

    Pairs of neighbouring frames of real clips at `data.short_side`; `truths` are the pairs with known flow. All of OpenCV's
    methods run on one core, and so do ours where there is no accelerator; with one, ours take more pairs, in one batch.
    """
    root, on_cpu = ground_truth.data_folder(), computes_on_cpu()
    truths = ground_truth.read_truths(root)
    frames = ground_truth.read_clips(root, config.data.short_side, PAIRS_A_CLIP[on_cpu])
    contestants: dict[str, tuple[Builder, tuple]] = {who: (our_method, (who, frames, truths, on_cpu)) for who in OURS}
    contestants |= {who: (opencv_method, (who, frames[:, :2], truths)) for who in OPENCV}
    zero = np.zeros((*frames.shape[2:], 2))
    still = {
        "residual": statistics.fmean(residual(first, second, zero) for first, second in frames[:, :2]),
        "truths": {truth.name: _errors(np.zeros_like(truth.flow), truth) for truth in truths},
    }
    print(f"bench flow: each method on {len(truths)} pairs with known flow, ours compiled; minutes")
    with Progress("bench flow", "rounds") as progress:
        found = interleave(contestants, rounds, progress.update)
    for who in (*OURS, REFERENCE):
        if who in found.missing:
            raise UserError(f"bench flow: {who}: {found.missing[who]}")
    return {
        "size": f"{frames.shape[3]}x{frames.shape[2]}",
        "ours_on": "one core" if on_cpu else f"one {jax.devices()[0].device_kind}",
        "wall_s": found.wall_s,
        "cpu_s": found.cpu_s,
        "missing": found.missing,
        **_by_pair(found),
        "facts": found.facts,
        "still": still,
        "work": {
            # On one core by CPU time, which other work on the machine leaves alone.
            who: _share(found.facts[who], (found.cpu_s if on_cpu else found.wall_s)[who])
            for who in OURS
            if "work" in found.facts[who]
        },
    }


def _by_pair(found: Rounds) -> dict[str, dict[str, float]]:
    """Return what the rounds say of one pair: medians over them."""
    pairs = {who: facts["pairs"] for who, facts in found.facts.items()}
    return {
        "ms_a_pair": {who: _ms(found, who) for who in pairs},
        "pairs_per_second": {who: 1e3 / _ms(found, who) for who in pairs},
        "times_as_fast_as_reference": {
            who: {
                "wall": pairs[who] / pairs[REFERENCE] / found.ratio(who, REFERENCE),
                "cpu": pairs[who] / pairs[REFERENCE] / found.cpu_ratio(who, REFERENCE),
            }
            for who in pairs
        },
    }


def _ms(found: Rounds, who: str) -> float:
    return 1e3 * found.median(who) / found.facts[who]["pairs"]


def _share(facts: dict, seconds_a_round: list[float]) -> dict[str, float]:
    """Return a method's work, the bytes a second that it comes to, and its shares of the rate measured and of the time."""
    of, seconds = facts["work"], statistics.median(seconds_a_round) / facts["pairs"]
    within = of["bytes"] / of["iterations_s"] / of["bandwidth"]
    return of | {
        "seconds": seconds,
        "bytes_per_second": of["bytes"] / seconds,
        "share_of_bandwidth": of["bytes"] / seconds / of["bandwidth"],
        "share_of_time": of["iterations_s"] / seconds,
        "share_of_bandwidth_within": within,
        "share_of_bandwidth_by_xla": within * of["bytes_by_xla_a_pixel"] / of["bytes_a_pixel"],
    }


def flow_lines(found: dict) -> list[str]:
    """Return the lines that the terminal shows of `bench_flow`: times, work, and the errors as a table in Markdown."""
    width = max(map(len, (*found["wall_s"], *found["missing"])))
    lines = [f"flow: pairs of {found['size']} px of eight clips; ours on {found['ours_on']}, OpenCV's on one core"]
    for who, seconds in found["wall_s"].items():
        pairs = found["facts"][who]["pairs"]
        low, high, cpu = (1e3 * s / pairs for s in (min(seconds), max(seconds), statistics.median(found["cpu_s"][who])))
        faster = found["times_as_fast_as_reference"][who]
        lines.append(
            f"  {who:<{width}} {found['ms_a_pair'][who]:8.2f} ms a pair [{low:.2f} to {high:.2f}], CPU {cpu:.2f} ms, "
            f"{found['pairs_per_second'][who]:.1f} pairs/s of {pairs} a call, "
            f"{faster['wall']:.2f} x {REFERENCE} ({faster['cpu']:.2f} per CPU second); "
            f"residual {found['facts'][who]['residual']:.2f}, end-point error {_mean_error(found['facts'][who]):.3f} px"
        )
    lines += [f"  {who:<{width}} cannot be had: {why}" for who, why in found["missing"].items()]
    still = found["still"]
    lines.append(f"  no flow: residual {still['residual']:.2f}, end-point error {_mean_error(still):.3f} px")
    for who, of in found["work"].items():
        lines += _work_lines(who, of)
    return [*lines, "", *_truth_table(found)]


def _work_lines(who: str, of: dict) -> list[str]:
    giga = {what: of[what] / 1e9 for what in ("bytes", "flops", "bandwidth", "bandwidth_of_large")}
    percent = {what: f"{100 * of[what]:.0f} %" for what in of if what.startswith("share_")}
    return [
        f"  {who}: {of['iterations']:.0f} iterations a pair of at most {of['most_iterations']}, all levels counted; at "
        f"least {giga['bytes']:.2f} GB and {giga['flops']:.2f} GFLOP a pair",
        f"    over the whole time that is {percent['share_of_bandwidth']} of {giga['bandwidth']:.0f} GB/s, measured on as "
        f"many bytes as an iteration holds ({giga['bandwidth_of_large']:.0f} GB/s on 512 MB)",
        f"    iterations by themselves: {1e3 * of['iterations_s']:.1f} ms a pair, {percent['share_of_time']} of the time, "
        f"at {percent['share_of_bandwidth_within']} of that rate by the least bytes, {of['bytes_a_pixel']} a pixel, and "
        f"{percent['share_of_bandwidth_by_xla']} by XLA's count, {of['bytes_by_xla_a_pixel']:.0f}",
    ]


def _mean_error(facts: dict) -> float:
    return statistics.fmean(errors["end_point_px"] for errors in facts["truths"].values())


def _truth_table(found: dict) -> list[str]:
    """Return the table of pairs by methods: end-point error in px / angular error in degrees / seconds."""
    columns = {"no flow": found["still"], **found["facts"]}
    lines = [
        f"| end-point error px / angular error ° / s | {' | '.join(columns)} |",
        "| --- " * (len(columns) + 1) + "|",
    ]
    for name in found["still"]["truths"]:
        cells = []
        for facts in columns.values():
            of = facts["truths"][name]
            took = f" / {of['seconds']:.2g}" if "seconds" in of else ""
            cells.append(f"{of['end_point_px']:.3f} / {of['angular_degrees']:.1f}{took}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, f"| mean | {' | '.join(f'{_mean_error(facts):.3f}' for facts in columns.values())} |"]


def our_method(who: str, frames: np.ndarray, truths: list[Truth], on_cpu: bool) -> tuple[Callable[[], None], dict]:
    """Return a function that computes one batch, from frames to flow in host memory, and facts: quality and work."""
    if on_cpu:
        use_one_core()
        keep_freed_memory()  # as the command line does

    def method(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return np.asarray(OURS[who](first, second))

    for shape in {truth.first.shape for truth in truths}:
        method(*np.zeros((2, 1, *shape), np.uint8))  # compiles
    run, facts = _measured(method, frames, truths, ONE_CORE_CLOCK if on_cpu else time.perf_counter)
    if who == TVL1:
        first, second = _pairs(frames)
        plane_bytes = first[0].size * 4
        of = work(first, second, flow.DEFAULT, together=not on_cpu)
        # On a CPU, whose pairs take turns, what is worked on is one pair's.
        held = ARRAYS_HELD * plane_bytes * (1 if on_cpu else len(first))
        facts["work"] = of | {
            "bandwidth": measured_bandwidth(held // 2),
            "bandwidth_of_large": measured_bandwidth(2**28),
        }
    return run, facts


def opencv_method(who: str, frames: np.ndarray, truths: list[Truth]) -> tuple[Callable[[], None], dict]:
    """Return a function that computes the pairs one after the other, as prepare does, and its quality."""
    use_one_core()

    def method(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return np.stack([compute_flow(np.stack(pair), OPENCV[who])[0] for pair in zip(first, second, strict=True)])

    return _measured(method, frames, truths, ONE_CORE_CLOCK)


def use_one_core() -> None:
    """Keep this process to one core, as one of prepare's worker processes is: OpenCV, and XLA if jax starts hereafter."""
    # Where cores cannot be chosen, as on macOS, the two settings below have to do.
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    cv2.setNumThreads(1)
    # Of flags that contradict each other, XLA takes the last.
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false".strip()


def _measured(
    method: Method, frames: np.ndarray, truths: list[Truth], clock: Callable[[], float]
) -> tuple[Callable[[], None], dict]:
    """Return a function that computes all pairs of the clips, and what is found once: their residual, the truths' errors."""
    first, second = _pairs(frames)
    fields = method(first, second)
    facts = {
        "pairs": len(first),
        "residual": statistics.fmean(map(residual, first, second, fields)),
        "truths": {},
    }
    for truth in truths:
        begun = clock()
        field = method(truth.first[None], truth.second[None])[0]
        seconds = clock() - begun
        facts["truths"][truth.name] = _errors(field, truth) | {"seconds": seconds}
    return lambda: method(first, second), facts


def _pairs(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (first, second) frames of all neighbours, [n, H, W] each, of clips [clips, frames, H, W]."""
    shape = (-1, *frames.shape[2:])
    return frames[:, :-1].reshape(shape), frames[:, 1:].reshape(shape)


def _errors(field: np.ndarray, truth: Truth) -> dict[str, float]:
    return {
        "end_point_px": end_point_error(field, truth.flow),
        "angular_degrees": angular_error(field, truth.flow),
    }
