"""mode=train: trains one net, resumes by itself."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

import jax

from input_pipeline import pipeline
from input_pipeline.schema import UserError, first_line
from twostream_jax import mesh as meshes
from twostream_jax import steps, validate
from twostream_jax.checkpoint import Checkpoints
from twostream_jax.drivers.scoring import Scorer
from twostream_jax.drivers.setup import Setup, package_versions
from twostream_jax.drivers.step_lines import StepLines
from twostream_jax.files import write_json
from twostream_jax.metrics import accuracy
from twostream_jax.optim import learning_rate, make_optimizer
from twostream_jax.run_log import MetricsLog, NoLog, Progress


def train(config, workdir: Path) -> dict:
    """Train the config's net in `workdir`, from its last checkpoint if it has one; return the last line of metrics.

    Leaves config.json, metrics.jsonl, tensorboard/ and checkpoints/<step>/.
    """
    setup = Setup.of(config)
    table = setup.table("train")
    if any((workdir / stream / "config.json").exists() for stream in ("spatial", "temporal")):
        raise UserError(f"--workdir={workdir}: holds a run of both streams; name another folder for this net")
    for line in validate.prepared_otherwise(config, setup.records_facts):
        print(line, file=sys.stderr)
    workdir.mkdir(parents=True, exist_ok=True)
    with Checkpoints(workdir) as checkpoints:
        saved = _resumable_steps(checkpoints, setup, workdir)
        if saved and saved[0] >= config.train.steps:
            print(f"{workdir}: already at step {saved[0]}, train.steps={config.train.steps}; nothing to do")
            return {"step": saved[0]}
        mesh = meshes.make_mesh()
        validate.check_devices({"train.batch_size": config.train.batch_size}, mesh.devices.size)
        run = _Run(setup, mesh, checkpoints)
        start, state = run.initial_state(saved)
        _print_plan(setup, mesh, start)
        if jax.process_index() == 0:
            write_json(workdir / "config.json", config.to_dict())
        return run.steps(state, start, table, workdir)


class StopSignals:
    """Turns the first SIGTERM or Ctrl-C into a wish that the loop grants after its step; the second acts as ever.

    In a run of several processes a signal may reach one of them only, which cannot save alone: there nothing changes.
    """

    def __init__(self):
        self.wanted = 0  # the signal's number
        self._before = {}
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._wish)

    def _wish(self, number, frame) -> None:
        self.wanted = number
        self.restore()

    def restore(self) -> None:
        """Put back the handlers that were there."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


