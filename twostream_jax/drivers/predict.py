"""mode=predict: what one video shows, flow computed inline with the checkpoint's method."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Iterable
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
from twostream_jax.drivers.tasks import Task
from twostream_jax.run_log import Progress

TOP = 5


def predict(runs: list[tuple[object, Path]], video: Path) -> dict:
    """Return the top classes of a video for each run and for the average of all: what mode=predict prints.

    runs: (config, workdir) each. A net of several tasks gives them for each, under "tasks"; averaged are those whose
    classes all runs tell apart. The video passes through the same stages as a stored one (decode, resize, flow, JPEG),
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
            heads = _score(config, stored, method, video, Path(folder) / str(number), workdir, step)
            key = _stream_name(config, workdir, streams)
            tops = {head: _top(*scores) for head, scores in heads.items()}
            streams[key] = {"workdir": str(workdir), "checkpoint": step, **_shown(tops)}
            scored.append(heads)
    config = runs[0][0]
    result = {
        "video": str(video),
        "protocol": protocol_name(config.eval.frames, config.eval.crops),
        "streams": streams,
    }
    if len(scored) > 1:
        result["fused"] = {"method": "average", **_shown(_fuse(scored))}
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
        loaded.append((step, stored, _flow_method(config, stored["records"].values(), workdir)))
    first, first_dir = runs[0]
    for number, (config, workdir) in enumerate(runs):
        if any(workdir.resolve() == earlier.resolve() for _, earlier in runs[:number]):
            raise UserError(f"--runs: {workdir} is given twice; give each run once")
        ours, theirs = (protocol_name(c.eval.frames, c.eval.crops) for c in (first, config))
        if ours != theirs or first.eval.frames != config.eval.frames:
            raise UserError(
                f"--runs: {first_dir} scores by {ours} and {workdir} by {theirs}; "
                "set --config.eval.frames and --config.eval.crops for both"
            )
    validate_run.check_runs_classes([stored["tasks"] for _, stored, _ in loaded], [workdir for _, workdir in runs])
    return loaded


def _stream_name(config, workdir: Path, taken: dict) -> str:
    name = "temporal" if "flow" in config.input.streams else "spatial"
    return str(workdir) if name in taken else name


def _score(
    config, stored: dict, method: str, video: Path, folder: Path, workdir: Path, step: int
) -> dict[str, tuple[list[str], np.ndarray]]:
    """Return class names and probabilities [C] by head; the video is prepared in `folder` as each head's own were."""
    mesh, records = meshes.make_mesh(), {}
    for facts in stored["records"].values():
        if _made(facts) not in records:
            records[_made(facts)] = _one_video(config, facts, method, video, folder / str(len(records)))
    setup = Setup(config, tuple(records.values()))
    with Checkpoints(workdir, read_only=True) as checkpoints:
        sizes = {head: len(classes) for head, classes in stored["tasks"].items()}
        model, params = load_params(checkpoints, step, setup, sizes, mesh)
    scorer = Scorer(setup, model, mesh, crops=config.eval.crops, workers=False)
    probs = {}
    for made, task in records.items():
        # All heads at once that saw records of this making; labels are of no account.
        labels = {head: np.zeros(1, np.int64) for head, facts in stored["records"].items() if _made(facts) == made}
        with Progress(f"predict {workdir}", "stacks") as progress:
            (found,) = scorer.by_net_and_head(
                [params], task, task.table("test"), labels, config.eval.frames, progress.update
            )
        probs |= {head: scores.probs[0] for head, scores in found.items()}
    return {head: (classes, probs[head]) for head, classes in stored["tasks"].items()}


def _made(facts: dict) -> str:
    """Return how records were made, as text."""
    return json.dumps([facts["short_side"], facts["flow"]], sort_keys=True)


def _flow_method(config, records: Iterable[dict], workdir: Path) -> str:
    """Return how the video's flow is computed: as the net's was or, where that came as JPEGs, by flow.method."""
    if "flow" not in config.input.streams:
        return "none"
    methods = {facts["flow"]["method"] for facts in records}
    if methods != {"given"}:
        # Of two tasks whose flow was made by two methods, the first by name: no video has both.
        return min(methods - {"given"})
    method = config.flow.method
    if method == "none":
        raise UserError("flow.method=none: the net takes flow; name the method that is nearest to that of its JPEGs")
    print(
        f"warning: {workdir} was trained on flow that came as JPEGs; flow.method={method} computes this video's, and "
        "another method than theirs costs accuracy",
        file=sys.stderr,
    )
    return method


def _one_video(config, facts: dict, method: str, video: Path, folder: Path) -> Task:
    """Return the task of this one video, its records made as those that the net was trained on."""
    flow = facts["flow"] or {}
    settings = PrepareSettings(
        short_side=facts["short_side"],
        method=method,
        bound_px=facts["flow"]["bound_px"] if method != "none" else config.flow.bound_px,
        backward=method != "none" and config.input.bidirectional,
        max_bad_fraction=1.0,
        processes=1,
        codec=flow.get("codec", "jpeg"),
        dct_planes=flow.get("dct_planes", 64),
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
    return Task("video", "data", config.data, Records(folder), {"train": (), "validation": (), "test": (0,)})


def _reason(folder: Path) -> str:
    """Return why the video was set aside; empty when it was not."""
    return next((aside.reason for aside in read_quarantine(folder).values()), "")


def _top(classes: list[str], probs: np.ndarray) -> list[dict]:
    # A stable sort of the negated scores breaks ties by the lower class index.
    order = np.argsort(-probs, kind="stable")[:TOP]
    return [{"class": classes[i], "probability": round(float(probs[i]), 6)} for i in order]


def _shown(tops: dict[str, list[dict]]) -> dict:
    """Return {"top": ...} of one task's top classes, {"tasks": {task: ...}} of several."""
    return {"top": next(iter(tops.values()))} if len(tops) == 1 else {"tasks": tops}


def _fuse(scored: list[dict[str, tuple[list[str], np.ndarray]]]) -> dict[str, list[dict]]:
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


def _same_classes(heads: dict, head: str, classes: list[str]) -> tuple[list[str], np.ndarray] | None:
    """Return the scores of a head of these classes, of the one called `head` if it is one; None without any."""
    for name in sorted(heads, key=lambda name: name != head):
        if set(heads[name][0]) == set(classes):
            return heads[name]
    return None
