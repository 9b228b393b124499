"""mode=eval: scores the videos of a subset by the papers' protocol and writes the score file and eval.json."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from twostream_jax import mesh as meshes
from twostream_jax import validate
from twostream_jax.checkpoint import Checkpoints, choose_step
from twostream_jax.drivers.scoring import Scorer, VideoScores
from twostream_jax.drivers.setup import Setup
from twostream_jax.files import write_json
from twostream_jax.metrics import wilson_interval
from twostream_jax.report.tables import accuracy_entry, stream_summary
from twostream_jax.run_log import Progress
from twostream_jax.scores import ScoreFile
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
    """
    setup = Setup.of(config)
    subset = config.eval.subset
    table = setup.table(subset)
    with Checkpoints(workdir, read_only=True) as checkpoints:
        step = choose_step(checkpoints, str(config.eval.checkpoint))
        stored = checkpoints.config(step)
        (head, classes), *_ = stored["tasks"].items()
        validate.check_same_classes(classes, setup.classes, workdir, config.data.records)
        mesh = meshes.make_mesh()
        model, params = load_params(checkpoints, step, setup, {head: len(classes)}, mesh)
    # Classes are matched by name: the records may list them in another order than the net's.
    labels = np.asarray([classes.index(setup.classes[label]) for label in table.label])
    scorer = Scorer(setup, model, mesh, crops=config.eval.crops)
    progress = Progress(f"eval {workdir} {subset}", "stacks")
    scores = scorer(params, table, labels, head, config.eval.frames, progress.update)
    progress.close()
    provenance = {
        "workdir": str(workdir),
        "step": step,
        "model": config.model.name,
        "streams": list(config.input.streams),
        "records": stored["records"],
        "versions": stored["versions"],
    }
    videos = [setup.records.videos[i] for i in table.position]
    file = ScoreFile(
        task=setup.task,
        split=config.data.split,
        subset=subset,
        names=tuple(video.name for video in videos),
        groups=tuple(video.group for video in videos),
        labels=labels.astype(np.int32),
        classes=tuple(classes),
        probs=scores.probs.astype(np.float32),
        logits=scores.logits.astype(np.float32),
        protocol=protocol_name(config.eval.frames, config.eval.crops),
        provenance=provenance,
    )
    result = _summary(file, scores)
    if jax.process_index() == 0:
        file.write(workdir / f"scores_{setup.task}_split{config.data.split}_{subset}.npz")
        write_json(workdir / ("eval.json" if subset == "test" else f"eval_{subset}.json"), result)
    return result


def _summary(file: ScoreFile, scores: VideoScores) -> dict:
    """Return eval.json: the protocols side by side, mean-class accuracy and top-5, each with what it stands on."""
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
    return {
        "task": file.task,
        "split": file.split,
        "subset": file.subset,
        "videos": n,
        "checkpoint": file.provenance["step"],
        "clip": clip_entry,
        "center": accuracy_entry(centre),
        file.protocol: accuracy_entry(file),
        **{key: value for key, value in stream_summary(file).items() if key in ("mean_class_accuracy", "top5")},
    }


def summary_lines(result: dict) -> list[str]:
    """Return the lines that the terminal shows of an eval.json, a protocol each."""
    entries = [value for value in result.values() if isinstance(value, dict) and "protocol" in value]
    lines = []
    for entry in entries:
        low, high = entry["interval95"]
        lines.append(
            f"{entry['protocol']:>7}  {entry['task']} split {entry['split']} {entry['subset']}  "
            f"{100 * entry['accuracy']:5.1f} %  of {entry['videos']} videos  [{100 * low:.1f}, {100 * high:.1f}]"
        )
    return lines
