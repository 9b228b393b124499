"""Training and evaluation steps: eight devices equal to one, what is donated, what a step computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from input_pipeline import pipeline
from twostream_jax import mesh as meshes
from twostream_jax import steps
from twostream_jax.drivers.setup import Setup
from twostream_jax.optim import make_optimizer
from twostream_jax.preprocess import FLOW_SCALE_PX

STEPS = 10


def build(config, devices):
    """Return what a run of this config on these devices is made of: setup, mesh, model, optimizer, first state."""
    setup, mesh = Setup.of(config), meshes.make_mesh(devices)
    model, optimizer = setup.model({"t": 9}), make_optimizer(config.optim)
    state = steps.jit_init(mesh, model=model, optimizer=optimizer, inputs=setup.inputs)(jax.random.key(0))
    return setup, mesh, model, optimizer, state


def run_steps(config, devices, count):
    """Return the losses and clip accuracies of the first steps, and the final state, on these devices."""
    setup, mesh, model, optimizer, state = build(config, devices)
    draw = pipeline.DrawBatch(
        (setup.only.table("train"),), config.train.batch_size, *setup.span, config.input.crop, True, 0
    )
    window = setup.window(config.input.crop)
    batches = pipeline.train_batches(
        [setup.only.records], draw, window, start_step=0, steps=count, reading=pipeline.Reading(num_threads=1)
    )
    step = steps.jit_train_step(mesh, model=model, optimizer=optimizer, inputs=setup.inputs, tasks=("t",))
    lines = []
    for batch in batches:
        state, metrics = step(state, meshes.put_batch(batch, mesh), jax.random.key(1))
        lines.append(metrics.compute())
    return lines, state


@pytest.fixture
def wide(config):
    """The temporal net at an eighth of its width, dropout off."""
    config.model.width, config.model.dropout = 1 / 8, 0.0
    return config


def spatial(config):
    config.model.name, config.input.streams = "cnn_m_spatial", ("rgb",)
    return config


@pytest.mark.parametrize("stream", ["temporal", pytest.param("spatial", marks=pytest.mark.slow)])
def test_eight_devices_give_the_losses_of_one(wide, stream):
    config = spatial(wide) if stream == "spatial" else wide
    one, state_one = run_steps(config, jax.devices()[:1], STEPS)
    eight, state_eight = run_steps(config, jax.devices()[:8], STEPS)
    for a, b in zip(one, eight, strict=True):
        # The same sums in another order: measured 1e-7 relative and below.
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
        assert a["clip_accuracy"] == b["clip_accuracy"]
    for a, b in zip(jax.tree.leaves(state_one.params), jax.tree.leaves(state_eight.params), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=2e-5)
    assert len(one) == STEPS and one[-1]["loss"] < one[0]["loss"]


def test_the_old_state_is_donated_and_only_it(config):
    """And dropout is drawn from the step's number, the same in every process."""
    config.model.dropout = 0.5
    setup, mesh, model, optimizer, state = build(config, jax.devices()[:1])
    step = steps.jit_train_step(mesh, model=model, optimizer=optimizer, inputs=setup.inputs, tasks=("t",))
    draw = pipeline.DrawBatch((setup.only.table("train"),), 16, *setup.span, config.input.crop, True, 0)
    (batch,) = pipeline.train_batches(
        [setup.only.records], draw, setup.window(41), start_step=0, steps=1, reading=pipeline.Reading(num_threads=1)
    )
    on_device = meshes.put_batch(batch, mesh)
    twin = jax.tree.map(jnp.copy, state)
    later = twin.replace(step=twin.step + 1)
    kept = jax.tree.map(jnp.copy, later)
    new, metrics = step(state, on_device, jax.random.key(0))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((new, on_device)))
    assert int(new.step) == 1
    _, again = step(twin.replace(step=jnp.zeros((), jnp.int32)), on_device, jax.random.key(0))
    _, other = step(kept, on_device, jax.random.key(0))
    assert metrics.compute() == again.compute() != other.compute()


def test_eval_scores_are_the_softmax_of_each_crop_averaged(config):
    setup, mesh, model, _, state = build(config, jax.devices()[:1])
    rng = np.random.default_rng(0)
    batch = {
        "flow": rng.integers(0, 256, (2, 1, 3, 2, 48, 60), dtype=np.uint8),
        "mean": rng.normal(size=(2, 1, 3, 2)).astype(np.float32),
        "bound": np.full(2, 8, np.float32),
        "size": np.tile(np.asarray([48, 60], np.int32), (2, 1)),
    }
    scores = steps.jit_eval_step(mesh, model=model, inputs=setup.inputs, crops=10)(
        (state.params,), meshes.put_batch(batch, mesh)
    )[0]["t"]
    # By hand: every crop cut, mirrored and scored on its own.
    px = batch["flow"].astype(np.float32) * (16 / 255) - 8 - batch["mean"][..., None, None]
    score = jax.jit(lambda params, flow: model.apply({"params": params}, {"flow": flow}, train=False)["t"][:, 0])
    by_crop = []
    for y, x in [(0, 0), (0, 19), (7, 0), (7, 19), (3, 9)]:
        cut = px[..., y : y + 41, x : x + 41]
        mirrored = cut[..., ::-1] * np.asarray([-1, 1], np.float32)[:, None, None]
        for flow in (cut, mirrored):
            stack = np.moveaxis(flow.reshape(2, 1, 6, 41, 41), 2, -1) / np.float32(FLOW_SCALE_PX)
            by_crop.append(np.asarray(score(state.params, stack)))
    probs = [np.exp(z - z.max(1, keepdims=True)) for z in by_crop]
    probs = [p / p.sum(1, keepdims=True) for p in probs]
    # Float32 sums over some thousand products in another order.
    np.testing.assert_allclose(scores["probs"], np.mean(probs, axis=0), atol=1e-5)
    np.testing.assert_allclose(scores["logits"], np.mean(by_crop, axis=0), atol=1e-4)
    np.testing.assert_allclose(scores["centre_probs"], probs[8], atol=1e-5)
    one_crop = steps.jit_eval_step(mesh, model=model, inputs=setup.inputs, crops=1)(
        (state.params,), meshes.put_batch(batch, mesh)
    )[0]["t"]
    np.testing.assert_allclose(one_crop["probs"], probs[8], atol=1e-5)


@pytest.mark.slow
def test_bfloat16_computes_near_float32_on_float32_parameters(config):
    config.train.batch_size = 8
    exact, _ = run_steps(config, jax.devices()[:1], 2)
    config.train.dtype = "bfloat16"
    rounded, state = run_steps(config, jax.devices()[:1], 2)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state.params))
    for a, b in zip(exact, rounded, strict=True):
        # bfloat16 keeps 8 bits: 2^-8 = .4 % a layer, over eight layers.
        assert a["loss"] == pytest.approx(b["loss"], rel=0.03) and a["loss"] != b["loss"]


def test_a_single_number_that_is_none_is_found():
    tree = {"a": jnp.ones((3, 4)), "b": (jnp.zeros(2, jnp.bfloat16), jnp.asarray(7))}
    finite = steps.jit_all_finite(meshes.make_mesh(jax.devices()[:2]))
    assert bool(finite(tree))
    for value in (np.nan, np.inf, -np.inf):
        assert not bool(finite(tree | {"a": tree["a"].at[2, 1].set(value)}))
        assert not bool(finite(tree | {"b": (tree["b"][0].at[0].set(value), tree["b"][1])}))
