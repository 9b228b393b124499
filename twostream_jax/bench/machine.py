"""What times depend on: the machine and the versions."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from pathlib import Path

import jax
import jax.numpy as jnp
from jax import lax

from input_pipeline.workers import usable_cores

# Those that are not installed are left out.
PACKAGES = ("jax", "jaxlib", "flax", "grain", "numpy", "opencv-contrib-python-headless", "torch")
# The matrix product whose rate stands for the device's peak: large enough for the device to reach it.
PEAK_SIDE = {"cpu": 2048, "gpu": 8192, "tpu": 8192}


def machine() -> dict:
    """Return what a time depends on: processor, cores that may be used, devices, and versions."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    devices = jax.devices()
    return {
        "processor": _processor(),
        "cores": usable_cores(),
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "python": platform.python_version(),
        "versions": versions,
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


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


def measured_bandwidth(array_bytes: int) -> float:
    """Return the bytes a second of a = a / 2 + b on one device, the best of twenty: two arrays read, one written.

    `array_bytes` is the size of each of the two float32 arrays: those that fit into a cache are read from there.
    """
    count = max(1, array_bytes // 4)
    # So many passes in one program that starting it, and finding pages for the result, is no part of the time.
    # And so few that on a busy machine one of the twenty goes undisturbed: some milliseconds.
    passes = max(5, 2**27 // (4 * count))
    sweep = jax.jit(lambda a, b: lax.fori_loop(0, passes, lambda _, a: 0.5 * a + b, a), donate_argnums=0)
    a, b = jnp.zeros(count, jnp.float32), jnp.ones(count, jnp.float32)
    a = jax.block_until_ready(sweep(a, b))
    best = float("inf")
    for _ in range(20):
        begun = time.perf_counter()
        a = jax.block_until_ready(sweep(a, b))
        best = min(best, time.perf_counter() - begun)
    return 3 * 4.0 * count * passes / best
