"""Checkpoints: the only module with orbax. A step holds the items `state` (arrays) and `config` (one JSON document)."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import shutil
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from orbax.checkpoint import v1 as ocp

from input_pipeline.schema import UserError
from twostream_jax import mesh as meshes
from twostream_jax.disk_errors import as_os_error, cause, leave_out_orbax, unfinished_tasks_hidden, why
from twostream_jax.files import cannot_write
from twostream_jax.validate_run import config_item_by_task

# Key of the accuracy that orders checkpoints: that of whole videos of the validation groups, centre crop.
BEST = "validation_accuracy"

# What orbax adds to the name of a folder that it is still writing.
UNFINISHED = ".orbax-checkpoint-tmp"


class Damaged(UserError):
    """A checkpoint that cannot be read, or reads otherwise than it was written; `reason` says what is wrong with it."""

    def __init__(self, where: Path, reason: str, advice: str):
        super().__init__(f"{where}: damaged ({reason}); {advice}")
        self.reason = reason


class Checkpoints:
    """The checkpoints of one run, in `<workdir>/checkpoints`: the latest two and the best on the validation groups.

    Saving is asynchronous; `wait`, `close` and leaving the `with` block wait for it. A save cut off by a crash leaves a
    folder with a temporary name, which is never read. What is read is compared with checksums taken of the arrays in
    memory before they were saved: orbax does not notice bits that changed on the disk.
    """

    def __init__(self, workdir: Path, *, read_only: bool = False):
        self.folder = Path(workdir).resolve() / "checkpoints"
        if read_only and not self.folder.is_dir():
            raise UserError(f"--workdir={workdir}: holds no checkpoints; train there first, or name another workdir")
        self._read_only, self._saving, self._failed = read_only, None, False
        # Of each intact step, None without validation; orbax's own metrics, once damaged, keep all steps shut.
        self._accuracy: dict[int, float | None] = {}
        leave_out_orbax()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for left in () if read_only or jax.process_index() else self.folder.glob(f"*{UNFINISHED}*"):
                shutil.rmtree(left)
            keep_all = ocp.training.preservation_policies.PreserveAll()
            self._checkpointer = ocp.training.Checkpointer(
                self.folder, context=_context(), preservation_policy=keep_all
            )
        except OSError as error:
            raise cannot_write(self.folder, error) from error
        self._steps = {checkpoint.step for checkpoint in self._checkpointer.checkpoints}
        for step in self.steps():
            with contextlib.suppress(Damaged):
                self._accuracy[step] = self._document(step)[BEST]

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind, error, traceback) -> None:
        try:
            self.close()
        except UserError as failed:
            # Of two errors the first is the one to raise; an ordered stop is none.
            if not isinstance(error, Exception):
                raise
            print(f"warning: {failed}", file=sys.stderr)

    def close(self) -> None:
        """Wait for the save under way; UserError where it fails."""
        if not self._failed:
            self.wait()
            self._write(self._checkpointer.close)

    def wait(self) -> None:
        """Wait for the save under way and remove what it supersedes; UserError where it fails."""
        if self._saving is not None:
            self._write(self._saving.result)
            self._saving = None
            self._write(self._remove_superseded)

    def steps(self) -> list[int]:
        """Return the saved steps, ascending."""
        return sorted(self._steps)

    def best_step(self) -> int | None:
        """Return the step that was best on the validation groups (the later one of equals), or None without any."""
        rated = [(accuracy, step) for step, accuracy in self._accuracy.items() if accuracy is not None]
        return max(rated)[1] if rated else None

    def save(self, step: int, state: Any, config: dict, validation_accuracy: float | None) -> None:
        """Start saving a step; the arrays are copied off the device before this returns, so the state may be donated.

        UserError where this or the save before it fails, for want of room or rights; the checkpoints there are kept.
        """
        self.wait()
        accuracy = None if validation_accuracy is None else float(validation_accuracy)
        document = {**config, BEST: accuracy, "checksums": checksums(state)}
        document["checksum"] = _text_checksum(document)
        # A step that stands there already was found damaged when the run resumed from the one before.
        overwrite = step in self._steps

        def start() -> None:
            self._saving = self._checkpointer.save_checkpointables_async(
                step, {"state": state, "config": document}, force=True, overwrite=overwrite
            )

        self._write(start)
        self._steps.add(step)
        self._accuracy[step] = accuracy

    def _remove_superseded(self) -> None:
        """Remove all steps but the latest two that are intact, and the best.

        Under another name first: orbax would remove the files one by one where they stand, and a crash between two of
        them leave what looks like a damaged checkpoint.
        """
        kept = {*sorted(self._accuracy)[-2:], self.best_step()}
        for step in self._steps - kept:
            self._steps.discard(step)
            self._accuracy.pop(step, None)
            if jax.process_index() == 0:
                aside = self.folder / f"{step}{UNFINISHED}"
                os.replace(self.folder / str(step), aside)
                shutil.rmtree(aside)

    def config(self, step: int) -> dict:
        """Return the `config` item of a step: {"config", "tasks", "records", ...} as the run wrote it."""
        ours = (BEST, "checksums", "checksum")
        return config_item_by_task({key: value for key, value in self._document(step).items() if key not in ours})

    def restore(self, step: int, abstract_state: Any, mesh: Mesh) -> Any:
        """Return the state of a step, replicated over the mesh; `abstract_state` gives its tree, shapes and dtypes.

        Raises Damaged, and UserError naming the first array that is stored otherwise (orbax would cast dtypes silently).
        """
        self._check_arrays(step, abstract_state)
        wanted = {"state": _on_mesh(abstract_state, mesh)}
        state = self._read(step, "state", lambda: self._checkpointer.load_checkpointables(step, wanted)["state"])
        self._check_sums(step, state)
        return state

    def restore_params(self, step: int, abstract_params: Any, mesh: Mesh) -> Any:
        """Return the parameters of a step alone, without the optimizer's arrays; otherwise as `restore`."""
        wanted = {"params": abstract_params}
        self._check_arrays(step, wanted)

        def load() -> Any:
            with _context(partial_load=True):
                return ocp.load_checkpointables(self.folder / str(step), {"state": _on_mesh(wanted, mesh)})["state"]

        state = self._read(step, "state", load)
        self._check_sums(step, state)
        return state["params"]

    def _document(self, step: int) -> dict:
        """Return the `config` item whole, once it agrees with its own checksum."""

        def load() -> Any:
            with _context():
                return ocp.load_checkpointables(self.folder / str(step), {"config": None})["config"]

        document = self._read(step, "config", load)
        if not isinstance(document, dict) or "checksum" not in document:
            raise self._damaged(step, "its config has no checksum, as with the first versions of this program")
        if document.pop("checksum") != _text_checksum(document):
            raise self._damaged(step, "its config does not agree with its checksum")
        return document

    def _check_arrays(self, step: int, wanted: Any) -> None:
        def load() -> Any:
            with _context():
                return ocp.metadata(self.folder / str(step), checkpointable_name="state").metadata

        metadata = self._read(step, "state", load)
        stored = {_path(keys): leaf for keys, leaf in jax.tree_util.tree_leaves_with_path(metadata)}
        for keys, leaf in jax.tree_util.tree_leaves_with_path(wanted):
            found = stored.get(_path(keys))
            if found is None:
                raise self._damaged(step, f"its state holds no {_path(keys)}")
            ours, theirs = (f"{array.dtype}{list(array.shape)}" for array in (leaf, found))
            if ours != theirs:
                raise UserError(
                    f"{self.folder / str(step)}: {_path(keys)} is {theirs}, this config's net has {ours}; "
                    "use the config that the run was trained with"
                )

    def _check_sums(self, step: int, state: Any) -> None:
        stored = self._document(step)["checksums"]
        for part, found in checksums(state).items():
            if stored[part] != found:
                raise self._damaged(step, f"its {part} do not agree with their checksum")

    def _read(self, step: int, item: str, load: Callable[[], Any]) -> Any:
        """Return `load()`; Damaged where it fails: orbax reports damage in many ways."""
        handled = sys.exception()
        with unfinished_tasks_hidden():
            try:
                return load()
            except Exception as error:
                if isinstance(cause(error, handled), MemoryError | jax.errors.JaxRuntimeError):
                    raise  # says nothing of what lies on the disk
                reason = f"its {item} cannot be read: {why(cause(error, handled))}"
            gc.collect()
        # Raised out here so that it holds on to none of orbax's objects.
        raise self._damaged(step, reason)

    def _damaged(self, step: int, reason: str) -> Damaged:
        self._accuracy.pop(step, None)
        others = ", ".join(str(other) for other in self.steps() if other != step) or "none"
        advice = "an earlier step is needed"
        if self._read_only:
            advice = f"choose another step with --config.eval.checkpoint (there are: {others}), or train again"
        return Damaged(self.folder / str(step), reason, advice)

    def _write(self, work: Callable[[], Any]) -> None:
        """Call `work`; UserError where the disk refuses it, in this call or in the background since the last."""
        handled = sys.exception()
        with unfinished_tasks_hidden():
            try:
                work()
                return
            except Exception as error:
                self._failed = True
                refused = as_os_error(cause(error, handled))
                if refused is None:
                    raise
            gc.collect()
        raise cannot_write(self.folder, refused)


