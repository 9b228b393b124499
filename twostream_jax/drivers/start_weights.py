"""Weights that a fresh run begins with (`init.from`), matched with its net layer by layer before any device work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from configs import base
from input_pipeline.schema import UserError, shown_name
from twostream_jax import mesh as meshes
from twostream_jax import validate_run
from twostream_jax.checkpoint import Checkpoints, Damaged
from twostream_jax.drivers.setup import Setup
from twostream_jax.drivers.tasks import Task
from twostream_jax.models import build_model
from twostream_jax.pretrained import READERS, read_oxford, to_params
from twostream_jax.steps import Inputs, abstract_params

Params = Mapping[str, Mapping[str, Any]]
HEAD = "full8"


@dataclass(frozen=True)
class Source:
    """A net that weights come from; its arrays may still lie on the disk."""

    name: str  # as a person calls it: a file, or a run and its step
    shapes: Mapping[str, Mapping[str, tuple[int, ...]]]  # layer -> array -> shape
    classes: Mapping[str, tuple[str, ...]]  # of each full8 layer; empty where they are not named
    load: Callable[[Mesh], Params]
    changes: Mapping[str, str]  # layer -> what was done to it so that it fits our inputs
    trained_videos: Mapping[str, str]  # fingerprints of the videos it has seen, by data set


@dataclass(frozen=True)
class Start:
    """What a run takes from a source: nothing is left to be refused."""

    source: Source
    loaded: tuple[str, ...]  # layers, by our names
    heads: dict[str, tuple[str, tuple[int, ...]]]  # our full8 layers: the source's, and its class for each of ours
    fresh: tuple[str, ...]  # our full8 layers that begin anew
    trained_videos: dict[str, str]  # fingerprints of what the source has seen, by data set

    def params(self, mesh: Mesh) -> dict[str, dict[str, Any]]:
        """Return {layer: {"kernel", "bias"}}, replicated over the mesh, of the layers that are not drawn."""
        theirs = self.source.load(mesh)
        taken = {name: dict(theirs[name]) for name in self.loaded}
        for ours, (name, order) in self.heads.items():
            taken[ours] = {key: array[..., list(order)] for key, array in theirs[name].items()}
        return jax.device_put(taken, meshes.replicated(mesh))

    def lines(self) -> list[str]:
        """Return the lines that say of each layer whether it was loaded, adapted or begins afresh."""
        changes = dict(self.source.changes)
        for ours, (theirs, order) in self.heads.items():
            done = [f"{theirs}'s, which has the same classes"] if theirs not in (ours, HEAD) else []
            done += ["its classes put into the records' order"] if order != tuple(range(len(order))) else []
            if done:
                changes[ours] = ", ".join(done)
        copied = [name for name in (*self.loaded, *self.heads) if name not in changes]
        lines = [f"begins with {self.source.name}", f"  loaded: {', '.join(copied)}"]
        lines += [f"  adapted: {name} ({what})" for name, what in changes.items()]
        lines += [f"  left fresh: {', '.join(self.fresh)}"] if self.fresh else []
        taken = [name for name, _ in self.heads.values()]
        return lines + [
            f"  not taken: {name} ({_classes_in_words(self.source, name)})"
            for name in self.source.classes
            if name not in taken
        ]


def plan_start(setup: Setup, params: Params, frozen: tuple[str, ...]) -> Start | None:
    """Return what a fresh run takes from `init.from`, None where it is empty; no device is touched.

    params: the net's, by shape. UserError naming init.from where it is not there, damaged or of another net, and where
    a frozen layer would begin afresh.
    """
    if not setup.config.init["from"]:
        return None
    path = Path(setup.config.init["from"])
    source = _oxford(path) if path.suffix.lower() in READERS else _run(path, setup)
    for task in setup.tasks:
        _check_unseen(source, task)
    for name in params:
        if not name.startswith(HEAD):
            _check_shapes(source, name, params[name])
    loaded = tuple(name for name in params if not name.startswith(HEAD))
    heads = {f"{HEAD}_{task.name}": _head(source, task) for task in setup.tasks}
    fresh = tuple(name for name, found in heads.items() if found is None)
    for task in setup.tasks:
        if f"{HEAD}_{task.name}" in fresh and f"{HEAD}_{task.name}" in frozen:
            raise UserError(
                f"init.freeze covers {HEAD}_{task.name}, and {_where(source)} has no {HEAD} of these "
                f"{len(task.classes)} classes: it would stay as drawn; leave it out of init.freeze"
            )
    return Start(source, loaded, {name: found for name, found in heads.items() if found}, fresh, source.trained_videos)


def _check_unseen(source: Source, task: Task) -> None:
    """Refuse a source that has seen what this run is to be tested on: eval would refuse the run, once it is trained."""
    trained = source.trained_videos.get(task.facts["name"], "")
    tested = (task.records.videos[i].name for subset in ("test", "validation") for i in task.positions[subset])
    seen = validate_run.first_seen(trained, tested)
    if seen is not None:
        raise UserError(
            f"{_where(source)}: was trained on {shown_name(seen)}, which {task.section}.split={task.settings.split} tests "
            f"on; begin with a net of the same split or, if these are two data sets called {task.facts['name']}, rename the "
            "folder of one and prepare it again"
        )


def _head(source: Source, task: Task) -> tuple[str, tuple[int, ...]] | None:
    """Return the source's head of a task's classes, the one of its name before others, and its order of them."""
    for name in sorted(source.classes, key=lambda name: name != f"{HEAD}_{task.name}"):
        named = source.classes[name]
        if set(named) == set(task.classes):
            return name, tuple(named.index(one) for one in task.classes)
    return None


def _oxford(path: Path) -> Source:
    if not path.is_file():
        raise UserError(
            f"init.from={path}: {'is a folder' if path.is_dir() else 'there is no such file'}; name the file"
        )
    net = read_oxford(path)
    params = to_params(net)
    mean = ", ".join(f"{value:.3f}" for value in net.mean_rgb)
    change = f"from 0..255 less the mean colour RGB {mean} to our input scale"
    return Source(
        name=str(path),
        shapes={name: {key: a.shape for key, a in layer.items()} for name, layer in params.items()},
        classes={HEAD: net.classes},
        load=lambda mesh: params,
        changes={"conv1": change},
        trained_videos={},
    )


def _run(path: Path, setup: Setup) -> Source:
    """Return the net of a run's checkpoint: its last, or that of DIR/checkpoints/STEP."""
    workdir, wanted = _workdir_and_step(path, "flow" in setup.config.input.streams)
    with Checkpoints(workdir, read_only=True) as checkpoints:
        steps = checkpoints.steps()
        if not steps or (wanted is not None and wanted not in steps):
            there = f"it has the steps {', '.join(map(str, steps))}" if steps else "it has no finished checkpoint"
            raise UserError(f"init.from={path}: {there}; name one of them, or a run that has been trained")
        step = steps[-1] if wanted is None else wanted
        try:
            stored = checkpoints.config(step)
        except Damaged as error:
            raise _damaged(path, step, steps, error) from error
    validate_run.check_start(stored["config"], setup.config.to_dict(), path)
    for line in _made_otherwise(stored["records"], setup):
        print(line)
    tasks = {task: len(classes) for task, classes in stored["tasks"].items()}
    model = build_model(_section(stored, "model"), tasks)
    params = abstract_params(model, Inputs.of(_section(stored, "input")))

    def load(mesh: Mesh) -> Params:
        try:
            with Checkpoints(workdir, read_only=True) as checkpoints:
                return checkpoints.restore_params(step, params, mesh)
        except Damaged as error:
            raise _damaged(path, step, steps, error) from error

    return Source(
        name=f"step {step} of {workdir}",
        shapes={name: {key: a.shape for key, a in layer.items()} for name, layer in params.items()},
        classes={f"{HEAD}_{task}": tuple(classes) for task, classes in stored["tasks"].items()},
        load=load,
        changes={},
        trained_videos=stored["trained_videos"],
    )


