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


@dataclass(frozen=True)
class Start:
    """What a run takes from a source: nothing is left to be refused."""

    source: Source
    loaded: tuple[str, ...]  # layers, by our names
    head: str  # the source's layer that becomes `ours`; empty: full8 begins afresh
    ours: str
    order: tuple[int, ...]  # the source's class for each of ours

    def params(self, mesh: Mesh) -> dict[str, dict[str, Any]]:
        """Return {layer: {"kernel", "bias"}}, replicated over the mesh, of the layers that are not drawn."""
        theirs = self.source.load(mesh)
        taken = {name: dict(theirs[name]) for name in self.loaded}
        if self.head:
            taken[self.ours] = {key: array[..., list(self.order)] for key, array in theirs[self.head].items()}
        return jax.device_put(taken, meshes.replicated(mesh))

    def lines(self) -> list[str]:
        """Return the lines that say of each layer whether it was loaded, adapted or begins afresh."""
        changes = dict(self.source.changes)
        if self.head and self.order != tuple(range(len(self.order))):
            changes[self.ours] = "its classes put into the records' order"
        copied = [name for name in (*self.loaded, *([self.ours] if self.head else [])) if name not in changes]
        lines = [f"begins with {self.source.name}", f"  loaded: {', '.join(copied)}"]
        lines += [f"  adapted: {name} ({what})" for name, what in changes.items()]
        if not self.head:
            lines.append(f"  left fresh: {self.ours}")
        lines += [
            f"  not taken: {name} ({_classes_in_words(self.source, name)})"
            for name in self.source.classes
            if name != self.head
        ]
        return lines


def plan_start(setup: Setup, params: Params, frozen: tuple[str, ...]) -> Start | None:
    """Return what a fresh run takes from `init.from`, None where it is empty; no device is touched.

    params: the net's, by shape. UserError naming init.from where it is not there, damaged or of another net, and where
    a frozen layer would begin afresh.
    """
    if not setup.config.init["from"]:
        return None
    path = Path(setup.config.init["from"])
    source = _oxford(path) if path.suffix.lower() in READERS else _run(path, setup)
    head = next(name for name in params if name.startswith(HEAD))
    hidden = tuple(name for name in params if name != head)
    for name in hidden:
        _check_shapes(source, name, params[name])
    theirs = head if head in source.classes else HEAD
    named = source.classes.get(theirs, ())
    fits = set(named) == set(setup.classes)
    if not fits and head in frozen:
        raise UserError(
            f"init.freeze covers {head}, and {_where(source)} has no {head} of these {len(setup.classes)} classes: it "
            "would stay as drawn; leave it out of init.freeze"
        )
    order = tuple(named.index(name) for name in setup.classes) if fits else ()
    return Start(source, hidden, theirs if fits else "", head, order)


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
    for line in validate_run.records_differ(*_shown_facts(stored["records"], setup), setup.config.data.records):
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


def _shown_facts(stored: dict, setup: Setup) -> tuple[dict, dict]:
    """Return what both sets of records say of themselves, without the flow where the net takes none."""
    facts = (stored, setup.records_facts)
    return facts if "flow" in setup.config.input.streams else tuple({**each, "flow": None} for each in facts)


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
