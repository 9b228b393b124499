"""mode=predict: what one video shows, flow computed inline with the checkpoint's method."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from input_pipeline.prepare import QUARANTINE_FILE, PrepareSettings, estimate, prepare
from input_pipeline.schema import UserError
from input_pipeline.store import Records
from input_pipeline.video_list import Video, VideoList
from twostream_jax import mesh as meshes
from twostream_jax import validate
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
        raise UserError(f"--video={video}: there is no such file")
    streams, scored = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for number, (config, workdir) in enumerate(runs):
            classes, probs, step = _score(config, workdir, video, Path(folder) / str(number))
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
        result["fused"] = {"method": "average", "top": _fuse(scored, [str(workdir) for _, workdir in runs])}
    return result


def _stream_name(config, workdir: Path, taken: dict) -> str:
    name = "temporal" if "flow" in config.input.streams else "spatial"
    return str(workdir) if name in taken else name


def _score(config, workdir: Path, video: Path, folder: Path) -> tuple[list[str], np.ndarray, int]:
    """Return class names, probabilities [C] and the checkpoint's step."""
    check_values(config)
    with Checkpoints(workdir, read_only=True) as checkpoints:
        step = choose_step(checkpoints, str(config.eval.checkpoint))
        stored = checkpoints.config(step)
        (head, classes), *_ = stored["tasks"].items()
        validate.check_same_net(stored["config"], config.to_dict(), workdir)
        method = _flow_method(config, stored["records"], workdir)
        setup = _one_video_setup(config, stored["records"], method, video, folder)
        mesh = meshes.make_mesh()
        model, params = load_params(checkpoints, step, setup, {head: len(classes)}, mesh)
    scorer = Scorer(setup, model, mesh, crops=config.eval.crops)
    with Progress(f"predict {workdir}", "stacks") as progress:
        scores = scorer(params, setup.table("test"), np.zeros(1, np.int64), head, config.eval.frames, progress.update)
    return classes, scores.probs[0], step


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
        backward=False,
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
    path = folder / QUARANTINE_FILE
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return json.loads(lines[0])["reason"] if lines else ""


def _top(classes: list[str], probs: np.ndarray) -> list[dict]:
    # A stable sort of the negated scores breaks ties by the lower class index.
    order = np.argsort(-probs, kind="stable")[:TOP]
    return [{"class": classes[i], "probability": round(float(probs[i]), 6)} for i in order]


def _fuse(scored: list[tuple[list[str], np.ndarray]], names: list[str]) -> list[dict]:
    classes = scored[0][0]
    total = np.zeros(len(classes))
    for (own, probs), name in zip(scored, names, strict=True):
        if set(own) != set(classes):
            raise UserError(
                f"--runs: {names[0]} and {name} were trained on different classes; give runs of one data set"
            )
        total += probs[[own.index(c) for c in classes]]
    return _top(classes, total / len(scored))
