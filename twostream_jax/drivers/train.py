"""mode=train: trains one net, resumes by itself."""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
from dataclasses import replace
from pathlib import Path

import jax

from input_pipeline import pipeline
from input_pipeline.folder_lock import folder_lock
from input_pipeline.schema import UserError
from input_pipeline.workers import usable_cores
from twostream_jax import mesh as meshes
from twostream_jax import steps, validate, validate_run
from twostream_jax.checkpoint import Checkpoints, Damaged
from twostream_jax.drivers.bad_batch import NotFinite, bad_batch, refusal
from twostream_jax.drivers.device_batches import DeviceBatches
from twostream_jax.drivers.profile import Profile
from twostream_jax.drivers.resume import nothing_left, resumable_steps, say_damaged
from twostream_jax.drivers.scoring import Scorer
from twostream_jax.drivers.setup import Setup, package_versions
from twostream_jax.drivers.start_weights import Start, plan_start
from twostream_jax.drivers.starving import starving_line
from twostream_jax.drivers.step_lines import StepLines, one_by_one
from twostream_jax.drivers.stop_signals import StopSignals
from twostream_jax.drivers.tasks import Task
from twostream_jax.drivers.train_plan import print_plan, print_start
from twostream_jax.files import cannot_write, write_json
from twostream_jax.metrics import accuracy
from twostream_jax.optim import frozen_layers, learning_rate, make_optimizer
from twostream_jax.run_log import MetricsLog, NoLog, Progress
from twostream_jax.xla_settings import require_deterministic

# Keys that name files and folders, as seen from where the command was given.
PATHS = ("videos", "frames", "splits", "split_file", "records")


def train(config, workdir: Path) -> dict:
    """Train the config's net in `workdir`, from its last checkpoint if it has one; return the last line of metrics.

    Leaves config.json, metrics.jsonl, tensorboard/ and checkpoints/<step>/. One training at a time may use a workdir.
    """
    setup = Setup.of(config)
    for task in setup.tasks:
        task.table("train")
    if any((workdir / stream / "config.json").exists() for stream in ("spatial", "temporal")):
        raise UserError(f"--workdir={workdir}: holds a run of both streams; name another folder for this net")
    for task in setup.tasks:
        for line in validate_run.prepared_otherwise(config, task.facts, task.settings.records):
            print(line, file=sys.stderr)
    setup = replace(setup, config=_from_anywhere(config))
    params = steps.abstract_params(setup.model(setup.heads), setup.inputs)
    frozen = frozen_layers(params, config.init.freeze)
    with contextlib.ExitStack() as held:
        _hold(held, workdir)
        checkpoints = held.enter_context(Checkpoints(workdir))
        saved = resumable_steps(checkpoints, setup, workdir)
        # Read for the first start alone: later those weights may have been moved.
        begin = None if saved else plan_start(setup, params, frozen)
        mesh = meshes.make_mesh()
        if config.train.deterministic:
            require_deterministic(mesh.devices.flat[0].platform)
        if not saved or saved[0] < config.train.steps:
            validate.check_devices(config.train.batch_size, config.train.accumulate, mesh.devices.size)
        seen = checkpoints.config(saved[0])["trained_videos"] if saved else begin.trained_videos if begin else {}
        run = _Run(setup, mesh, checkpoints, frozen, validate_run.all_fingerprints(seen, _own_videos(setup)))
        # Read even where the run is finished: a last checkpoint that is damaged is made anew.
        start, state = run.initial_state(saved, begin)
        if start >= config.train.steps:
            print(f"{workdir}: already at step {start}, train.steps={config.train.steps}; nothing to do")
            return {"step": start}
        validate.check_devices(config.train.batch_size, config.train.accumulate, mesh.devices.size)
        print_plan(setup, mesh, start)
        print_start(begin, frozen, start, workdir)
        if jax.process_index() == 0:
            write_json(workdir / "config.json", setup.config.to_dict())
        return run.steps(state, start, workdir)


