"""mode=bench: runs what is asked for, prints a table and writes bench.json."""

from __future__ import annotations

import os
from pathlib import Path

import jax

from input_pipeline.schema import UserError
from twostream_jax.bench.end2end import bench_end2end, end2end_lines
from twostream_jax.bench.eval import bench_eval, eval_lines
from twostream_jax.bench.flow import bench_flow, flow_lines
from twostream_jax.bench.input import bench_input, input_lines
from twostream_jax.bench.machine import machine
from twostream_jax.bench.step import bench_step, step_lines
from twostream_jax.files import write_json
from twostream_jax.models import STREAMS
from twostream_jax.validate import check_config, check_devices

# Each bench is (run, lines): `run(config, rounds, workdir)` measures, and `lines(found)` says in words what it found.
BENCHES = {
    "input": (bench_input, input_lines),
    "step": (bench_step, step_lines),
    "flow": (bench_flow, flow_lines),
    "eval": (bench_eval, eval_lines),
    "end2end": (bench_end2end, end2end_lines),
}
ROUNDS = 9


def bench(names: list[str], config, workdir: Path) -> dict:
    """Run the named benches one after the other; return what bench.json holds: machine, config, and each one's rounds."""
    # Several processes share one accelerator, this one among them: none may take all of its memory at the start.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    check_config(config, STREAMS)
    for name in names:
        if name not in BENCHES:
            raise UserError(f"--bench={name}: choose of {', '.join(BENCHES)}, with commas between")
    if any(name != "flow" for name in names):  # which has no net
        if config.model.name != "cnn_m_temporal":
            raise UserError(f"model.name={config.model.name}: the benches are of cnn_m_temporal; set that")
        check_devices(config.train.batch_size, config.train.accumulate, len(jax.devices()))
    result = {"machine": machine(), "config": config.to_dict(), "rounds": ROUNDS, "benches": {}}
    for name in names:
        measure, lines = BENCHES[name]
        result["benches"][name] = measure(config, ROUNDS, workdir)
        print("\n".join(lines(result["benches"][name])))
        # After each: what is measured is kept whatever comes next.
        write_json(workdir / "bench.json", result)
    print(f"{result['machine']['devices']}, {result['machine']['processor']}; written to {workdir / 'bench.json'}")
    return result
