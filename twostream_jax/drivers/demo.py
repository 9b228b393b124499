"""mode=demo: the whole path, from videos to a report, on the embedded synthetic set or any config's data set."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from input_pipeline import dataset_file
from input_pipeline.schema import UserError, dequantise_flow
from twostream_jax import models
from twostream_jax.drivers.evaluate import evaluate, evaluated, summary_lines
from twostream_jax.drivers.fuse import fuse
from twostream_jax.drivers.fuse import summary_lines as fuse_lines
from twostream_jax.drivers.prepare import prepare_records
from twostream_jax.drivers.setup import Setup, check_values
from twostream_jax.drivers.train import train
from twostream_jax.report import pictures
from twostream_jax.report.splits import write_splits_report
from twostream_jax.report.tables import write_report
from twostream_jax.run_log import read_metrics, time_left
from twostream_jax.scores import ScoreFile, file_name

NETS = {"spatial": "cnn_m_spatial", "temporal": "cnn_m_temporal"}
# Rows of the picture that shows frames beside their flow.
SAMPLES = 4


def demo(config, workdir: Path) -> dict:
    """Prepare, train both streams, evaluate, fuse and report in `workdir`; return what report.json holds.

    Leaves `records/` (unless data.records names another folder), `spatial/`, `temporal/`, `fused/`, report.json,
    report.md and pictures. With data.split=0 every split (or fold) runs in turn in `split<k>/`, and the report gives
    mean and spread. What is finished is not done again.
    """
    if config.tasks:
        raise UserError(
            f"tasks={','.join(config.tasks)}: mode demo runs both streams on one data set; train several with --mode=train"
        )
    config = config.copy_and_resolve_references()
    config.data.records = config.data.records or str(workdir / "records")
    if config.data.kind == "synthetic":
        config.data.videos = config.data.videos or str(workdir / "videos")
    begun = time.monotonic()
    _check_before_work(config, workdir)
    dataset = prepare_records(config)
    if set(dataset.streams) < {"rgb", "flow"}:
        raise UserError(
            f"data.records={config.data.records}: holds {', '.join(dataset.streams)} only, and the two-stream run needs RGB "
            "and flow; train the one net with --mode=train"
        )
    report = (_one_split if config.data.split else _every_split)(config, workdir, dataset)
    print(f"done in {time_left(time.monotonic() - begun)}; the report: {workdir / 'report.md'}")
    return report


def stream_config(config, stream: str):
    """Return the config with the net and the input of one stream, "spatial" or "temporal"."""
    own = config.copy_and_resolve_references()
    own.model.name, own.input.streams = NETS[stream], models.STREAMS[NETS[stream]]
    return own


def _check_before_work(config, workdir: Path) -> None:
    if (workdir / "config.json").exists():
        raise UserError(f"--workdir={workdir}: is the run of one net; name another folder for both streams")
    for stream in NETS:
        check_values(stream_config(config, stream))
    if config.flow.method == "none" and config.data.kind != "jpeg_folders":
        raise UserError("flow.method=none: the two-stream run needs flow; set it to auto, or name a method")


def _every_split(config, workdir: Path, dataset: dataset_file.Dataset) -> dict:
    count = config.data.folds or len(dataset.splits)
    reports = []
    for split in range(1, count + 1):
        own = config.copy_and_resolve_references()
        own.data.split = split
        reports.append(_one_split(own, workdir / f"split{split}", dataset))
    report = write_splits_report(workdir, title=f"{dataset.name}, {count} splits", reports=reports)
    for line in (workdir / "report.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("|"):
            print(line)
    return report


def _one_split(config, workdir: Path, dataset: dataset_file.Dataset) -> dict:
    evals = {}
    for stream in NETS:
        own = stream_config(config, stream)
        train(own, workdir / stream)
        for subset in ("train", "test"):  # the SVM learns from the training scores
            own.eval.subset = subset
            evals[stream] = _evaluated(own, workdir / stream, dataset)
        print("\n".join(f"{stream:>9} {line}" for line in summary_lines(evals[stream])))
    names = {s: file_name(dataset.name, config.data.split, config.data.folds, s) for s in ("test", "train")}
    paths = {subset: [workdir / stream / name for stream in NETS] for subset, name in names.items()}
    result = _fused(paths["test"], paths["train"], workdir / "fused")
    print("\n".join(fuse_lines(result)))
    scores = {stream: ScoreFile.read(path) for stream, path in zip(NETS, paths["test"], strict=True)}
    fused = {n: ScoreFile.read(workdir / "fused" / f"fused_{n}.npz") for n in ("average", "svm") if n in result}
    drawn = _pictures(config, workdir, scores, fused["average"])
    return write_report(
        workdir,
        title=f"Two-stream run on {dataset.name}, split {config.data.split}",
        streams=scores,
        stream_evals=evals,
        fused=fused,
        facts=_facts(config, dataset, evals["temporal"]["checkpoint"]),
        pictures=drawn,
    )


def _evaluated(config, workdir: Path, dataset: dataset_file.Dataset) -> dict:
    """Return the evaluation of the last checkpoint: the one that is there if it is of these records, or a new one."""
    split, folds = config.data.split, config.data.folds
    return evaluated(config, workdir, dataset.name, split, folds, dataset.checksum) or evaluate(config, workdir)


def _fused(test: list[Path], train: list[Path], folder: Path) -> dict:
    """Return the fusion by average and SVM, or by average alone where the training videos cannot teach an SVM."""
    try:
        return fuse(test, train, folder)
    except UserError as error:
        print(f"no SVM: {error}")
        return fuse(test, [], folder)


def _facts(config, dataset: dataset_file.Dataset, steps: int) -> dict:
    return {
        "data": {"name": dataset.name, "classes": len(dataset.classes), **dataset.counts},
        "settings": {
            "short_side_px": dataset.short_side,
            "flow": dataset.flow.method,
            "bound_px": dataset.flow.bound_px,
            "stack": config.input.stack,
            "crop_px": config.input.crop,
            "width": config.model.width,
            "dropout": config.model.dropout,
            "steps": steps,
            "batch_size": config.train.batch_size,
            "seed": config.seed,
        },
    }


def _pictures(config, workdir: Path, scores: dict[str, ScoreFile], fused: ScoreFile) -> list[tuple[Path, str]]:
    """Draw the report's pictures; return (file, caption) of each."""
    pictures.confusion_matrix(workdir / "confusion.png", fused)
    pictures.per_class_recall(workdir / "recall.png", {**scores, "fused": fused})
    pictures.frames_beside_flow(workdir / "flow.png", _flow_samples(config))
    pictures.training_curves(workdir / "training.png", {stream: read_metrics(workdir / stream) for stream in NETS})
    return [
        (workdir / "confusion.png", "Confusion matrix of the fused streams (average)."),
        (workdir / "recall.png", "Recall of each class by stream and fused."),
        (workdir / "flow.png", "Frames beside their flow."),
        (workdir / "training.png", "Loss and clip accuracy on training batches."),
    ]


def _flow_samples(config) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Return (title, frame, flow in px) of the moment of most motion in the first test video of classes across the list."""
    task = Setup.of(stream_config(config, "temporal")).only
    table = task.table("test")
    samples = []
    labels = np.unique(table.label)
    for label in labels[np.linspace(0, len(labels) - 1, min(SAMPLES, len(labels))).astype(int)]:
        position = int(table.position[np.flatnonzero(table.label == label)[0]])
        video = task.records.videos[position]
        levels, _, bound_px = task.records.flow(position, 0, video.pairs)
        # The field that varies most over the frame: a still moment, or a pan of the camera, would show little.
        index = int(np.argmax([field.std(axis=(0, 1)).sum() for field in levels]))
        frame = task.records.frames(position, [index])[0]
        samples.append((Path(video.name).name, frame, dequantise_flow(levels[index], bound_px)))
    return samples
