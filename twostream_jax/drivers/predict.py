"""mode=predict: what one video shows, flow computed inline with the checkpoint's method."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path

import numpy as np

from input_pipeline.estimate import estimate
from input_pipeline.prepare import prepare
from input_pipeline.quarantine import read_quarantine
from input_pipeline.schema import UserError
from input_pipeline.stages import PrepareSettings
from input_pipeline.store import Records
from input_pipeline.video_list import Video, VideoList
from twostream_jax import mesh as meshes
from twostream_jax import validate_run
from twostream_jax.checkpoint import Checkpoints, choose_step
from twostream_jax.drivers.evaluate import load_params, protocol_name
from twostream_jax.drivers.scoring import Scorer
from twostream_jax.drivers.setup import Setup, check_values
from twostream_jax.run_log import Progress

TOP = 5


def predict(runs: list[tuple[object, Path]], video: Path) -> dict:
    """Return the top classes of a video for each run and for the average of all: what mode=predict prints.

    runs: (config, workdir) each. The video passes through the same stages as a stored one (decode, resize, flow, JPEG),
    with the settings of the records that each net was trained on, so that its scores are those that eval would give.
    """
    if not video.is_file():
        raise UserError(
            f"--video={video}: {'is a folder; give one file' if video.is_dir() else 'there is no such file'}"
        )
    loaded = _load_all(runs)
    streams, scored = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for number, ((config, workdir), (step, stored, method)) in enumerate(zip(runs, loaded, strict=True)):
            setup = _one_video_setup(config, stored["records"], method, video, Path(folder) / str(number))
            classes, probs = _score(setup, workdir, step, stored)
            key = _stream_name(config, workdir, streams)
            streams[key] = {"workdir": str(workdir), "checkpoint": step, "top": _top(classes, probs)}
            scored.append((classes, probs))
    config = runs[0][0]
    result = {
        "video": str(video),
        "protocol": protocol_name(config.eval.frames, config.eval.crops),
        "streams": streams,
    }
    if len(scored) > 1:
        result["fused"] = {"method": "average", "top": _fuse(scored)}
    return result


def _load_all(runs: list[tuple[object, Path]]) -> list[tuple[int, dict, str]]:
    """Return (step, config item, flow method) of each run; UserError, before any device work, where they do not fit."""
    loaded = []
    for config, workdir in runs:
        check_values(config)
        with Checkpoints(workdir, read_only=True) as checkpoints:
            step = choose_step(checkpoints, str(config.eval.checkpoint))
            stored = checkpoints.config(step)
        validate_run.check_same_net(stored["config"], config.to_dict(), workdir)
        loaded.append((step, stored, _flow_method(config, stored["records"], workdir)))
    (first, first_dir), classes = runs[0], _classes(loaded[0][1])
    for number, ((config, workdir), (_, stored, _)) in enumerate(zip(runs, loaded, strict=True)):
        if any(workdir.resolve() == earlier.resolve() for _, earlier in runs[:number]):
            raise UserError(f"--runs: {workdir} is given twice; give each run once")
        validate_run.check_runs_classes(classes, _classes(stored), first_dir, workdir)
        ours, theirs = (protocol_name(c.eval.frames, c.eval.crops) for c in (first, config))
        if ours != theirs or first.eval.frames != config.eval.frames:
            raise UserError(
                f"--runs: {first_dir} scores by {ours} and {workdir} by {theirs}; "
                "set --config.eval.frames and --config.eval.crops for both"
            )
    return loaded


def _classes(stored: dict) -> list[str]:
    (classes, *_) = stored["tasks"].values()
    return classes


def _stream_name(config, workdir: Path, taken: dict) -> str:
    name = "temporal" if "flow" in config.input.streams else "spatial"
    return str(workdir) if name in taken else name


def _score(setup: Setup, workdir: Path, step: int, stored: dict) -> tuple[list[str], np.ndarray]:
    """Return class names and probabilities [C]."""
    config = setup.config
    (head, classes), *_ = stored["tasks"].items()
    mesh = meshes.make_mesh()
    with Checkpoints(workdir, read_only=True) as checkpoints:
        model, params = load_params(checkpoints, step, setup, {head: len(classes)}, mesh)
    scorer = Scorer(setup, model, mesh, crops=config.eval.crops)
    with Progress(f"predict {workdir}", "stacks") as progress:
        scores = scorer(params, setup.table("test"), np.zeros(1, np.int64), head, config.eval.frames, progress.update)
    return classes, scores.probs[0]


def _flow_method(config, facts: dict, workdir: Path) -> str:
    """Return how the video's flow is computed: as the net's was or, where that came as JPEGs, by flow.method."""
    if "flow" not in config.input.streams:
        return "none"
    if facts["flow"]["method"] != "given":
        return facts["flow"]["method"]
    method = config.flow.method
    if method == "none":
        raise UserError("flow.method=none: the net takes flow; name the method that is nearest to that of its JPEGs")
    print(
        f"warning: {workdir} was trained on flow that came as JPEGs; flow.method={method} computes this video's, and "
        "another method than theirs costs accuracy",
        file=sys.stderr,
    )
    return method


def _one_video_setup(config, facts: dict, method: str, video: Path, folder: Path) -> Setup:
    """Return the setup over records of this one video, made as those that the net was trained on."""
    settings = PrepareSettings(
        short_side=facts["short_side"],
        method=method,
        bound_px=facts["flow"]["bound_px"] if method != "none" else config.flow.bound_px,
        backward=method != "none" and config.input.bidirectional,
        max_bad_fraction=1.0,
        processes=1,
    )
    one = Video("video", video, 0, "video", {"1": "test"})
    videos = VideoList("predict", "csv", ("unknown",), ("1",), (one,))
    # What cannot be estimated is refused below, with its own reason.
    with contextlib.suppress(UserError):
        cost = estimate(videos, settings)
        seconds = f"about {3600 * cost.hours:.0f} s"
        print(f"{cost.frames} frames and {cost.pairs} flow fields to compute, {seconds}", file=sys.stderr)
    try:
        prepare(videos, folder, settings, lambda *_: None)
    except UserError as error:
        raise UserError(f"--video={video}: {_reason(folder) or error}") from error
    return Setup(config, Records(folder), {"train": (), "validation": (), "test": (0,)})


def _reason(folder: Path) -> str:
    """Return why the video was set aside; empty when it was not."""
    return next((aside.reason for aside in read_quarantine(folder).values()), "")


def _top(classes: list[str], probs: np.ndarray) -> list[dict]:
    # A stable sort of the negated scores breaks ties by the lower class index.
    order = np.argsort(-probs, kind="stable")[:TOP]
    return [{"class": classes[i], "probability": round(float(probs[i]), 6)} for i in order]


def _fuse(scored: list[tuple[list[str], np.ndarray]]) -> list[dict]:
    """Return the top classes of the mean of the runs' probabilities, classes matched by name."""
    classes = scored[0][0]
    total = sum(probs[[own.index(c) for c in classes]] for own, probs in scored)
    return _top(classes, total / len(scored))
