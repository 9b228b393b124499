"""mode=train: trains one net, resumes by itself."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import replace
from pathlib import Path

import jax

from input_pipeline import pipeline
from input_pipeline.folder_lock import folder_lock
from input_pipeline.schema import UserError
from twostream_jax import mesh as meshes
from twostream_jax import steps, validate, validate_run
from twostream_jax.checkpoint import Checkpoints, Damaged
from twostream_jax.drivers.bad_batch import NotFinite, bad_batch, refusal
from twostream_jax.drivers.scoring import Scorer
from twostream_jax.drivers.setup import Setup, package_versions
from twostream_jax.drivers.start_weights import Start, plan_start
from twostream_jax.drivers.step_lines import StepLines
from twostream_jax.drivers.stop_signals import StopSignals
from twostream_jax.files import cannot_write, write_json
from twostream_jax.metrics import accuracy
from twostream_jax.optim import frozen_layers, learning_rate, make_optimizer
from twostream_jax.run_log import MetricsLog, NoLog, Progress

# Keys that name files and folders, as seen from where the command was given.
PATHS = ("videos", "frames", "splits", "split_file", "records")


def train(config, workdir: Path) -> dict:
    """Train the config's net in `workdir`, from its last checkpoint if it has one; return the last line of metrics.

    Leaves config.json, metrics.jsonl, tensorboard/ and checkpoints/<step>/. One training at a time may use a workdir.
    """
    setup = Setup.of(config)
    table = setup.table("train")
    if any((workdir / stream / "config.json").exists() for stream in ("spatial", "temporal")):
        raise UserError(f"--workdir={workdir}: holds a run of both streams; name another folder for this net")
    for line in validate_run.prepared_otherwise(config, setup.records_facts):
        print(line, file=sys.stderr)
    setup = replace(setup, config=_from_anywhere(config))
    params = steps.abstract_params(setup.model({setup.task: len(setup.classes)}), setup.inputs)
    frozen = frozen_layers(params, config.init.freeze)
    with contextlib.ExitStack() as held:
        _hold(held, workdir)
        checkpoints = held.enter_context(Checkpoints(workdir))
        saved = _resumable_steps(checkpoints, setup, workdir)
        # Read for the first start alone: later those weights may have been moved.
        begin = None if saved else plan_start(setup, params, frozen)
        mesh = meshes.make_mesh()
        if not saved or saved[0] < config.train.steps:
            validate.check_devices({"train.batch_size": config.train.batch_size}, mesh.devices.size)
        run = _Run(setup, mesh, checkpoints, frozen)
        # Read even where the run is finished: a last checkpoint that is damaged is made anew.
        start, state = run.initial_state(saved, begin)
        if start >= config.train.steps:
            print(f"{workdir}: already at step {start}, train.steps={config.train.steps}; nothing to do")
            return {"step": start}
        validate.check_devices({"train.batch_size": config.train.batch_size}, mesh.devices.size)
        _print_plan(setup, mesh, start)
        _print_start(begin, frozen, start, workdir)
        if jax.process_index() == 0:
            write_json(workdir / "config.json", setup.config.to_dict())
        return run.steps(state, start, table, workdir)


def _from_anywhere(config):
    """Return the config with absolute paths: what a run stores is read from other folders too."""
    config = config.copy_and_resolve_references()
    for key in PATHS:
        if config.data[key]:
            config.data[key] = os.path.abspath(config.data[key])
    if config.init["from"]:
        config.init["from"] = os.path.abspath(config.init["from"])
    return config


def _hold(held: contextlib.ExitStack, workdir: Path) -> None:
    """Make the workdir and keep it to this run, before any device work; UserError naming --workdir."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        # One of several processes holds it for all; asking jax which one this is would start the devices.
        if not jax.distributed.is_initialized() or jax.process_index() == 0:
            held.enter_context(folder_lock(workdir, "a training"))
    except (FileExistsError, NotADirectoryError) as error:
        file = next((path for path in (workdir, *workdir.parents) if path.is_file()), workdir)
        raise UserError(f"--workdir={workdir}: {file} is a file; name a folder") from error
    except OSError as error:
        raise UserError(f"--workdir={cannot_write(workdir, error)}") from error