def _from_anywhere(config):
    """Return the config with absolute paths: what a run stores is read from other folders too."""
    config = config.copy_and_resolve_references()
    for task in config.tasks.values():
        task.records = os.path.abspath(task.records)
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

    def __init__(
        self, setup: Setup, mesh, checkpoints: Checkpoints, frozen: tuple[str, ...], trained_videos: dict[str, str]
    ):
        self.setup, self.mesh, self.checkpoints, self.frozen = setup, mesh, checkpoints, frozen
        self.config, self.trained_videos = setup.config, trained_videos
        self.tasks = tuple(setup.heads)
        self.model = setup.model(setup.heads)
        self.optimizer = make_optimizer(self.config.optim)
        self.init_key, self.step_key = steps.jit_keys(mesh, self.config.seed)
        self.all_finite = steps.jit_all_finite(mesh)
        self.validation, self.rated = None, [task for task in setup.tasks if task.positions["validation"]]
        if self.rated:
            self.validation = Scorer(setup, self.model, mesh, crops=1, workers=False)

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
                say_damaged(step, error)
        if saved:
            raise nothing_left(self.checkpoints.folder)
        return 0, create(self.init_key, begin.params(self.mesh) if begin else None)

    def steps(self, state, start: int, workdir: Path) -> dict:
        """Run steps `start` + 1 .. train.steps; return the last line of metrics."""
        config, last = self.config, self.config.train.steps
        step_of = steps.jit_train_step(
            self.mesh,
            model=self.model,
            optimizer=self.optimizer,
            inputs=self.setup.inputs,
            tasks=self.tasks,
            frozen=self.frozen,
            accumulate=config.train.accumulate,
        )
        # Every process computes the same numbers; the first one writes them.
        log = MetricsLog(workdir, start) if jax.process_index() == 0 else NoLog()
        progress = Progress(f"train {workdir}", "steps")
        profile = Profile(workdir / "profile", config.train.profile, start, progress.say)
        rate = learning_rate(config.optim)
        every, batch_size = config.train.log_every, config.train.batch_size
        how = {"one_by_one": one_by_one(self.mesh), "on_starving": self._say_starving}
        lines = StepLines(log, every, batch_size, rate, self.tasks, **how)
        draw = self._draw()
        progress.update(start, last)
        saved, stop = start, StopSignals()
        try:
            with contextlib.closing(DeviceBatches(self._batches(draw, start), self.mesh)) as batches:
                for step in range(start + 1, last + 1):
                    profile.before(step, state, lines)
                    with jax.profiler.StepTraceAnnotation("train", step_num=step):
                        batch = _next(lines, batches, stop if step > start + 1 else None)
                        if batch is None:
                            step -= 1
                            break
                        # Any copy between host and device that is not asked for by name is a mistake in here.
                        with jax.transfer_guard("disallow"):
                            state, metrics = step_of(state, batch, self.step_key)
                        # The step keeps its batch for as long as it runs, and nobody longer.
                        del batch
                        lines.add(step, metrics)
                    profile.after(step, state, lines)
                    # Read once: what comes after this is granted after the next step, which then is saved.
                    ends = bool(stop.wanted)
                    if self._saves_at(step) or ends:
                        self._save(step, state, lines)
                        saved = step
                    progress.update(step, last, lines.text)
                    if ends:
                        break
                if stop.wanted:
                    if saved != step:
                        self._save(step, state, lines)
                    self._end(step, stop, workdir)
        except NotFinite as error:
            batch = bad_batch(draw, [task.records.videos for task in self.setup.tasks], error.step)
            raise refusal(error, batch, workdir, write=jax.process_index() == 0) from error
        finally:
            stop.restore()
            profile.close()
            progress.close()
            log.close()
        return lines.last

    def _say_starving(self, share: float) -> None:
        line = starving_line(
            share,
            workers=self.config.data.num_workers,
            cores=usable_cores(),
            flow_jpegs="flow" in self.config.input.streams and not self.setup.planes,
            on_cpu=self.mesh.devices.flat[0].platform == "cpu",
        )
        # On a terminal it takes the place of the line of progress, which is written again with the next step.
        print(("\r\033[K" if sys.stderr.isatty() else "") + line, file=sys.stderr, flush=True)

    def _end(self, step: int, stop: StopSignals, workdir: Path) -> None:
        self.checkpoints.wait()
        print(f"{workdir}: saved at step {step} and stopped; the same command continues")
        # Not a return: whoever called, the demo say, must not go on with half a training.
        raise SystemExit(stop.exit_status)

    def _draw(self) -> pipeline.DrawBatch:
        section = self.config.input
        before, after = self.setup.span
        tables = tuple(task.table("train") for task in self.setup.tasks)
        shares = tuple(task.share for task in self.setup.tasks)
        batch_size, seed = self.config.train.batch_size, self.config.seed
        return pipeline.DrawBatch(tables, batch_size, before, after, section.crop, section.flip, seed, shares)

    def _batches(self, draw: pipeline.DrawBatch, start: int):
        return pipeline.train_batches(
            [task.records for task in self.setup.tasks],
            draw,
            self.setup.window(self.config.input.crop),
            start_step=start,
            steps=self.config.train.steps,
            reading=self.setup.reading(),
        )

    def _saves_at(self, step: int) -> bool:
        return step % self.config.train.checkpoint_every == 0 or step == self.config.train.steps

    def _save(self, step: int, state, lines: StepLines) -> None:
        lines.require_finite()
        # A loss is of the parameters before its step; what the step made of them shows in the next one only.
        with lines.clock_stopped():
            if not bool(self.all_finite(state)):
                raise NotFinite("a parameter is no number after the update", step)
            by_task = {task.name: self._validated(state.params, task) for task in self.rated}
        score = statistics.fmean(by_task.values()) if by_task else None
        # Before the save, which a crash may follow at once: a step that is never run again needs its line.
        extra = {"validation_accuracy": score} if by_task else {}
        if len(by_task) > 1:
            extra |= {f"validation_accuracy_{name}": value for name, value in by_task.items()}
        lines.drain(extra)
        item = {
            "config": self.config.to_dict(),
            "tasks": {task.name: list(task.classes) for task in self.setup.tasks},
            "records": self.setup.records_facts,
            "trained_videos": self.trained_videos,
            "versions": package_versions(),
        }
        with lines.clock_stopped():
            self.checkpoints.save(step, state, item, score)

    def _validated(self, params, task: Task) -> float:
        table = task.table("validation")
        frames = self.config.eval.validation_frames
        scores = self.validation(params, task, table, table.label, task.name, frames, lambda *_: None)
        return accuracy(scores.centre_probs, table.label)


def _next(lines: StepLines, batches: DeviceBatches, stop: StopSignals | None) -> dict[str, jax.Array] | None:
    """Return the next batch, or None where a signal to the whole process group has ended those who were to read it."""
    try:
        return lines.timed(batches)
    except UserError:
        if stop is None or not stop.wanted:
            raise
        return None


def _own_videos(setup: Setup) -> dict[str, str]:
    """Return the fingerprints of the training videos by the name of their data set."""
    videos: dict[str, str] = {}
    for task in setup.tasks:
        videos = validate_run.all_fingerprints(videos, {task.facts["name"]: task.fingerprints})
    return videos
