"""bench=step: one training step of the config's temporal net, data in memory, beside the same in PyTorch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from twostream_jax import mesh as meshes
from twostream_jax import steps
from twostream_jax.bench.rounds import fastest, interleave, ratio
from twostream_jax.models import build_model
from twostream_jax.optim import make_optimizer
from twostream_jax.run_log import Progress

CLASSES = 101  # of UCF-101
# The matrix product whose rate stands for the device's peak: large enough for any device to reach it.
PEAK_SIDE = {"cpu": 2048, "gpu": 8192, "tpu": 8192}


def bench_step(config, rounds: int) -> dict:
    """Return {"times", "ours", "peers", ...}: seconds a step of every round, FLOPs and share of the measured peak."""
    batch = flow_batch(config)
    ours, flops = our_step(config, batch)
    contestants: dict[str, Callable[[], object]] = {"twostream-jax": ours}
    peers, missing = torch_steps(config, batch)
    with Progress("bench step", "rounds") as progress:
        times = interleave(contestants | peers, rounds, progress.update)
    seconds = statistics.median(times["twostream-jax"]["wall_s"])
    peak = measured_peak(jnp.dtype(config.train.dtype))
    best = fastest(times, list(peers)) if peers else None
    return {
        "net": config.model.name,
        "batch_size": config.train.batch_size,
        "dtype": config.train.dtype,
        "times": times,
        "samples_per_second": config.train.batch_size / seconds,
        "flops": flops,
        "flops_per_second": flops / seconds,
        "peak_flops_per_second": peak,
        "share_of_peak": flops / seconds / peak,
        "peer": best,
        "ratio_to_peer": ratio(times, "twostream-jax", best) if best else None,
        "missing": missing,
    }


def flow_batch(config) -> dict[str, np.ndarray]:
    """Return one uint8 training batch of stacks as the input pipeline makes them, of random levels."""
    section, count = config.input, config.train.batch_size
    rng = np.random.default_rng(0)
    shape = (count, 1, section.stack, 2, section.crop, section.crop)
    whole = np.tile(np.int32([0, 0, section.crop, section.crop]), (count, 1))
    return {
        "flow": rng.integers(96, 160, shape, dtype=np.uint8),
        "mean": rng.normal(size=shape[:4]).astype(np.float32),
        "bound": np.full(count, 20, np.float32),
        "size": np.full((count, 2), section.crop, np.int32),
        "crop": whole,
        "flip": rng.random(count) < 0.5,
        "label": rng.integers(CLASSES, size=count).astype(np.int32),
        "task": np.zeros(count, np.int32),
        "weight": np.ones(count, np.float32),
    }


def our_step(config, batch: dict[str, np.ndarray]) -> tuple[Callable[[], None], float]:
    """Return a function that makes one training step and waits for it, and the step's FLOPs by XLA's own count."""
    mesh, inputs = meshes.make_mesh(), steps.Inputs.of(config.input)
    model = build_model(config.model, {"bench": CLASSES}, jnp.dtype(config.train.dtype))
    static = {"model": model, "optimizer": make_optimizer(config.optim), "inputs": inputs}
    init_key, step_key = steps.jit_keys(mesh, 0)
    held = {"state": steps.jit_init(mesh, **static)(init_key)}
    step = steps.jit_train_step(mesh, **static, tasks=("bench",), accumulate=config.train.accumulate)
    on_device = meshes.put_batch(batch, mesh)
    compiled = step.lower(held["state"], on_device, step_key).compile()
    costs = compiled.cost_analysis()
    flops = (costs[0] if isinstance(costs, list) else costs)["flops"] * mesh.devices.size

    def run() -> None:
        held["state"], metrics = compiled(held["state"], on_device, step_key)
        jax.block_until_ready((held["state"], metrics))

    return run, float(flops)


def torch_steps(config, batch: dict[str, np.ndarray]) -> tuple[dict[str, Callable[[], float]], dict[str, str]]:
    """Return PyTorch's step by arrangement, and why those that cannot be had are missing."""
    try:
        import torch

        from twostream_jax.bench.torch_nets import TorchCnnM, flow_input, training_step
    except ImportError as error:
        return {}, {"PyTorch": f"{error}; install the extra: pip install 'twostream-jax[bench]'"}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tensors = {key: torch.from_numpy(value.copy()).to(device) for key, value in batch.items()}
    made, missing = {}, {}
    for name, channels_last, compiled in (
        ("PyTorch", False, False),
        ("PyTorch channels_last", True, False),
        ("PyTorch compile", True, True),
    ):
        section = config.model
        net = TorchCnnM(
            2 * config.input.stack, CLASSES, normalised=("conv1",), width=section.width, dropout=section.dropout
        ).to(device)
        try:
            net(flow_input(tensors)[:1])  # gives the lazy layer its size
            half = config.train.dtype == "bfloat16"
            step = training_step(net, tensors, config.optim, channels_last=channels_last, compiled=compiled, half=half)
            step()
            made[name] = step
        # torch.compile fails in as many ways as there are compilers.
        except Exception as error:
            missing[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
    return made, missing


def measured_peak(dtype: jnp.dtype) -> float:
    """Return the FLOPs a second of a large matrix product on all devices, the best of five: what can be had."""
    devices = jax.devices()
    side = PEAK_SIDE.get(devices[0].platform, 4096)
    matrix = jax.device_put(jnp.ones((side, side), dtype), devices[0])
    product = jax.jit(jnp.matmul)
    jax.block_until_ready(product(matrix, matrix))
    best = float("inf")
    for _ in range(5):
        begun = time.perf_counter()
        jax.block_until_ready(product(matrix, matrix))
        best = min(best, time.perf_counter() - begun)
    return 2.0 * side**3 / best * len(devices)
