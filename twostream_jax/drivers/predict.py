"""mode=predict: what one video shows, flow computed inline with the checkpoint's method."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from input_pipeline.moments import usable_rate
from input_pipeline.schema import UserError
from input_pipeline.video_list import Video
from input_pipeline.videos import probe_video
from twostream_jax.drivers.annotate import Annotation
from twostream_jax.drivers.evaluate import protocol_name
from twostream_jax.drivers.loaded_run import Heads, LoadedRun, load_runs, one_video
from twostream_jax.run_log import Progress

TOP = 5


def predict(runs: list[tuple[object, Path]], video: Path, annotate: Path | None = None) -> dict:
    """Return the top classes of a video for each run and for the average of all: what mode=predict prints.

    runs: (config, workdir) each. A net of several tasks gives them for each, under "tasks"; averaged are those whose
    classes all runs tell apart. The video passes through the same stages as a stored one (decode, resize, flow, JPEG),
    with the settings of the records that each net was trained on, so that its scores are those that eval would give.

    With `annotate` a video of that name shows each frame, its flow as it was scored, and the top classes.
    """
    check_video(video)
    loaded = load_runs(runs)
    annotation = annotate and Annotation(annotate)
    records, scored = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for run in loaded:
            for settings in run.settings:
                if settings not in records:
                    one, place = Video("video", video, 0, "video", {"1": "test"}), Path(folder) / str(len(records))
                    records[settings] = one_video(one, settings, place, f"--video={video}", tell_cost=True)
            own = {settings: records[settings] for settings in run.settings}
            with Progress(f"predict {run.workdir}", "stacks") as progress:
                scored.append(run.score(own, run.config.eval.frames, progress.update))
        answer = describe(loaded, scored)
        if annotation:
            _draw(annotation, shown_records(loaded, records), usable_rate(probe_video(video)[1]), answer)
    config = runs[0][0]
    return {"video": str(video), "protocol": protocol_name(config.eval.frames, config.eval.crops), **answer}


def check_video(video: Path) -> None:
    """Raise UserError unless there is such a file."""
    if not video.is_file():
        raise UserError(
            f"--video={video}: {'is a folder; give one file' if video.is_dir() else 'there is no such file'}"
        )


def shown_records(loaded: Sequence[LoadedRun], records: dict):
    """Return the records of a video that are drawn: the first that have flow, or the first."""
    wanted = [settings for run in loaded for settings in run.settings]
    return records[next((settings for settings in wanted if settings.method != "none"), wanted[0])]


def _draw(annotation: Annotation, records, rate: float, answer: dict) -> None:
    count = records.videos[0].frames
    times = [i / rate for i in range(count)]
    with annotation.writing(rate), Progress(f"drawing {annotation.path}", "frames") as progress:
        annotation.draw(records, count, times, answer, on_progress=lambda done: progress.update(done, count))
        annotation.finish()


def describe(loaded: Sequence[LoadedRun], scored: Sequence[Heads]) -> dict:
    """Return {"streams": {name: its top classes}} and, of several runs, "fused"; as mode=predict prints it."""
    streams: dict[str, dict] = {}
    for run, heads in zip(loaded, scored, strict=True):
        tops = {head: _top(*scores) for head, scores in heads.items()}
        key = _stream_name(run.config, run.workdir, streams)
        streams[key] = {"workdir": str(run.workdir), "checkpoint": run.step, **_shown(tops)}
    fused = {"fused": {"method": "average", **_shown(_fuse(scored))}} if len(scored) > 1 else {}
    return {"streams": streams, **fused}


def _stream_name(config, workdir: Path, taken: dict) -> str:
    name = "temporal" if "flow" in config.input.streams else "spatial"
    return str(workdir) if name in taken else name


def _top(classes: list[str], probs: np.ndarray) -> list[dict]:
    # A stable sort of the negated scores breaks ties by the lower class index.
    order = np.argsort(-probs, kind="stable")[:TOP]
    return [{"class": classes[i], "probability": round(float(probs[i]), 6)} for i in order]


def _shown(tops: dict[str, list[dict]]) -> dict:
    """Return {"top": ...} of one task's top classes, {"tasks": {task: ...}} of several."""
    return {"top": next(iter(tops.values()))} if len(tops) == 1 else {"tasks": tops}


def _fuse(scored: Sequence[Heads]) -> dict[str, list[dict]]:
    """Return the top classes of the mean of the runs' probabilities, classes matched by name, by the first run's heads.

    A head whose classes another run does not have is left out.
    """
    fused = {}
    for head, (classes, _) in scored[0].items():
        alike = [_same_classes(heads, head, classes) for heads in scored]
        if None not in alike:
            total = sum(probs[[own.index(c) for c in classes]] for own, probs in alike)
            fused[head] = _top(classes, total / len(scored))
    return fused


def _same_classes(heads: Heads, head: str, classes: list[str]) -> tuple[list[str], np.ndarray] | None:
    """Return the scores of a head of these classes, of the one called `head` if it is one; None without any."""
    for name in sorted(heads, key=lambda name: name != head):
        if set(heads[name][0]) == set(classes):
            return heads[name]
    return None
