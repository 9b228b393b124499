"""Interleaved rounds: every contestant runs once a round, so that a busy moment of the machine meets all alike."""

from __future__ import annotations

import gc
import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import jax

# What decides over times; those that are not installed are left out.
PACKAGES = ("jax", "jaxlib", "flax", "grain", "numpy", "opencv-contrib-python-headless", "torch")


def interleave(
    contestants: Mapping[str, Callable[[], object]], rounds: int, on_progress: Callable[[int, int], None]
) -> dict[str, dict[str, list[float]]]:
    """Return {name: {"wall_s": [...], "cpu_s": [...]}}, one entry a round, after one run of each that is not counted.

    A contestant's call must return only when its work is done. The order turns by one place each round. CPU seconds are
    those of this process and its ended children, all threads. `on_progress(rounds done, rounds)` is called as it goes.
    """
    names = list(contestants)
    times: dict[str, dict[str, list[float]]] = {name: {"wall_s": [], "cpu_s": []} for name in names}
    for done in range(-1, rounds):
        on_progress(max(done, 0), rounds)
        for place in range(len(names)):
            name = names[(place + done) % len(names)]
            # Garbage of one must not be collected at the cost of the next.
            gc.collect()
            wall, cpu = time.perf_counter(), _cpu_seconds()
            contestants[name]()
            wall, cpu = time.perf_counter() - wall, _cpu_seconds() - cpu
            if done >= 0:
                times[name]["wall_s"].append(wall)
                times[name]["cpu_s"].append(cpu)
    on_progress(rounds, rounds)
    return times


def _cpu_seconds() -> float:
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def ratio(times: Mapping[str, Mapping[str, list[float]]], name: str, peer: str, clock: str = "wall_s") -> float:
    """Return the median over rounds of the time of `name` divided by that of `peer` in the same round."""
    pairs = zip(times[name][clock], times[peer][clock], strict=True)
    return statistics.median(ours / theirs for ours, theirs in pairs)


def fastest(times: Mapping[str, Mapping[str, list[float]]], names: list[str], clock: str = "wall_s") -> str:
    """Return which of the names has the lowest median."""
    return min(names, key=lambda name: statistics.median(times[name][clock]))


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
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
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
