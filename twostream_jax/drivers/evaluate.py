"""mode=eval: scores the videos of a subset by the papers' protocol and writes the score file and eval.json."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from twostream_jax import mesh as meshes
from twostream_jax import metrics, validate_run
from twostream_jax.checkpoint import Checkpoints, choose_step
from twostream_jax.drivers.scoring import Scorer, VideoScores
from twostream_jax.drivers.setup import Setup, package_versions
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
    """Return the net with one head per task of the checkpoint, and the parameters of `step`, replicated."""
    model = setup.model(tasks)
    return model, checkpoints.restore_params(step, abstract_params(model, setup.inputs), mesh)


def evaluate(config, workdir: Path) -> dict:
    """Score `eval.subset` with `eval.checkpoint` of the run in `workdir`; return what eval.json holds.

    Leaves `scores_<task>_split<k>_<subset>.npz` and `eval.json` (`eval_<subset>.json` for other subsets than test).
    Refuses inputs, a net or a split other than the checkpoint's, and videos of another subset that it was trained on.
    """
    setup = Setup.of(config)
    table = setup.table(config.eval.subset)
    with Checkpoints(workdir, read_only=True) as checkpoints:
        step = choose_step(checkpoints, str(config.eval.checkpoint))
        stored = checkpoints.config(step)
        (head, classes), *_ = stored["tasks"].items()
        validate_run.check_same_net(stored["config"], config.to_dict(), workdir)
        validate_run.check_same_split(stored["config"], config.to_dict(), workdir)
        validate_run.check_same_classes(classes, setup.classes, workdir, config.data.records)
        if config.eval.subset != "train" and stored["records"]["name"] == setup.task:
            # Checkpoints of older versions do not remember their videos.
            names = (setup.records.videos[i].name for i in table.position)
            trained = stored.get("trained_videos", "")
            validate_run.check_unseen(trained, names, config.eval.subset, workdir, config.data.records)
        if jax.process_index() == 0:
            check_writable(workdir)
        for line in validate_run.records_differ(stored["records"], setup.records_facts, config.data.records):
            print(line, file=sys.stderr)
        mesh = meshes.make_mesh()
        model, params = load_params(checkpoints, step, setup, {head: len(classes)}, mesh)
    # Classes are matched by name: the records may list them in another order than the net's.
    labels = np.asarray([classes.index(setup.classes[label]) for label in table.label])
    scorer = Scorer(setup, model, mesh, crops=config.eval.crops)
    with Progress(f"eval {workdir} {config.eval.subset}", "stacks") as progress:
        scores = scorer(params, table, labels, head, config.eval.frames, progress.update)
    file = _score_file(setup, table, labels, classes, scores, workdir, step, stored)
    result = _summary(file, scores)
    if jax.process_index() == 0:
        file.write(workdir / file_name(file.task, file.split, file.folds, file.subset))
        write_json(workdir / eval_name(file.subset), result)
    return result


def eval_name(subset: str) -> str:
    """Return how a subset's summary is called: eval.json for test, eval_train.json and so on for others."""
    return "eval.json" if subset == "test" else f"eval_{subset}.json"


def _score_file(setup: Setup, table, labels, classes, scores: VideoScores, workdir: Path, step: int, stored: dict):
    config = setup.config
    videos = [setup.records.videos[i] for i in table.position]
    return ScoreFile(
        task=setup.task,
        split=config.data.split,
        folds=config.data.folds,
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
            "records": setup.records_facts,
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
