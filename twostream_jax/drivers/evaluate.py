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
    the task `only`. Where `eval.checkpoint` names several with commas between it is {"checkpoints": {step: that}}, and each
    batch is read once for all of them.

    Leaves `scores_<task>_split<k>_<subset>.npz` of each (of several checkpoints, `..._step<n>.npz`) and `eval.json`
    (`eval_<subset>.json` for other subsets than test). Refuses inputs, a net or a split other than the checkpoint's, and
    videos of another subset that it was trained on.
    """
    setup = Setup.of(config)
    subset = config.eval.subset
    asked = [task for task in setup.tasks if only in ("", task.name)]
    tasks = [task for task in asked if task.positions[subset]] or asked[:1]
    tables = {task.name: task.table(subset) for task in tasks}
    with Checkpoints(workdir, read_only=True) as checkpoints:
        steps = _choose_steps(checkpoints, str(config.eval.checkpoint))
        stored = {step: checkpoints.config(step) for step in steps}
        heads = _check_all(tasks, stored, config, workdir)
        if jax.process_index() == 0:
            check_writable(workdir)
        mesh = meshes.make_mesh()
        nets = []
        for step in steps:
            sizes = {head: len(classes) for head, classes in stored[step]["tasks"].items()}
            model, params = load_params(checkpoints, step, setup, sizes, mesh)
            nets.append(params)
    scorer = Scorer(setup, model, mesh, crops=config.eval.crops)
    results: dict[int, dict[str, dict]] = {step: {} for step in steps}
    for task in tasks:
        table, head = tables[task.name], heads[task.name]
        classes = stored[steps[0]]["tasks"][head]
        # Classes are matched by name: the records may list them in another order than the net's.
        labels = np.asarray([classes.index(task.classes[label]) for label in table.label])
        what = f"eval {workdir} {subset}" + (f" {task.name}" if len(tasks) > 1 else "")
        with Progress(what, "stacks") as progress:
            by_net = scorer.by_net_and_head(nets, task, table, {head: labels}, config.eval.frames, progress.update)
        for step, by_head in zip(steps, by_net, strict=True):
            file = _score_file(config, task, table, labels, classes, by_head[head], workdir, step, stored[step])
            results[step][task.name] = _summary(file, by_head[head])
            if jax.process_index() == 0:
                named = step if len(steps) > 1 else None
                file.write(workdir / file_name(file.task, file.split, file.folds, file.subset, named))
    several = len(setup.tasks) > 1
    plain = {step: {"tasks": found} if several else found[tasks[0].name] for step, found in results.items()}
    # Keys as JSON has them.
    result = {"checkpoints": {str(step): of for step, of in plain.items()}} if len(steps) > 1 else plain[steps[0]]
    if jax.process_index() == 0:
        write_json(workdir / eval_name(subset), result)
    return result


def _choose_steps(checkpoints: Checkpoints, wanted: str) -> list[int]:
    """Return the steps that `eval.checkpoint` names, each once, in its order; UserError for one that is not there."""
    names = [name.strip() for name in wanted.split(",")]
    if "" in names and len(names) > 1:
        raise UserError(f"eval.checkpoint={wanted}: has a comma without a checkpoint beside it; leave it out")
    # The best may be the last, too.
    return list(dict.fromkeys(choose_step(checkpoints, name) for name in names))


def _check_all(tasks: list[Task], stored: dict[int, dict], config, workdir: Path) -> dict[str, str]:
    """Return the head of each task, the same in all checkpoints; refuse or warn, once, of what does not fit in any."""
    first, warnings = next(iter(stored.values())), {}
    for step, item in stored.items():
        validate_run.check_same_net(item["config"], config.to_dict(), workdir)
        if item["tasks"] != first["tasks"]:
            raise UserError(
                f"eval.checkpoint={config.eval.checkpoint}: step {step} tells other classes apart than the first of these; "
                "evaluate it by itself"
            )
        for task in tasks:
            warnings |= dict.fromkeys(_check_task(task, _head(task, item, workdir), item, config, workdir))
    for line in warnings:
        print(line, file=sys.stderr)
    return {task.name: _head(task, first, workdir) for task in tasks}


def by_task(result: dict) -> dict[str, dict]:
    """Return {task: summary} of what eval.json holds of one checkpoint."""
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


def _check_task(task: Task, head: str, stored: dict, config, workdir: Path) -> list[str]:
    """Refuse other classes or another split than a head was trained on; return warnings of records made otherwise."""
    subset, where, warnings = config.eval.subset, (task.section, task.settings.records), []
    validate_run.check_same_split(stored["config"], head, config.to_dict(), task.section, workdir)
    validate_run.check_same_classes(stored["tasks"][head], task.classes, workdir, *where)
    if subset != "train":
        names = [task.records.videos[i].name for i in task.positions[subset]]
        # By the data set's name: another set may have videos of the same names.
        ours, theirs = task.facts["name"], stored["records"][head]["name"]
        validate_run.check_unseen(stored["trained_videos"].get(ours, ""), names, subset, workdir, *where)
        seen = validate_run.first_seen(stored["trained_videos"].get(theirs, ""), names)
        if seen is not None:
            warnings.append(
                f"warning: {where[1]} is {ours}, the net was trained on {theirs}, and both have a video {shown_name(seen)}: "
                "if these are the same videos, this accuracy is that of training videos"
            )
    return warnings + validate_run.records_differ(stored["records"][head], task.facts, task.settings.records)


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


def result_lines(workdir: Path, result: dict) -> list[str]:
    """Return the lines that mode=eval shows: of several checkpoints one each, by the protocol that was asked for."""
    lines = []
    for of_checkpoint in result.get("checkpoints", {"": result}).values():
        for summary in by_task(of_checkpoint).values():
            where = f"{workdir}, checkpoint {summary['checkpoint']}"
            if "checkpoints" in result:
                lines.append(f"{where}  {summary_lines(summary)[-1].lstrip()}")
            else:
                lines += [where, *summary_lines(summary)]
    return lines
