"""mode=train: trains one net, resumes by itself."""

from __future__ import annotations

import importlib.metadata
import time
from collections import deque
from pathlib import Path
from typing import Any

import jax
import numpy as np

from input_pipeline import pipeline
from twostream_jax import mesh as meshes
from twostream_jax import steps, validate
from twostream_jax.checkpoint import Checkpoints
from twostream_jax.drivers.scoring import Scorer
from twostream_jax.drivers.setup import Setup
from twostream_jax.files import write_json
from twostream_jax.metrics import ClipMetrics, accuracy
from twostream_jax.optim import learning_rate, make_optimizer
from twostream_jax.run_log import MetricsLog, NoLog, Progress

# Steps dispatched ahead of the one whose result is awaited. Without a limit the host would queue batches on the device
# until its memory is full; with two the device never waits for the host.
AHEAD = 2

PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "opencv-contrib-python-headless")


def train(config, workdir: Path) -> dict:
    """Train the config's net in `workdir`, from its last checkpoint if it has one; return the last line of metrics.

    Leaves config.json, metrics.jsonl, tensorboard/ and checkpoints/<step>/.
    """
    setup = Setup.of(config)
    table = setup.table("train")
    workdir.mkdir(parents=True, exist_ok=True)
    with Checkpoints(workdir) as checkpoints:
        start = _resume_step(checkpoints, setup, workdir)
        mesh = meshes.make_mesh()
        validate.check_devices({"train.batch_size": config.train.batch_size}, mesh.devices.size)
        _print_plan(setup, mesh, start)
        if jax.process_index() == 0:
            write_json(workdir / "config.json", config.to_dict())
        run = _Run(setup, mesh, checkpoints)
        state = run.initial_state(start)
        if start >= config.train.steps:
            print(f"{workdir}: already at step {start}, train.steps={config.train.steps}; nothing to do")
            return {"step": start}
        return run.steps(state, start, table, workdir)


class _Run:
    """One process's part of a training run: compiled functions and what the loop hands around."""

    def __init__(self, setup: Setup, mesh, checkpoints: Checkpoints):
        self.setup, self.mesh, self.checkpoints = setup, mesh, checkpoints
        self.config = setup.config
        self.tasks = {setup.task: len(setup.classes)}
        self.model = setup.model(self.tasks)
        self.optimizer = make_optimizer(self.config.optim)
        self.init_key, self.step_key = steps.jit_keys(mesh, self.config.seed)
        self.rate = learning_rate(self.config.optim)
        self.validation = None
        if setup.positions["validation"]:
            self.validation = Scorer(setup, self.model, mesh, crops=1)

    def initial_state(self, start: int):
        """Return the state of checkpoint `start`, or a fresh one at 0."""
        create = steps.jit_init(self.mesh, model=self.model, optimizer=self.optimizer, inputs=self.setup.inputs)
        if start == 0:
            return create(self.init_key)
        return self.checkpoints.restore(start, jax.eval_shape(create, self.init_key), self.mesh)

    def steps(self, state, start: int, table, workdir: Path) -> dict:
        """Run steps `start` .. train.steps; return the last line of metrics."""
        config, last = self.config, self.config.train.steps
        before, after = self.setup.span
        draw = pipeline.DrawBatch(
            table, config.train.batch_size, before, after, config.input.crop, config.input.flip, config.seed
        )
        window = self.setup.window(config.input.crop)
        batches = pipeline.train_batches(
            self.setup.records, draw, window, start_step=start, steps=last, reading=self.setup.reading()
        )
        step_of = steps.jit_train_step(
            self.mesh, model=self.model, optimizer=self.optimizer, inputs=self.setup.inputs, tasks=tuple(self.tasks)
        )
        # Every process computes the same numbers; the first one writes them.
        log = MetricsLog(workdir, start) if jax.process_index() == 0 else NoLog()
        progress = Progress(f"train {workdir}", "steps")
        lines = _Lines(config.train.batch_size, self.rate, log, start)
        progress.update(start, last)
        try:
            for step in range(start + 1, last + 1):
                batch = lines.timed(lambda: next(batches))
                # Any copy between host and device that is not asked for by name is a mistake in here.
                with jax.transfer_guard("disallow"):
                    state, metrics = step_of(state, meshes.put_batch(batch, self.mesh), self.step_key)
                lines.add(step, metrics)
                if step % config.train.log_every == 0 or step == last:
                    lines.flush(step)
                    progress.update(step, last, lines.text)
                if step % config.train.checkpoint_every == 0 or step == last:
                    self._save(step, state, log)
                    lines.restart_clock()
        finally:
            progress.close()
            log.close()
        return lines.last

    def _save(self, step: int, state, log: MetricsLog | NoLog) -> None:
        score = None
        if self.validation is not None:
            table = self.setup.table("validation")
            frames = self.config.eval.validation_frames
            scores = self.validation(state.params, table, table.label, self.setup.task, frames, lambda *_: None)
            score = accuracy(scores.centre_probs, table.label)
            log.write(step, {"validation_accuracy": score})
        self.checkpoints.save(step, state, _config_item(self.setup), score)


