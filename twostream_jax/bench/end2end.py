"""bench=end2end: training from record files, beside its step alone and its input alone: what the device waits for."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from input_pipeline import pipeline
from input_pipeline.schema import UserError, first_line
from twostream_jax import mesh as meshes
from twostream_jax import steps
from twostream_jax.bench import clips
from twostream_jax.bench.rounds import Builder, Rounds, interleave, time_lines
from twostream_jax.bench.training_setup import all_videos_setup, draw_of
from twostream_jax.drivers.device_batches import QUEUED, DeviceBatches
from twostream_jax.drivers.setup import Setup
from twostream_jax.drivers.step_lines import AHEAD, one_by_one
from twostream_jax.host_memory import computes_on_cpu, keep_freed_memory
from twostream_jax.optim import make_optimizer
from twostream_jax.run_log import Progress

# Steps a round on a CPU, where one takes half a second, and on an accelerator.
STEPS_ON_CPU, STEPS = 8, 100
# Batches taken before a round's clock starts: more than may lie ready from before, so that none of them counts.
SKIPPED = QUEUED + pipeline.BATCHES_AHEAD + 2
# The paper's schedule (2014, Sect. 5): 80K iterations of 256 samples.
PAPER_STEPS, PAPER_BATCH = 80_000, 256
STEP, INPUT, BOTH = "step alone, its data in memory", "input alone, the net left out", "both"


def bench_end2end(config, rounds: int, workdir: Path) -> dict:
    """Return for each kind of records every round's seconds of the step alone, the input alone and both, and what follows.

    `wait_share` is the median over rounds of 1 - step / both, at least 0: what training takes longer than its steps,
    measured from outside, so that no dispatch ahead can hide it. `adds_up` is the time of both over that of the longer of
    the two parts: 1 where they overlap wholly, at most `of_sum` where they take turns. On a CPU the parts share the cores,
    and it is their CPU seconds that add up (`cpu_adds_up`: those of both over the sum of the parts').
    """
    kinds, found = {"JPEG records": ("jpeg", 64), "DCT records": ("dct", 64)}, {}
    for kind, coding in kinds.items():
        try:
            records = clips.bench_records(config, workdir, *coding)
        except UserError as error:
            found[kind] = {"missing": first_line(error)}
            continue
        contestants: dict[str, tuple[Builder, tuple]] = {
            STEP: (step_alone, (config, records)),
            INPUT: (input_alone, (config, records)),
            BOTH: (both, (config, records)),
        }
        with Progress(f"bench end2end, {kind}", "rounds") as progress:
            result = interleave(contestants, rounds, progress.update)
        if result.missing:
            raise UserError(f"bench end2end: {'; '.join(result.missing.values())}")
        found[kind] = _derived(result, config.train.batch_size)
    return {
        "net": config.model.name,
        "batch_size": config.train.batch_size,
        "dtype": config.train.dtype,
        "kinds": found,
    }


def _derived(found: Rounds, batch_size: int) -> dict:
    """Return what the rounds of one kind of records say."""
    facts, count = found.facts[INPUT], found.facts[STEP]["steps"]
    step, both_s = found.median(STEP) / count, found.median(BOTH) / count
    rate = batch_size / both_s
    return {
        "wall_s": found.wall_s,
        "cpu_s": found.cpu_s,
        "missing": {},
        "steps": count,
        "samples_per_second": rate,
        "wait_share": max(0.0, 1 - found.ratio(STEP, BOTH)),
        "adds_up": _median(found.wall_s, lambda s, i, b: b / max(s, i)),
        "of_sum": _median(found.wall_s, lambda s, i, b: (s + i) / max(s, i)),
        "cpu_adds_up": _median(found.cpu_s, lambda s, i, b: b / (s + i)),
        "batch_bytes": facts["batch_bytes"],
        "gigabytes_per_second": facts["batch_bytes"] / both_s / 1e9,
        "gigabytes_per_second_wanted": facts["batch_bytes"] / step / 1e9,
        "gigabytes_per_second_of_copy": facts["batch_bytes"] / facts["copy_s"] / 1e9,
        "paper_hours": PAPER_STEPS * PAPER_BATCH / rate / 3600,
    }


def _median(seconds: dict[str, list[float]], what: Callable[[float, float, float], float]) -> float:
    return statistics.median(map(what, seconds[STEP], seconds[INPUT], seconds[BOTH]))


def end2end_lines(found: dict) -> list[str]:
    """Return the lines that the terminal shows of `bench_end2end`."""
    lines = [f"end2end: {found['net']}, batch of {found['batch_size']}, {found['dtype']}"]
    for kind, own in found["kinds"].items():
        if "wall_s" not in own:
            lines.append(f"  {kind} cannot be had: {own['missing']}")
            continue
        lines.append(f"  {kind}, {own['steps']} steps a round")
        lines += [f"  {line}" for line in time_lines(own, own["steps"] * found["batch_size"])]
        lines.append(
            f"    input waited for {own['wait_share']:.1%} of the time; both take {own['adds_up']:.2f} of the longer part "
            f"(taking turns {own['of_sum']:.2f}), {own['cpu_adds_up']:.2f} of the parts' CPU time"
        )
        lines.append(
            f"    to the device {own['gigabytes_per_second']:.3g} GB/s, wanted {own['gigabytes_per_second_wanted']:.3g}, "
            f"a copy alone {own['gigabytes_per_second_of_copy']:.3g}; {PAPER_STEPS:,} steps of {PAPER_BATCH} in "
            f"{own['paper_hours']:.3g} h"
        )
    return lines


def _round_steps() -> int:
    return STEPS_ON_CPU if jax.default_backend() == "cpu" else STEPS


def _open(config, records: Path) -> tuple[Setup, jax.sharding.Mesh]:
    if computes_on_cpu():
        keep_freed_memory()  # as the command line does
    return all_videos_setup(config, records), meshes.make_mesh()


def _host_batches(setup: Setup) -> Iterator[dict[str, np.ndarray]]:
    """Return training batches without end, read as training reads them."""
    draw, window = draw_of(setup, setup.config.train.batch_size), setup.window(setup.config.input.crop)
    return pipeline.train_batches(
        [setup.only.records], draw, window, start_step=0, steps=2**31, reading=setup.reading()
    )


def _compiled_step(setup: Setup, mesh) -> tuple[Callable, object, jax.Array]:
    """Return the training step, jitted, its first state and the run's key."""
    config, model = setup.config, setup.model(setup.heads)
    static = {"model": model, "optimizer": make_optimizer(config.optim), "inputs": setup.inputs}
    init_key, step_key = steps.jit_keys(mesh, config.seed)
    state = steps.jit_init(mesh, **static)(init_key)
    return (
        steps.jit_train_step(mesh, **static, tasks=tuple(setup.heads), accumulate=config.train.accumulate),
        state,
        step_key,
    )


def step_alone(config, records: Path) -> tuple[Callable[[], None], dict]:
    """Return a function that makes the round's steps on one batch that lies on the device, and {"steps"}."""
    setup, mesh = _open(config, records)
    step, state, key = _compiled_step(setup, mesh)
    with contextlib.closing(_host_batches(setup)) as batches:
        batch = meshes.put_batch(next(batches), mesh)
    held, count = {"state": state}, _round_steps()

    def run() -> None:
        _train(step, held, (batch for _ in range(count)), key, mesh)

    return run, {"steps": count}


def input_alone(config, records: Path) -> tuple[Callable[[], None], dict, Callable[[], None]]:
    """Return a function that brings the round's batches to the device, where hardly anything is done with them.

    Facts: bytes of a batch, and seconds of its copy to the device alone.
    """
    setup, mesh = _open(config, records)
    with contextlib.closing(_host_batches(setup)) as batches:
        one = next(batches)
    facts = {"batch_bytes": sum(value.nbytes for value in one.values()), "copy_s": _copy_s(one, mesh)}
    touch = jax.jit(lambda batch: sum(jnp.sum(value.ravel()[:1].astype(jnp.float32)) for value in batch.values()))
    arriving, count = DeviceBatches(_host_batches(setup), mesh), _round_steps()

    def run() -> None:
        for _ in range(count):
            jax.block_until_ready(touch(next(arriving)))

    return run, facts, lambda: _skip(arriving)


def both(config, records: Path) -> tuple[Callable[[], None], dict, Callable[[], None]]:
    """Return a function that makes the round's steps on batches as they arrive, as training does; no facts."""
    setup, mesh = _open(config, records)
    step, state, key = _compiled_step(setup, mesh)
    arriving, held, count = DeviceBatches(_host_batches(setup), mesh), {"state": state}, _round_steps()

    def run() -> None:
        _train(step, held, (next(arriving) for _ in range(count)), key, mesh)

    return run, {}, lambda: _skip(arriving)


def _train(step: Callable, held: dict, batches: Iterator, key: jax.Array, mesh: jax.sharding.Mesh) -> None:
    """Make a step on each batch, dispatched ahead as far as training does, and wait for the last."""
    pending: deque = deque()
    ahead = 0 if one_by_one(mesh) else AHEAD
    for batch in batches:
        held["state"], metrics = step(held["state"], batch, key)
        pending.append(metrics)
        if len(pending) > ahead:
            jax.block_until_ready(pending.popleft())
    jax.block_until_ready((held["state"], list(pending)))


def _skip(arriving: DeviceBatches) -> None:
    for _ in range(SKIPPED):
        next(arriving)


def _copy_s(batch: dict[str, np.ndarray], mesh) -> float:
    """Return the seconds that a batch's copy to the devices takes, the median of five."""
    seconds = []
    for _ in range(5):
        begun = time.perf_counter()
        jax.block_until_ready(meshes.put_batch(batch, mesh))
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)