class _Run:
    """One process's part of a training run: compiled functions and what the loop hands around."""

    def __init__(self, setup: Setup, mesh, checkpoints: Checkpoints, frozen: tuple[str, ...]):
        self.setup, self.mesh, self.checkpoints, self.frozen = setup, mesh, checkpoints, frozen
        self.config = setup.config
        self.tasks = {setup.task: len(setup.classes)}
        self.model = setup.model(self.tasks)
        self.optimizer = make_optimizer(self.config.optim)
        self.init_key, self.step_key = steps.jit_keys(mesh, self.config.seed)
        self.all_finite = steps.jit_all_finite(mesh)
        self.validation = None
        if setup.positions["validation"]:
            self.validation = Scorer(setup, self.model, mesh, crops=1)

    def initial_state(self, saved: list[int], begin: Start | None):
        """Return (step, state) of the first of the `saved` steps that can be read; a fresh state where there is none.

        A fresh state is drawn, but for the layers that `begin` has.
        """
        create = steps.jit_init(
            self.mesh, model=self.model, optimizer=self.optimizer, inputs=self.setup.inputs, frozen=self.frozen
        )
        abstract = jax.eval_shape(create, self.init_key) if saved else None
        for step in saved:
            try:
                return step, self.checkpoints.restore(step, abstract, self.mesh)
            except Damaged as error:
                _say_damaged(step, error)
        if saved:
            raise _nothing_left(self.checkpoints.folder)
        return 0, create(self.init_key, begin.params(self.mesh) if begin else None)

    def steps(self, state, start: int, table, workdir: Path) -> dict:
        """Run steps `start` + 1 .. train.steps; return the last line of metrics."""
        config, last = self.config, self.config.train.steps
        step_of = steps.jit_train_step(
            self.mesh,
            model=self.model,
            optimizer=self.optimizer,
            inputs=self.setup.inputs,
            tasks=tuple(self.tasks),
            frozen=self.frozen,
        )
        # Every process computes the same numbers; the first one writes them.
        log = MetricsLog(workdir, start) if jax.process_index() == 0 else NoLog()
        progress = Progress(f"train {workdir}", "steps")
        lines = StepLines(log, config.train.log_every, config.train.batch_size, learning_rate(config.optim))
        draw = self._draw(table)
        progress.update(start, last)
        stop = StopSignals()
        try:
            with contextlib.closing(self._batches(draw, start)) as batches:
                for step in range(start + 1, last + 1):
                    batch = lines.timed(lambda: next(batches))
                    # Any copy between host and device that is not asked for by name is a mistake in here.
                    with jax.transfer_guard("disallow"):
                        state, metrics = step_of(state, meshes.put_batch(batch, self.mesh), self.step_key)
                    lines.add(step, metrics)
                    # Read once: what comes after this is granted after the next step, which then is saved.
                    ends = bool(stop.wanted)
                    if self._saves_at(step) or ends:
                        self._save(step, state, lines)
                    progress.update(step, last, lines.text)
                    if ends:
                        break
                if stop.wanted:
                    self._end(step, stop, workdir)
        except NotFinite as error:
            batch = bad_batch(draw, self.setup.records.videos, error.step)
            raise refusal(error, batch, workdir, write=jax.process_index() == 0) from error
        finally:
            stop.restore()
            progress.close()
            log.close()
        return lines.last

    def _end(self, step: int, stop: StopSignals, workdir: Path) -> None:
        self.checkpoints.wait()
        print(f"{workdir}: saved at step {step} and stopped; the same command continues")
        # Not a return: whoever called, the demo say, must not go on with half a training.
        raise SystemExit(stop.exit_status)

    def _draw(self, table) -> pipeline.DrawBatch:
        section = self.config.input
        before, after = self.setup.span
        return pipeline.DrawBatch(
            table, self.config.train.batch_size, before, after, section.crop, section.flip, self.config.seed
        )

    def _batches(self, draw: pipeline.DrawBatch, start: int):
        window = self.setup.window(self.config.input.crop)
        return pipeline.train_batches(
            self.setup.records,
            draw,
            window,
            start_step=start,
            steps=self.config.train.steps,
            reading=self.setup.reading(),
        )

    def _saves_at(self, step: int) -> bool:
        return step % self.config.train.checkpoint_every == 0 or step == self.config.train.steps

    def _save(self, step: int, state, lines: StepLines) -> None:
        score = None
        lines.require_finite()
        # A loss is of the parameters before its step; what the step made of them shows in the next one only.
        if not bool(self.all_finite(state)):
            raise NotFinite("a parameter is no number after the update", step)
        with lines.clock_stopped():
            if self.validation is not None:
                table = self.setup.table("validation")
                frames = self.config.eval.validation_frames
                scores = self.validation(state.params, table, table.label, self.setup.task, frames, lambda *_: None)
                score = accuracy(scores.centre_probs, table.label)
        # Before the save, which a crash may follow at once: a step that is never run again needs its line.
        lines.drain({} if score is None else {"validation_accuracy": score})
        with lines.clock_stopped():
            self.checkpoints.save(step, state, _config_item(self.setup), score)