def _section(stored: dict, name: str) -> ConfigDict:
    """Return a section of a run's config; keys younger than the run have the defaults, which is what it did."""
    return ConfigDict(base.get_config()[name].to_dict() | stored["config"][name])


def _workdir_and_step(path: Path, flow: bool) -> tuple[Path, int | None]:
    """Return the run that a path means, and its step, None for the last; of a two-stream run the own stream's."""
    if path.parent.name == "checkpoints" and path.name.isdecimal() and path.parent.is_dir():
        return path.parent.parent, int(path.name)
    stream = path / ("temporal" if flow else "spatial")
    workdir = stream if (stream / "checkpoints").is_dir() else path
    if not (workdir / "checkpoints").is_dir():
        what = "holds no checkpoints" if path.is_dir() else "is no weights" if path.exists() else "is not there"
        raise UserError(
            f"init.from={path}: {what}; give the workdir of a trained run, DIR/checkpoints/STEP, or Oxford's CNN-M as "
            f"{' or '.join(READERS)}"
        )
    return workdir, None


def _made_otherwise(stored: dict[str, dict], setup: Setup) -> list[str]:
    """Return the lines that warn of records made otherwise than the source's, the flow's part where the net takes flow."""
    lines = []
    for task in setup.tasks:
        theirs = stored.get(task.name) or next(iter(stored.values()))
        facts = (theirs, task.facts)
        if "flow" not in setup.config.input.streams:
            facts = tuple({**each, "flow": None} for each in facts)
        lines += validate_run.records_differ(*facts, task.settings.records)
    return lines


def _check_shapes(source: Source, name: str, wanted: Mapping[str, Any]) -> None:
    """Refuse a layer that is missing or of another shape, naming it and the key that makes it so."""
    for key in ("kernel", "bias"):
        ours, theirs = wanted[key].shape, source.shapes.get(name, {}).get(key, ())
        if ours != theirs:
            has = " x ".join(map(str, theirs)) or "missing"
            raise UserError(
                f"{_where(source)}: its {name}/{key} is {has}, this net's {' x '.join(map(str, ours))}; set "
                f"{_shaping_key(name, ours, theirs)} as there, or choose other weights"
            )


def _shaping_key(name: str, ours: tuple[int, ...], theirs: tuple[int, ...]) -> str:
    if name == "conv1" and ours[-2:-1] != theirs[-2:-1]:
        return "input.stack"
    return "input.crop" if name == "full6" and ours[:2] != theirs[:2] else "model.width"


def _where(source: Source) -> str:
    return f"init.from={source.name}"


def _classes_in_words(source: Source, head: str) -> str:
    classes = source.classes[head]
    if not classes:
        return f"{source.shapes[head]['bias'][0]} classes without names"
    return f"{len(classes)} classes, {shown_name(classes[0])} ..."


def _damaged(path: Path, step: int, steps: list[int], error: Damaged) -> UserError:
    others = ", ".join(str(path) for path in steps if path != step) or "none"
    return UserError(
        f"init.from={path}: step {step} is damaged ({error.reason}); name another one (there are: {others})"
    )
