"""A trained run, checked and loaded once, that scores any number of videos given as their records."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from input_pipeline import dct
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
from twostream_jax.drivers.device_flow import device_flow, flow_version, resolve
from twostream_jax.drivers.evaluate import load_params, protocol_name
from twostream_jax.drivers.scoring import Scorer
from twostream_jax.drivers.setup import Setup, check_values
from twostream_jax.drivers.tasks import Task

# Class names and their probabilities [C], by head.
Heads = dict[str, tuple[list[str], np.ndarray]]


def load_runs(runs: list[tuple[object, Path]], *, hops: bool = False) -> list[LoadedRun]:
    """Return the runs (config, workdir), checked; UserError, before any device work, where they do not fit together.

    With `hops` they score pieces of one video, all with one compiled program.
    """
    loaded = []
    for config, workdir in runs:
        check_values(config)
        with Checkpoints(workdir, read_only=True) as checkpoints:
            step = choose_step(checkpoints, str(config.eval.checkpoint))
            stored = checkpoints.config(step)
        validate_run.check_same_net(stored["config"], config.to_dict(), workdir)
        method = _flow_method(config, stored["records"].values(), workdir)
        loaded.append(LoadedRun(config, workdir, step, stored, method, hops))
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
    validate_run.check_runs_classes([run.stored["tasks"] for run in loaded], [workdir for _, workdir in runs])
    return loaded


@dataclass
class LoadedRun:
    """One run: `stored` is the config item of its checkpoint `step`, `method` how a video's flow is computed for it.

    The parameters are read, and the device is touched, at the first video.
    """

    config: object
    workdir: Path
    step: int
    stored: dict
    method: str
    hops: bool = False

    def __post_init__(self):
        self._setup: Setup | None = None
        self._scorer: Scorer | None = None

    @cached_property
    def settings(self) -> dict[PrepareSettings, list[str]]:
        """How a video's records must be made, and the heads that were trained on such."""
        found: dict[PrepareSettings, list[str]] = {}
        made = {head: json.dumps([f["short_side"], f["flow"]], sort_keys=True) for head, f in self._records.items()}
        for one in dict.fromkeys(made.values()):
            heads = [head for head in made if made[head] == one]
            found.setdefault(_settings(self.config, self._records[heads[0]], self.method), []).extend(heads)
        return found

    @property
    def _records(self) -> dict[str, dict]:
        return self.stored["records"]

    @cached_property
    def lead(self) -> int:
        """How many frames more than positions a video has: those that a stack or clip needs around its anchor."""
        return sum(Setup(self.config, ()).span)

    def score(
        self,
        records: Mapping[PrepareSettings, Records],
        frames: int,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Heads:
        """Return the scores of one video, whose records by each of `settings` are given, at `frames` positions."""
        tasks = {how: _task(self.config, found) for how, found in records.items()}
        scorer, probs = self._ready(tuple(tasks.values())), {}
        for how, task in tasks.items():
            # All heads at once that saw records of this making; labels are of no account.
            labels = {head: np.zeros(1, np.int64) for head in self.settings[how]}
            (found,) = scorer.by_net_and_head([self._params], task, task.table("test"), labels, frames, on_progress)
            probs |= {head: scores.probs[0] for head, scores in found.items()}
        return {head: (classes, probs[head]) for head, classes in self.stored["tasks"].items()}

    def _ready(self, tasks: tuple[Task, ...]) -> Scorer:
        """Return a scorer for videos such as these; the one that is there, as long as it fits them."""
        setup = _Hops(self.config, tasks, self._setup.planes if self._setup else ()) if self.hops else None
        if setup is not None and self._setup is not None and setup.planes == self._setup.planes:
            return self._scorer
        self._setup = setup or Setup(self.config, tasks)
        mesh = meshes.make_mesh()
        if self._scorer is None:
            with Checkpoints(self.workdir, read_only=True) as checkpoints:
                sizes = {head: len(classes) for head, classes in self.stored["tasks"].items()}
                self._model, self._params = load_params(checkpoints, self.step, self._setup, sizes, mesh)
        crops = self.config.eval.crops
        self._scorer = Scorer(self._setup, self._model, mesh, crops=crops, workers=False, one_size=self.hops)
        return self._scorer


@dataclass(frozen=True)
class _Hops(Setup):
    """The setup of a video's hops: of DCT records it reads the planes of all hops so far, and all that are common.

    Which planes records hold differs from hop to hop, and each other set of them would be compiled anew.
    """

    so_far: tuple[int, ...] = ()

    @cached_property
    def planes(self) -> tuple[int, ...]:
        own = super().planes
        if not own:
            return ()
        kept = self.tasks[0].records.dataset.flow.dct_planes
        return tuple(sorted({*own, *self.so_far, *dct.zigzag(kept)}))


def one_video(video: Video, settings: PrepareSettings, folder: Path, asked: str, *, tell_cost: bool = False) -> Records:
    """Return a video's records, made in `folder`; UserError that begins with `asked`, what the user called it.

    The only place where predict has frames encoded and flow computed.
    """
    videos = VideoList("predict", "csv", ("unknown",), ("1",), (video,))
    if tell_cost:
        # What cannot be estimated is refused below, with its own reason.
        with contextlib.suppress(UserError):
            cost = estimate(videos, settings, device_flow)
            seconds = f"about {3600 * cost.hours:.0f} s"
            print(f"{cost.frames} frames and {cost.pairs} flow fields to compute, {seconds}", file=sys.stderr)
    try:
        prepare(videos, folder, settings, lambda *_: None, device_flow=device_flow)
    except UserError as error:
        reason = next((aside.reason for aside in read_quarantine(folder).values()), "")
        raise UserError(f"{asked}: {reason or error}") from error
    return Records(folder)


def _settings(config, facts: dict, method: str) -> PrepareSettings:
    """Return the settings by which a video's records become as those that the net was trained on, `facts`."""
    flow = facts["flow"] or {}
    return PrepareSettings(
        short_side=facts["short_side"],
        method=method,
        bound_px=facts["flow"]["bound_px"] if method != "none" else config.flow.bound_px,
        backward=method != "none" and config.input.bidirectional,
        max_bad_fraction=1.0,
        processes=1,
        codec=flow.get("codec", "jpeg"),
        dct_planes=flow.get("dct_planes", 64),
        camera_compensation=flow.get("camera_compensation", False),
        flow_version=flow_version(method),
    )


def _task(config, records: Records) -> Task:
    return Task("video", "data", config.data, records, {"train": (), "validation": (), "test": (0,)})


def _flow_method(config, records: Collection[dict], workdir: Path) -> str:
    """Return how the video's flow is computed: as the net's was or, where that came as JPEGs, by flow.method."""
    if "flow" not in config.input.streams:
        return "none"
    methods = {facts["flow"]["method"] for facts in records}
    if methods != {"given"}:
        # Of two tasks whose flow was made by two methods, the first by name: no video has both.
        method = min(methods - {"given"})
        versions = {f["flow"].get("version", "") for f in records if f["flow"]["method"] == method}
        if versions != {flow_version(method)}:
            print(
                f"warning: {workdir} was trained on flow by {method} {', '.join(sorted(versions))}; this video's is by "
                f"{method} {flow_version(method)}",
                file=sys.stderr,
            )
        return method
    method = resolve(config.flow.method, tell=sys.stderr)
    if method == "none":
        raise UserError("flow.method=none: the net takes flow; name the method that is nearest to that of its JPEGs")
    print(
        f"warning: {workdir} was trained on flow that came as JPEGs; flow.method={method} computes this video's, and "
        "another method than theirs costs accuracy",
        file=sys.stderr,
    )
    return method
