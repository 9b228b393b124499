"""bench=step: one training step of the temporal net, its data in memory, beside the same step in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from input_pipeline.schema import UserError
from twostream_jax import mesh as meshes
from twostream_jax import steps
from twostream_jax.bench.machine import measured_peak
from twostream_jax.bench.rounds import Builder, interleave, time_lines
from twostream_jax.host_memory import computes_on_cpu, keep_freed_memory
from twostream_jax.models import build_model
from twostream_jax.optim import make_optimizer
from twostream_jax.run_log import Progress

OURS = "twostream-jax"
CLASSES = 101  # of UCF-101
# The arrangements of PyTorch that users choose from: (channels_last, compiled, keeps freed memory as we do).
PEERS = {
    "PyTorch": (False, False, False),
    "PyTorch channels_last": (True, False, False),
    "PyTorch compile": (True, True, False),
    "PyTorch compile, memory kept": (True, True, True),
}


def bench_step(config, rounds: int, workdir: Path) -> dict:
    """Return every round's seconds a step, XLA's count of FLOPs, the share of the measured peak and the ratio to the peer.

    The peer is the fastest of `PEERS` in this run; without PyTorch there is none, and `missing` says why.
    """
    contestants: dict[str, tuple[Builder, tuple]] = {OURS: (our_step, (config,))}
    contestants |= {name: (torch_step, (config, *how)) for name, how in PEERS.items()}
    with Progress("bench step", "rounds") as progress:
        found = interleave(contestants, rounds, progress.update)
    if OURS in found.missing:
        raise UserError(f"bench step: {found.missing[OURS]}")
    flops, seconds = found.facts[OURS]["flops"], found.median(OURS)
    peak = measured_peak(jnp.dtype(config.train.dtype))
    peer = found.fastest(list(PEERS))
    return {
        "net": config.model.name,
        "batch_size": config.train.batch_size,
        "dtype": config.train.dtype,
        "wall_s": found.wall_s,
        "cpu_s": found.cpu_s,
        "missing": found.missing,
        "samples_per_second": config.train.batch_size / seconds,
        "flops": flops,
        "flops_per_second": flops / seconds,
        "peak_flops_per_second": peak,
        "share_of_peak": flops / seconds / peak,
        "peer": peer,
        "ratio_to_peer": found.ratio(OURS, peer) if peer else None,
    }


def step_lines(found: dict) -> list[str]:
    """Return the lines that the terminal shows of `bench_step`."""
    lines = [f"step: {found['net']}, batch of {found['batch_size']}, {found['dtype']}"]
    lines += time_lines(found, found["batch_size"])
    share = f"{100 * found['share_of_peak']:.0f} % of {found['peak_flops_per_second'] / 1e12:.3g} TFLOP/s measured"
    lines.append(f"  {found['flops'] / 1e9:.1f} GFLOP a step, {found['flops_per_second'] / 1e12:.3g} TFLOP/s, {share}")
    if found["peer"]:
        lines.append(
            f"  {found['ratio_to_peer']:.2f} of the time of {found['peer']}, the fastest peer (median over rounds)"
        )
    return lines


def flow_batch(config) -> dict[str, np.ndarray]:
    """Return one uint8 training batch of stacks as the input pipeline makes them, of random levels."""
    section, count = config.input, config.train.batch_size
    rng = np.random.default_rng(0)
    shape = (count, 1, section.stack, 2, section.crop, section.crop)
    return {
        "flow": rng.integers(96, 160, shape, dtype=np.uint8),
        "mean": rng.normal(size=shape[:4]).astype(np.float32),
        "bound": np.full(count, 20, np.float32),
        "size": np.full((count, 2), section.crop, np.int32),
        "crop": np.tile(np.int32([0, 0, section.crop, section.crop]), (count, 1)),
        "flip": rng.random(count) < 0.5,
        "label": rng.integers(CLASSES, size=count).astype(np.int32),
        "task": np.zeros(count, np.int32),
        "weight": np.ones(count, np.float32),
    }


def our_step(config) -> tuple[Callable[[], None], dict]:
    """Return a function that makes one training step and waits for it, and {"flops": of a step, by XLA's own count}."""
    if computes_on_cpu():
        keep_freed_memory()  # as the command line does
    mesh, inputs = meshes.make_mesh(), steps.Inputs.of(config.input)
    model = build_model(config.model, {"bench": CLASSES}, jnp.dtype(config.train.dtype))
    static = {"model": model, "optimizer": make_optimizer(config.optim), "inputs": inputs}
    init_key, step_key = steps.jit_keys(mesh, 0)
    held = {"state": steps.jit_init(mesh, **static)(init_key)}
    step = steps.jit_train_step(mesh, **static, tasks=("bench",), accumulate=config.train.accumulate)
    batch = meshes.put_batch(flow_batch(config), mesh)
    compiled = step.lower(held["state"], batch, step_key).compile()

    def run() -> None:
        held["state"], metrics = compiled(held["state"], batch, step_key)
        jax.block_until_ready((held["state"], metrics))

    # XLA counts what one device does.
    return run, {"flops": float(compiled.cost_analysis()["flops"]) * mesh.devices.size}


def torch_step(config, channels_last: bool, compiled: bool, memory_kept: bool) -> tuple[Callable[[], float], dict]:
    """Return a function that makes the same step in PyTorch, and no facts; ImportError where it is not installed."""
    if memory_kept and computes_on_cpu():
        keep_freed_memory()
    import torch

    from twostream_jax.bench.torch_nets import TorchCnnM, flow_input, training_step

    device = "cuda" if torch.cuda.is_available() else "cpu"
    batch = {key: torch.from_numpy(value).to(device) for key, value in flow_batch(config).items()}
    section = config.model
    net = TorchCnnM(
        2 * config.input.stack, CLASSES, normalised=("conv1",), width=section.width, dropout=section.dropout
    ).to(device)
    net(flow_input(batch)[:1])  # gives the lazy layer its size
    half = config.train.dtype == "bfloat16"
    how = {"channels_last": channels_last, "compiled": compiled, "half": half}
    return training_step(net, batch, config.optim, **how), {}