def _config_item(setup: Setup) -> dict:
    """Return what stands beside a state: the config, class names, the records' facts, the videos, and versions."""
    return {
        "config": setup.config.to_dict(),
        "tasks": {setup.task: list(setup.classes)},
        "records": setup.records_facts,
        "trained_videos": setup.trained_videos,
        "versions": package_versions(),
    }


def _resumable_steps(checkpoints: Checkpoints, setup: Setup, workdir: Path) -> list[int]:
    """Return the saved steps, the newest first; UserError when the run there is another one."""
    saved = []
    for step in reversed(checkpoints.steps()):
        try:
            stored = checkpoints.config(step)
        except Damaged as error:
            _say_damaged(step, error)
            continue
        if not saved:
            for line in validate_run.check_resume(stored["config"], setup.config.to_dict(), workdir):
                print(line)
            validate_run.check_same_records(stored["records"], setup.records_facts, workdir, setup.config.data.records)
            (classes,) = stored["tasks"].values()
            validate_run.check_same_classes(classes, setup.classes, workdir, setup.config.data.records)
        saved.append(step)
    if checkpoints.steps() and not saved:
        raise _nothing_left(checkpoints.folder)
    return saved


def _say_damaged(step: int, error: Damaged) -> None:
    print(f"checkpoint {step} is damaged and passed over ({error.reason})")


def _nothing_left(folder: Path) -> UserError:
    return UserError(f"{folder}: no checkpoint can be read; bring back a copy, or delete the folder to start afresh")


def _print_plan(setup: Setup, mesh, start: int) -> None:
    config, videos = setup.config, setup.positions
    print(
        f"{config.model.name}, width {config.model.width:g}, on {setup.task} split {config.data.split}: "
        f"{len(videos['train'])} training videos, {len(videos['validation'])} held out, {len(setup.classes)} classes; "
        f"{mesh.devices.size} x {mesh.devices.flat[0].device_kind}; "
        + (f"continues at step {start}" if start else "starts")
        + f" of {config.train.steps}"
    )


def _print_start(begin: Start | None, frozen: tuple[str, ...], start: int, workdir: Path) -> None:
    """Say where the layers come from, where the run begins, and which of them stay as they are."""
    for line in begin.lines() if begin else ():
        print(f"{workdir}: {line}")
    if frozen:
        print(f"{workdir}: frozen: {', '.join(frozen)}")
        if begin is None and start == 0:
            print("note: init.from is empty, so the frozen layers stay as they were drawn")