class _Run:
    """One process's part of a training run: compiled functions and what the loop hands around."""

    def __init__(self, setup: Setup, mesh, checkpoints: Checkpoints):
        self.setup, self.mesh, self.checkpoints = setup, mesh, checkpoints
        self.config = setup.config
        self.tasks = {setup.task: len(setup.classes)}
        self.model = setup.model(self.tasks)
        self.optimizer = make_optimizer(self.config.optim)
        self.init_key, self.step_key = steps.jit_keys(mesh, self.config.seed)
        self.validation = None
        if setup.positions["validation"]:
            self.validation = Scorer(setup, self.model, mesh, crops=1)

    def initial_state(self, saved: list[int]):
        """Return (step, state) of the first of the `saved` steps that can be read; a fresh state where there is none."""
        create = steps.jit_init(self.mesh, model=self.model, optimizer=self.optimizer, inputs=self.setup.inputs)
        abstract = jax.eval_shape(create, self.init_key) if saved else None
        for step in saved:
            try:
                return step, self.checkpoints.restore(step, abstract, self.mesh)
            # The config agrees, so whatever cannot be read here is damaged.
            except UserError as error:
                print(f"checkpoint {step} is damaged and passed over: {first_line(error)}")
        if saved:
            raise UserError(f"{self.checkpoints.folder}: no checkpoint can be read; delete the folder to start afresh")
        return 0, create(self.init_key)

    def steps(self, state, start: int, table, workdir: Path) -> dict:
        """Run steps `start` + 1 .. train.steps; return the last line of metrics."""
        config, last = self.config, self.config.train.steps
        step_of = steps.jit_train_step(
            self.mesh, model=self.model, optimizer=self.optimizer, inputs=self.setup.inputs, tasks=tuple(self.tasks)
        )
        # Every process computes the same numbers; the first one writes them.
        log = MetricsLog(workdir, start) if jax.process_index() == 0 else NoLog()
        progress = Progress(f"train {workdir}", "steps")
        lines = StepLines(log, config.train.log_every, config.train.batch_size, learning_rate(config.optim))
        batches = self._batches(table, start)
        progress.update(start, last)
        stop = StopSignals()
        try:
            for step in range(start + 1, last + 1):
                batch = lines.timed(lambda: next(batches))
                # Any copy between host and device that is not asked for by name is a mistake in here.
                with jax.transfer_guard("disallow"):
                    state, metrics = step_of(state, meshes.put_batch(batch, self.mesh), self.step_key)
                lines.add(step, metrics)
                if self._saves_at(step) or stop.wanted:
                    self._save(step, state, lines)
                progress.update(step, last, lines.text)
                if stop.wanted and step < last:
                    print(f"{workdir}: saved at step {step} and stopped; the same command continues")
                    # Not a return: whoever called, the demo say, must not go on with half a training.
                    raise SystemExit(0 if stop.wanted == signal.SIGTERM else 128 + stop.wanted)
        finally:
            stop.restore()
            progress.close()
            log.close()
        return lines.last

    def _batches(self, table, start: int):
        config = self.config
        before, after = self.setup.span
        draw = pipeline.DrawBatch(
            table, config.train.batch_size, before, after, config.input.crop, config.input.flip, config.seed
        )
        window = self.setup.window(config.input.crop)
        return pipeline.train_batches(
            self.setup.records, draw, window, start_step=start, steps=config.train.steps, reading=self.setup.reading()
        )

    def _saves_at(self, step: int) -> bool:
        return step % self.config.train.checkpoint_every == 0 or step == self.config.train.steps

    def _save(self, step: int, state, lines: StepLines) -> None:
        score = None
        lines.require_finite()
        with lines.clock_stopped():
            if self.validation is not None:
                table = self.setup.table("validation")
                frames = self.config.eval.validation_frames
                scores = self.validation(state.params, table, table.label, self.setup.task, frames, lambda *_: None)
                score = accuracy(scores.centre_probs, table.label)
            self.checkpoints.save(step, state, _config_item(self.setup), score)
        lines.drain({} if score is None else {"validation_accuracy": score})


def _config_item(setup: Setup) -> dict:
    """Return what stands beside a state: the config, class names, the records' facts, and package versions."""
    return {
        "config": setup.config.to_dict(),
        "tasks": {setup.task: list(setup.classes)},
        "records": setup.records_facts,
        "versions": package_versions(),
    }


def _resumable_steps(checkpoints: Checkpoints, setup: Setup, workdir: Path) -> list[int]:
    """Return the saved steps, the newest first; UserError when the run there is another one."""
    saved = []
    for step in reversed(checkpoints.steps()):
        try:
            stored = checkpoints.config(step)
        except UserError as error:
            print(f"checkpoint {step} is damaged and passed over: {first_line(error)}")
            continue
        if not saved:
            for line in validate.check_resume(stored["config"], setup.config.to_dict(), workdir):
                print(line)
            validate.check_same_records(stored["records"], setup.records_facts, workdir)
            (classes,) = stored["tasks"].values()
            validate.check_same_classes(classes, setup.classes, workdir, setup.config.data.records)
        saved.append(step)
    return saved


def _print_plan(setup: Setup, mesh, start: int) -> None:
    config, videos = setup.config, setup.positions
    print(
        f"{config.model.name}, width {config.model.width:g}, on {setup.task} split {config.data.split}: "
        f"{len(videos['train'])} training videos, {len(videos['validation'])} held out, {len(setup.classes)} classes; "
        f"{mesh.devices.size} x {mesh.devices.flat[0].device_kind}; "
        + (f"continues at step {start}" if start else "starts")
        + f" of {config.train.steps}"
    )
