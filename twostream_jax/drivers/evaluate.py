"""mode=eval: scores the videos of a subset by the papers' protocol and writes the score file and eval.json."""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from input_pipeline.schema import UserError, shown_name
from twostream_jax import mesh as meshes
from twostream_jax import metrics, validate_run
from twostream_jax.checkpoint import Checkpoints, choose_step
from twostream_jax.drivers.scoring import Scorer, VideoScores
from twostream_jax.drivers.setup import Setup, package_versions
from twostream_jax.drivers.tasks import Task
from twostream_jax.files import write_json
from twostream_jax.metrics import wilson_interval
from twostream_jax.report.tables import accuracy_entry, percent, setting, stream_summary
from twostream_jax.run_log import Progress
from twostream_jax.scores import ScoreFile, check_writable, file_name
from twostream_jax.steps import abstract_params


def protocol_name(frames: int, crops: int) -> str:
    """Return how an accuracy of this many positions and crops is called: '25x10', or 'center' for one crop."""
    return f"{frames}x{crops}" if crops > 1 else "center"


def load_params(checkpoints: Checkpoints, step: int, setup: Setup, tasks: dict[str, int], mesh):
    """Return the net with a head for each of `tasks`, {name: classes}, and the parameters of `step`, replicated."""
    model = setup.model(tasks)
    return model, checkpoints.restore_params(step, abstract_params(model, setup.inputs), mesh)


def evaluate(config, workdir: Path, only: str = "") -> dict:
    """Score `eval.subset` with `eval.checkpoint` of the run in `workdir`; return what eval.json holds.

    That is a summary or, of a config with several tasks, {"tasks": {task: summary}} of those that have such videos, or of
    the task `only`.
    Leaves `scores_<task>_split<k>_<subset>.npz` of each and `eval.json` (`eval_<subset>.json` for other subsets than test).
    Refuses inputs, a net or a split other than the checkpoint's, and videos of another subset that it was trained on.
    """
    setup = Setup.of(config)
    subset = config.eval.subset
    asked = [task for task in setup.tasks if only in ("", task.name)]
    tasks = [task for task in asked if task.positions[subset]] or asked[:1]
    tables = {task.name: task.table(subset) for task in tasks}
    with Checkpoints(workdir, read_only=True) as checkpoints:
        step = choose_step(checkpoints, str(config.eval.checkpoint))
        stored = checkpoints.config(step)
        validate_run.check_same_net(stored["config"], config.to_dict(), workdir)
        heads = {task.name: _head(task, stored, workdir) for task in tasks}
        for task in tasks:
            _check_task(task, heads[task.name], stored, config, workdir)
        if jax.process_index() == 0:
            check_writable(workdir)
        mesh = meshes.make_mesh()
        sizes = {head: len(classes) for head, classes in stored["tasks"].items()}
        model, params = load_params(checkpoints, step, setup, sizes, mesh)
    scorer = Scorer(setup, model, mesh, crops=config.eval.crops)
    results = {}
    for task in tasks:
        table, classes = tables[task.name], stored["tasks"][heads[task.name]]
        # Classes are matched by name: the records may list them in another order than the net's.
        labels = np.asarray([classes.index(task.classes[label]) for label in table.label])
        what = f"eval {workdir} {subset}" + (f" {task.name}" if len(tasks) > 1 else "")
        with Progress(what, "stacks") as progress:
            scores = scorer(params, task, table, labels, heads[task.name], config.eval.frames, progress.update)
        file = _score_file(config, task, table, labels, classes, scores, workdir, step, stored)
        results[task.name] = _summary(file, scores)
        if jax.process_index() == 0:
            file.write(workdir / file_name(file.task, file.split, file.folds, file.subset))
    result = {"tasks": results} if len(setup.tasks) > 1 else results[tasks[0].name]
    if jax.process_index() == 0:
        write_json(workdir / eval_name(subset), result)
    return result


def by_task(result: dict) -> dict[str, dict]:
    """Return {task: summary} of what eval.json holds."""
    return result["tasks"] if "tasks" in result else {result["task"]: result}


def evaluated(config, workdir: Path, task: str, split: int, folds: int, checksum: str) -> dict | None:
    """Return the summary of `eval.subset` of a task that is in `workdir` already, or None where there is none.

    It must be of the config's last step and protocol, and of the records with that checksum.
    """
    subset, last = config.eval.subset, config.train.steps
    # What is not there, or damaged, is made anew.
    with contextlib.suppress(OSError, UserError, ValueError, KeyError, TypeError, RecursionError):
        content = json.loads((workdir / eval_name(subset)).read_text(encoding="utf-8"))
        summary = by_task(content)[task]
        provenance = ScoreFile.read(workdir / file_name(task, split, folds, subset)).provenance
        wanted = (protocol_name(config.eval.frames, config.eval.crops), last, checksum, last)
        of_records, of_step = provenance["records"]["checksum"], provenance["step"]
        if (summary["protocol"], summary["checkpoint"], of_records, of_step) == wanted and summary_lines(summary):
            return summary
    return None


