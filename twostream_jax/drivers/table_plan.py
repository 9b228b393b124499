"""What a table will cost before it starts: steps, what is there already, and time by measured steps per second."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import statistics
from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict

from input_pipeline.schema import UserError
from twostream_jax.drivers.train import train
from twostream_jax.run_log import read_metrics, time_left

# Steps of a timing in three parts: the first holds the compilation of the step, the last that of what a save checks.
TIMED_STEPS = 12


def plan_lines(configs: Mapping[str, ConfigDict], workdir: Path) -> list[str]:
    """Return a line for each run, {name: config}, and one with the time that training them all will take.

    Times are those of an earlier run of the same net in `workdir` or, where there is none, of a few steps taken now.
    """
    lines, total, unknown = [], 0.0, False
    rates: dict[str, tuple[float, str] | None] = {}
    for name, config in configs.items():
        done = _steps_done(workdir / name)
        left = max(0, config.train.steps - done)
        there = f"{done} of {config.train.steps} steps there" if done else f"{config.train.steps} steps"
        net = _net_key(config)
        if not left:
            lines.append(f"  {name}: {config.train.steps} steps, all there")
            continue
        if net not in rates:
            rates[net] = _earlier_rate(workdir, net) or _timed_rate(config, workdir / "timing")
        if rates[net] is None:
            unknown = True
            lines.append(f"  {name}: {there}, time unknown")
            continue
        rate, source = rates[net]
        total += left / rate
        lines.append(f"  {name}: {there}, {time_left(left / rate)} at {rate:.3g} steps/s ({source})")
    rest = "and what is unknown" if unknown else "evaluation not counted"
    return [*lines, f"  training in all: {time_left(total)}, {rest}"]


def _steps_done(folder: Path) -> int:
    saved = [int(path.name) for path in (folder / "checkpoints").glob("*") if path.name.isdigit()]
    return max(saved, default=0)


def _net_key(config: ConfigDict | dict) -> str:
    """Return what decides over the speed of a training step, as text."""
    section = config if isinstance(config, dict) else config.to_dict()
    net = {key: value for key, value in section["model"].items() if key != "dropout"}
    inputs = {key: value for key, value in section["input"].items() if key != "mean_subtraction"}
    more = [len(section["tasks"]), section["init"]["freeze"], section["train"]["accumulate"]]
    return json.dumps([net, inputs, *more, section["train"]["batch_size"], section["train"]["dtype"]], sort_keys=True)


def _earlier_rate(workdir: Path, net: str) -> tuple[float, str] | None:
    """Return the steps per second of a run of the same net in the workdir, and where that stands."""
    for path in sorted(workdir.glob("*/config.json")):
        with contextlib.suppress(ValueError, KeyError, UserError, OSError):
            stored = json.loads(path.read_text(encoding="utf-8"))
            rate = _rate(path.parent, stored["train"]["batch_size"])
            if rate and _net_key(stored) == net:
                return rate, f"{path.parent.name}/metrics.jsonl"
    return None


def _rate(folder: Path, batch_size: int) -> float | None:
    """Return the median steps per second of a run's lines but the first and last, which hold compilations."""
    lines = read_metrics(folder)[1:-1]
    return statistics.median(line["samples_per_second"] for line in lines) / batch_size if lines else None


def _timed_rate(config: ConfigDict, folder: Path) -> tuple[float, str] | None:
    """Return the steps per second of a few steps of training, input included; None where they cannot be run."""
    config = config.copy_and_resolve_references()
    config.train.steps = config.train.checkpoint_every = TIMED_STEPS
    config.train.log_every = TIMED_STEPS // 3
    config.init["from"] = ""  # its source may be a run that is yet to come
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            train(config, folder)
        return _rate(folder, config.train.batch_size), f"{TIMED_STEPS // 3} steps timed now"
    except (UserError, OSError):
        return None  # the run itself will say why
    finally:
        shutil.rmtree(folder, ignore_errors=True)