class _Lines:
    """Collects the metrics of each step without waiting for them, and writes their means every `log_every` steps."""

    def __init__(self, batch_size: int, rate, log: MetricsLog | NoLog, start: int):
        self._batch_size, self._rate, self._log = batch_size, rate, log
        self._pending: deque[ClipMetrics] = deque()
        self._read: list[dict[str, float]] = []
        self._step = start
        self.last: dict[str, Any] = {}
        self.text = ""
        self.restart_clock()

    def restart_clock(self) -> None:
        """Leave what has passed since the last line (a checkpoint, a validation) out of the rates."""
        self._since, self._timed_steps, self._wait = time.monotonic(), 0, 0.0

    def timed(self, fetch):
        """Return `fetch()`; its time counts as waiting for input when no step was left running at its end."""
        begun = time.monotonic()
        batch = fetch()
        if not self._pending or self._pending[-1].count.is_ready():
            self._wait += time.monotonic() - begun
        return batch

    def add(self, step: int, metrics: ClipMetrics) -> None:
        """Take a dispatched step's metrics, and wait for those of `AHEAD` steps before."""
        self._pending.append(metrics)
        self._timed_steps += 1
        while len(self._pending) > AHEAD:
            self._read.append(self._pending.popleft().compute())

    def flush(self, step: int) -> None:
        """Write the line of the steps since the last one; waits for the steps under way."""
        while self._pending:
            self._read.append(self._pending.popleft().compute())
        seconds = max(time.monotonic() - self._since, 1e-9)
        means = {key: float(np.mean([line[key] for line in self._read])) for key in self._read[0]}
        numbers = {
            **means,
            "learning_rate": float(self._rate(step - 1)),
            "samples_per_second": self._timed_steps * self._batch_size / seconds,
            "input_wait": self._wait / seconds,
        }
        self._log.write(step, numbers)
        self.last = {"step": step, **numbers}
        self.text = f"loss {means['loss']:.3f}, clip accuracy {100 * means['clip_accuracy']:.1f} %"
        self._read.clear()
        self.restart_clock()


def _config_item(setup: Setup) -> dict:
    """Return what stands beside a state: the config, class names, the records' facts, and package versions."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed under this name"
    return {
        "config": setup.config.to_dict(),
        "tasks": {setup.task: list(setup.classes)},
        "records": setup.records_facts,
        "versions": versions,
    }


def _resume_step(checkpoints: Checkpoints, setup: Setup, workdir: Path) -> int:
    """Return the step to continue from, 0 without a checkpoint; UserError when the run there is another one."""
    saved = checkpoints.steps()
    if not saved:
        return 0
    stored = checkpoints.config(saved[-1])
    for line in validate.check_resume(stored["config"], setup.config.to_dict(), workdir):
        print(line)
    validate.check_same_records(stored["records"], setup.records_facts, workdir)
    return saved[-1]


def _print_plan(setup: Setup, mesh, start: int) -> None:
    config, videos = setup.config, setup.positions
    print(
        f"{config.model.name}, width {config.model.width:g}, on {setup.task} split {config.data.split}: "
        f"{len(videos['train'])} training videos, {len(videos['validation'])} held out, {len(setup.classes)} classes; "
        f"{mesh.devices.size} x {mesh.devices.flat[0].device_kind}; "
        + (f"continues at step {start}" if start else "starts")
        + f" of {config.train.steps}"
    )
