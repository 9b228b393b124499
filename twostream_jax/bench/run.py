"""mode=bench: runs what is asked for, prints a table and writes bench.json."""

from __future__ import annotations

import statistics
from pathlib import Path

import jax

from input_pipeline.schema import UserError
from twostream_jax.bench.machine import machine
from twostream_jax.bench.step import bench_step
from twostream_jax.files import write_json
from twostream_jax.models import STREAMS
from twostream_jax.validate import check_config, check_devices

BENCHES = {"step": bench_step}
ROUNDS = 9


def bench(names: list[str], config, workdir: Path) -> dict:
    """Run the named benches one after the other; return what bench.json holds: machine, config, and each one's rounds."""
    check_config(config, STREAMS)
    for name in names:
        if name not in BENCHES:
            raise UserError(f"--bench={name}: choose of {', '.join(BENCHES)}, with commas between")
    if config.model.name != "cnn_m_temporal":
        raise UserError(f"model.name={config.model.name}: the benches are of cnn_m_temporal; set that")
    check_devices(config.train.batch_size, config.train.accumulate, len(jax.devices()))
    result = {"machine": machine(), "config": config.to_dict(), "rounds": ROUNDS, "benches": {}}
    for name in names:
        result["benches"][name] = BENCHES[name](config, ROUNDS)
        print("\n".join(table_lines(name, result["benches"][name])))
        # After each: what is measured is kept whatever comes next.
        write_json(workdir / "bench.json", result)
    print(f"{result['machine']['devices']}, {result['machine']['processor']}; written to {workdir / 'bench.json'}")
    return result


def table_lines(name: str, found: dict) -> list[str]:
    """Return the lines that the terminal shows of one bench: median and range of the wall time, median of the CPU time."""
    lines = [f"{name}: {found['net']}, batch of {found['batch_size']}, {found['dtype']}"]
    width = max(map(len, (*found["wall_s"], *found["missing"])))
    for who, seconds in found["wall_s"].items():
        median, cpu = statistics.median(seconds), statistics.median(found["cpu_s"][who])
        wall = f"{1e3 * median:8.1f} ms [{1e3 * min(seconds):.0f} to {1e3 * max(seconds):.0f}]"
        rate = f"{found['batch_size'] / median:.1f} samples/s"
        lines.append(f"  {who:<{width}} {wall}, CPU {1e3 * cpu:.1f} ms, {rate}")
    lines += [f"  {who:<{width}} cannot be had: {why}" for who, why in found["missing"].items()]
    share = f"{100 * found['share_of_peak']:.0f} % of {found['peak_flops_per_second'] / 1e12:.3g} TFLOP/s measured"
    lines.append(f"  {found['flops'] / 1e9:.1f} GFLOP a step, {found['flops_per_second'] / 1e12:.3g} TFLOP/s, {share}")
    if found["peer"]:
        lines.append(
            f"  {found['ratio_to_peer']:.2f} of the time of {found['peer']}, the fastest peer (median over rounds)"
        )
    return lines