def checksums(state: Any) -> dict[str, int]:
    """Return the CRC-32 over the bytes of all arrays, in tree order, of each top-level part of a state."""
    sums: dict[str, int] = {}
    for keys, leaf in jax.tree_util.tree_leaves_with_path(state):
        part = _path(keys[:1])
        # As bytes, since bfloat16 is no type that the buffer protocol knows.
        data = np.ascontiguousarray(leaf).reshape(-1).view(np.uint8)
        sums[part] = zlib.crc32(data, sums.get(part, 0))
    return sums


def _text_checksum(document: dict) -> int:
    return zlib.crc32(json.dumps(document, sort_keys=True).encode())


def _path(keys) -> str:
    """Return a tree path as words: what was an attribute in memory is a dict's key on disk."""
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", "")))) for key in keys)


def _on_mesh(abstract: Any, mesh: Mesh) -> Any:
    sharding = meshes.replicated(mesh)
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), abstract)


def _context(partial_load: bool = False) -> ocp.Context:
    registry = ocp.handlers.local_registry()
    registry.add(ocp.handlers.JsonHandler, checkpointable_name="config")
    context = ocp.Context()
    context.checkpointables.registry = registry
    context.pytree.loading.partial_load = partial_load
    return context


def choose_step(checkpoints: Checkpoints, wanted: str) -> int:
    """Return the step that `eval.checkpoint` names: 'last', 'best' or a number."""
    steps = checkpoints.steps()
    if not steps:
        raise UserError(f"{checkpoints.folder}: holds no finished checkpoint; train further, or name another --workdir")
    if wanted == "last":
        return steps[-1]
    if wanted == "best":
        best = checkpoints.best_step()
        if best is None:
            raise UserError(
                "eval.checkpoint=best: this run held out no validation groups; "
                "train with data.validation_fraction > 0, or use eval.checkpoint=last"
            )
        return best
    if not wanted.isdecimal() or int(wanted) not in steps:
        listed = ", ".join(map(str, steps))
        raise UserError(f"eval.checkpoint={wanted}: not among the saved steps {listed}, nor 'last' or 'best'")
    return int(wanted)
