"""init, train_step and eval_step as pure functions, and the only place where they are jitted, donated and sharded."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh

from twostream_jax import losses
from twostream_jax import mesh as meshes
from twostream_jax.metrics import ClipMetrics, correct_by_task
from twostream_jax.optim import trained_part
from twostream_jax.preprocess import CENTRE, TenCrops, eval_frames, eval_inputs, train_inputs
from twostream_jax.state import TrainState


@dataclass(frozen=True)
class Inputs:
    """How a batch of bytes becomes the net's input (the config's `input` section, the part that the device needs)."""

    streams: tuple[str, ...]
    clip_frames: int
    stack: int
    stacking: str  # flow | trajectory
    bidirectional: bool
    crop: int
    mean_subtraction: bool
    lighting: float
    planes: tuple[int, ...] = ()  # of DCT records, those in the batch; () is flow in levels

    @classmethod
    def of(cls, section, planes: tuple[int, ...] = ()) -> Inputs:
        """Return the device's part of a config's `input` section, for flow of these DCT planes."""
        own = {field.name: section[field.name] for field in fields(cls) if field.name != "planes"}
        return cls(**own | {"streams": tuple(section.streams), "planes": planes})

    @property
    def flow(self) -> dict[str, Any]:
        """What both `train_inputs` and `eval_inputs` must know of the flow."""
        return {
            "mean_subtraction": self.mean_subtraction,
            "stacking": self.stacking,
            "bidirectional": self.bidirectional,
            "planes": self.planes,
        }

    def example(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shapes of one preprocessed training sample, which fix the net's parameters."""
        channels = {"rgb": 3, "flow": 2 * self.stack}
        return {
            stream: jax.ShapeDtypeStruct((1, self.clip_frames, self.crop, self.crop, channels[stream]), jnp.float32)
            for stream in self.streams
        }


def abstract_params(model, inputs: Inputs) -> Any:
    """Return the shapes and dtypes of the net's parameters; nothing is computed."""
    # The key is made inside: made out here, it would lie on a device.
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), inputs.example())
    return variables["params"]


def init(
    key: jax.Array,
    loaded: dict[str, Any] | None = None,
    *,
    model,
    optimizer: optax.GradientTransformation,
    inputs: Inputs,
    frozen: tuple[str, ...] = (),
) -> TrainState:
    """Return the state before the first step, drawn from `key`; the layers of `loaded` take the place of drawn ones.

    The optimizer's state is that of the layers not `frozen`, and begins anew whatever is loaded.
    """
    example = {stream: jnp.zeros(shape.shape, shape.dtype) for stream, shape in inputs.example().items()}
    params = model.init(key, example, train=False)["params"] | (loaded or {})
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(trained_part(params, frozen)))


def train_step(
    state: TrainState,
    batch: dict[str, jax.Array],
    key: jax.Array,
    *,
    model,
    optimizer,
    inputs: Inputs,
    tasks: tuple[str, ...],
    frozen: tuple[str, ...] = (),
    accumulate: int = 1,
) -> tuple[TrainState, ClipMetrics]:
    """Return the state after one update on the batch, and the batch's loss and clip accuracy as mergeable sums.

    `key` is the run's; the step's own dropout key is folded from it, so that a resumed run drops what it would have.
    `frozen` layers come out bit for bit as they went in. Dropout acts after full6 and full7 whether they are frozen or
    not: the paper gives its ratio for the net of which only full8 trains too (2014 Table 1a).

    With `accumulate` = A the gradient is the sum over A parts of the batch, computed one after the other: the same but for
    rounding, and for what dropout drops.
    """
    dropout = jax.random.fold_in(key, state.step)
    # Of these alone, so that nothing is computed backwards below the lowest of them.
    trained = trained_part(state.params, frozen)
    totals = losses.task_weights(batch["task"], batch["weight"], len(tasks))

    def loss_of(trained, part, key):
        prepared = train_inputs(part, crop=inputs.crop, lighting_std=inputs.lighting, **inputs.flow)
        logits = model.apply({"params": state.params | trained}, prepared, train=True, rngs={"dropout": key})
        sample = (part["label"], part["task"], part["weight"])
        loss, per_task = losses.multi_task_loss(logits, *sample, tasks, totals)
        return loss, (jnp.stack(list(per_task.values())), correct_by_task(logits, *sample, tasks))

    of_part = jax.grad(loss_of, has_aux=True)
    if accumulate == 1:
        gradients, sums = of_part(trained, batch, dropout)
    else:
        gradients, sums = _accumulated(partial(of_part, trained), batch, dropout, accumulate)
    updates, opt_state = optimizer.update(gradients, state.opt_state, trained)
    params = state.params | optax.apply_updates(trained, updates)
    return TrainState(state.step + 1, params, opt_state), ClipMetrics.of(*sums, totals)


