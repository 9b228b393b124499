"""Checkpoints: the only module with orbax. A step holds the items `state` (arrays) and `config` (one JSON document)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from orbax.checkpoint import v1 as ocp

from input_pipeline.schema import UserError, first_line
from twostream_jax import mesh as meshes

# Name of the metric that orders checkpoints: clip accuracy on the validation groups.
BEST = "validation_accuracy"


class Checkpoints:
    """The checkpoints of one run, in `<workdir>/checkpoints`: the latest two and the best on the validation groups.

    Saving is asynchronous; `close` (or leaving the `with` block) waits for what is under way. A save cut off by a crash
    leaves a folder with a temporary name, which is never read.
    """

    def __init__(self, workdir: Path, *, read_only: bool = False):
        self.folder = Path(workdir).resolve() / "checkpoints"
        if read_only and not self.folder.is_dir():
            raise UserError(f"--workdir={workdir}: holds no checkpoints; train there first, or name another workdir")
        policies = ocp.training.preservation_policies
        best = policies.BestN(get_metric_fn=lambda m: m[BEST], n=1, keep_checkpoints_without_metrics=False)
        self._checkpointer = ocp.training.Checkpointer(
            self.folder,
            context=_context(),
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(2), best]),
            cleanup_tmp_directories=not read_only,
        )

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def close(self) -> None:
        """Wait for the save under way."""
        self._checkpointer.close()

    def steps(self) -> list[int]:
        """Return the saved steps, ascending."""
        return sorted(c.step for c in self._checkpointer.checkpoints)

    def best_step(self) -> int | None:
        """Return the step that was best on the validation groups (the later one of equals), or None without any."""
        scored = [(c.metrics[BEST], c.step) for c in self._checkpointer.checkpoints if c.metrics]
        return max(scored)[1] if scored else None

    def save(self, step: int, state: Any, config: dict, validation_accuracy: float | None) -> None:
        """Start saving a step; the arrays are copied off the device before this returns, so the state may be donated."""
        metrics = None if validation_accuracy is None else {BEST: float(validation_accuracy)}
        # A step that stands there already was found damaged when the run resumed from the one before.
        self._checkpointer.save_checkpointables_async(
            step, {"state": state, "config": config}, force=True, overwrite=step in self.steps(), metrics=metrics
        )

    def config(self, step: int) -> dict:
        """Return the `config` item of a step: {"config", "tasks", "records", ...} as the run wrote it."""
        with self._reading(step), _context():
            return ocp.load_checkpointables(self.folder / str(step), {"config": None})["config"]

    def restore(self, step: int, abstract_state: Any, mesh: Mesh) -> Any:
        """Return the state of a step, replicated over the mesh; `abstract_state` gives its tree, shapes and dtypes.

        Raises UserError naming the first array that is stored otherwise (orbax itself would cast dtypes silently).
        """
        self._check_arrays(step, abstract_state)
        with self._reading(step):
            return self._checkpointer.load_checkpointables(step, {"state": _on_mesh(abstract_state, mesh)})["state"]

    def restore_params(self, step: int, abstract_params: Any, mesh: Mesh) -> Any:
        """Return the parameters of a step alone, without the optimizer's arrays; otherwise as `restore`."""
        wanted = {"params": abstract_params}
        self._check_arrays(step, wanted)
        with self._reading(step), _context(partial_load=True):
            loaded = ocp.load_checkpointables(self.folder / str(step), {"state": _on_mesh(wanted, mesh)})
        return loaded["state"]["params"]

    @contextlib.contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        """Turn whatever goes wrong inside into one line: orbax reports damage in many ways."""
        try:
            yield
        except Exception as error:
            others = ", ".join(str(other) for other in self.steps() if other != step) or "none"
            raise UserError(
                f"{self.folder / str(step)}: damaged ({first_line(error)}); choose another step with "
                f"--config.eval.checkpoint (there are: {others}), or train again"
            ) from error

    def _check_arrays(self, step: int, wanted: Any) -> None:
        with self._reading(step), _context():
            metadata = ocp.metadata(self.folder / str(step), checkpointable_name="state").metadata
        stored = {_path(keys): leaf for keys, leaf in jax.tree_util.tree_leaves_with_path(metadata)}
        for keys, leaf in jax.tree_util.tree_leaves_with_path(wanted):
            found = stored.get(_path(keys))
            ours = f"{leaf.dtype}{list(leaf.shape)}"
            theirs = "absent" if found is None else f"{found.dtype}{list(found.shape)}"
            if ours != theirs:
                raise UserError(
                    f"{self.folder / str(step)}: {_path(keys)} is {theirs}, this config's net has {ours}; "
                    "use the config that the run was trained with, or another step if this one is damaged"
                )


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