def eval_name(subset: str) -> str:
    """Return how a subset's summary is called: eval.json for test, eval_train.json and so on for others."""
    return "eval.json" if subset == "test" else f"eval_{subset}.json"


def _head(task: Task, stored: dict, workdir: Path) -> str:
    """Return the head of a checkpoint that scores a task: the one of its name, or the only one."""
    heads = stored["tasks"]
    if task.name in heads:
        return task.name
    if len(heads) == 1 and task.section == "data":
        return next(iter(heads))
    raise UserError(
        f"{task.section}.records={task.settings.records}: the net in {workdir} has no head {task.name}, only "
        f"{', '.join(heads)}; leave out --config, or name records of one of these"
    )


def _check_task(task: Task, head: str, stored: dict, config, workdir: Path) -> None:
    """Refuse other classes or another split than a head was trained on; warn of records made otherwise."""
    subset, where = config.eval.subset, (task.section, task.settings.records)
    validate_run.check_same_split(stored["config"], head, config.to_dict(), task.section, workdir)
    validate_run.check_same_classes(stored["tasks"][head], task.classes, workdir, *where)
    if subset != "train":
        names = [task.records.videos[i].name for i in task.positions[subset]]
        # By the data set's name: another set may have videos of the same names.
        ours, theirs = task.facts["name"], stored["records"][head]["name"]
        validate_run.check_unseen(stored["trained_videos"].get(ours, ""), names, subset, workdir, *where)
        seen = validate_run.first_seen(stored["trained_videos"].get(theirs, ""), names)
        if seen is not None:
            print(
                f"warning: {where[1]} is {ours}, the net was trained on {theirs}, and both have a video {shown_name(seen)}: "
                "if these are the same videos, this accuracy is that of training videos",
                file=sys.stderr,
            )
    for line in validate_run.records_differ(stored["records"][head], task.facts, task.settings.records):
        print(line, file=sys.stderr)


def _score_file(
    config, task: Task, table, labels, classes, scores: VideoScores, workdir: Path, step: int, stored: dict
) -> ScoreFile:
    videos = [task.records.videos[i] for i in table.position]
    return ScoreFile(
        task=task.name,
        split=task.settings.split,
        folds=task.settings.folds,
        subset=config.eval.subset,
        names=tuple(video.name for video in videos),
        groups=tuple(video.group for video in videos),
        labels=labels.astype(np.int32),
        classes=tuple(classes),
        probs=scores.probs.astype(np.float32),
        logits=scores.logits.astype(np.float32),
        protocol=protocol_name(config.eval.frames, config.eval.crops),
        provenance={
            "workdir": str(workdir),
            "step": step,
            "model": config.model.name,
            "streams": list(config.input.streams),
            "records": task.facts,
            "trained_on": stored["records"],
            "versions": package_versions(),
        },
    )


def _summary(file: ScoreFile, scores: VideoScores) -> dict:
    """Return eval.json: the protocols side by side; `mean_class_accuracy` and `top5` are those of `protocol`."""
    centre = replace(file, probs=scores.centre_probs.astype(np.float32), protocol="center")
    n = len(file.names)
    # Stacks of one video are not independent, so the interval of the clip accuracy counts videos.
    clip = float(scores.clip_accuracy.mean())
    clip_entry = {
        **accuracy_entry(centre),
        "protocol": "clip",
        "accuracy": clip,
        "correct": round(clip * n, 2),
        "interval95": list(wilson_interval(clip * n, n)),
    }
    summary = stream_summary(file)
    return {
        "task": file.task,
        "split": file.split,
        "folds": file.folds,
        "subset": file.subset,
        "videos": n,
        "checkpoint": file.provenance["step"],
        "protocol": file.protocol,
        "mean_class_accuracy": summary["mean_class_accuracy"],
        "top5": metrics.top_k(file.probs, file.labels, 5),
        "clip": clip_entry,
        "center": accuracy_entry(centre),
        file.protocol: summary,
    }


def summary_lines(result: dict) -> list[str]:
    """Return the lines that the terminal shows of an eval.json, a protocol each."""
    entries = [value for value in result.values() if isinstance(value, dict)]
    return [f"{entry['protocol']:>7}  {setting(entry)}  {percent(entry)}" for entry in entries]