def _accumulated(of_part: Callable, batch: dict[str, jax.Array], key: jax.Array, parts: int) -> Any:
    """Return the sum of `of_part(part, key)`, a tree of arrays, over the parts of a batch.

    Part i has the rows i, i + parts, ...: so each device's rows, which are neighbours, are spread over all parts evenly
    and no row leaves its device.
    """

    def one(index: jax.Array) -> Any:
        rows = {k: v.reshape(v.shape[0] // parts, parts, *v.shape[1:]) for k, v in batch.items()}
        part = {k: lax.dynamic_index_in_dim(v, index, axis=1, keepdims=False) for k, v in rows.items()}
        return of_part(part, jax.random.fold_in(key, index))

    def add(total: Any, index: jax.Array) -> tuple[Any, None]:
        return jax.tree.map(operator.add, total, one(index)), None

    total, _ = lax.scan(add, one(jnp.int32(0)), jnp.arange(1, parts, dtype=jnp.int32))
    return total


def eval_step(
    nets: Sequence[Any],
    batch: dict[str, jax.Array],
    apart: tuple[int, ...] | None = None,
    *,
    model,
    inputs: Inputs,
    crops: int,
) -> list[dict[str, dict]]:
    """Return the scores of every stack: of each net, by head, {"probs", "logits", "centre_probs"}, float32 [B, classes].

    `nets` are the parameters of one net or of several, for all of which the batch is preprocessed once. `probs` and `logits`
    are means over the crops, `centre_probs` the centre crop's alone (2014 Sect. 5: class scores, i.e. softmax, are
    averaged). With `apart` (`TenCrops`), for a net that takes frames and ten crops, conv1 is computed once a frame; without,
    of each crop by itself. The scores are the same but for rounding.
    """
    if apart is None:
        prepared, keywords = eval_inputs(batch, crop=inputs.crop, crops=crops, **inputs.flow), {}
    else:
        assert crops == 10 and model.takes_frames, crops
        size = jnp.repeat(batch["size"], inputs.clip_frames, axis=0)
        prepared, keywords = eval_frames(batch, **inputs.flow), {"crops": TenCrops(inputs.crop, size, apart)}
    by_net = [model.apply({"params": params}, prepared, train=False, **keywords) for params in nets]
    return [{head: _mean_scores(logits, crops) for head, logits in by_head.items()} for by_head in by_net]


def _mean_scores(logits: jax.Array, crops: int) -> dict[str, jax.Array]:
    """Return what `eval_step` does of one head, of logits [B * crops, T, classes]."""
    by_crop = logits.mean(axis=1).reshape(-1, crops, logits.shape[-1])
    probs = jax.nn.softmax(by_crop)
    centre = probs[:, CENTRE if crops > 1 else 0]
    return {"probs": probs.mean(axis=1), "logits": by_crop.mean(axis=1), "centre_probs": centre}


def all_finite(tree: Any) -> jax.Array:
    """Return whether every floating-point number of a tree of arrays is one: bool scalar."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()


def jit_all_finite(mesh: Mesh) -> Callable[[Any], jax.Array]:
    """Return `all_finite(tree)`, jitted over the mesh: one pass over the memory of the arrays."""
    whole = meshes.replicated(mesh)
    return jax.jit(all_finite, in_shardings=whole, out_shardings=whole)


def jit_keys(mesh: Mesh, seed: int) -> tuple[jax.Array, jax.Array]:
    """Return the keys of a run's initialisation and of its steps, made on every device of the mesh."""
    return jax.jit(lambda: tuple(jax.random.split(jax.random.key(seed))), out_shardings=meshes.replicated(mesh))()


def jit_init(mesh: Mesh, **static) -> Callable[..., TrainState]:
    """Return `init(key)` or `init(key, loaded)`, jitted (eager init is far slower), its state replicated over the mesh."""
    return jax.jit(partial(init, **static), out_shardings=meshes.replicated(mesh))


def jit_train_step(mesh: Mesh, **static) -> Callable:
    """Return `train_step(state, batch, key)`, jitted over the mesh: batch rows split, state and metrics replicated.

    Only the state is donated: the new one takes its memory, while batches are still being copied when a step starts.
    """
    whole, rows = meshes.replicated(mesh), meshes.sharded_rows(mesh)
    return jax.jit(
        partial(train_step, **static), in_shardings=(whole, rows, whole), out_shardings=whole, donate_argnums=0
    )


def jit_eval_step(mesh: Mesh, **static) -> Callable:
    """Return `eval_step(nets, batch, apart)`, jitted over the mesh; each device scores its own rows.

    The scores are replicated so that each process reads all.
    """
    whole, rows = meshes.replicated(mesh), meshes.sharded_rows(mesh)

    def step(nets: Sequence[Any], batch: dict[str, jax.Array], apart: tuple[int, ...] | None = None) -> list[dict]:
        of_rows = partial(eval_step, apart=apart, **static)
        specs = (whole.spec, rows.spec)
        return jax.shard_map(of_rows, mesh=mesh, in_specs=specs, out_specs=rows.spec)(nets, batch)

    return jax.jit(step, static_argnums=2, in_shardings=(whole, rows), out_shardings=whole)
