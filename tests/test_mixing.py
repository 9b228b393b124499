"""Batches of several tasks: how many samples each has, which videos they are of, and the loss of a real batch by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from two_sets import prepare_other, together

from input_pipeline import pipeline, sampling
from twostream_jax import mesh as meshes
from twostream_jax import steps
from twostream_jax.drivers.setup import Setup
from twostream_jax.optim import make_optimizer
from twostream_jax.preprocess import train_inputs

DRAW = {"before": 0, "after": 3, "crop": 41, "flip": True}


@pytest.fixture(scope="module")
def other(tiny_config, tmp_path_factory):
    return prepare_other(tmp_path_factory.mktemp("two"), tiny_config)


@pytest.fixture
def mixed(config, other):
    """A config of both tasks, 3 : 1, whose batch of 16 has 12 and 4 samples."""
    return together(config, other)


@pytest.mark.parametrize(
    ("batch_size", "shares", "low"),
    [(16, (3.0, 1.0), (12, 4)), (10, (0.5, 0.25, 0.25), (5, 2, 2)), (8, (0.99, 0.01), (7, 0)), (1, (1, 2), (0, 0))],
)
def test_counts_are_the_quotas_rounded_and_exact_on_average(batch_size, shares, low):
    rng = np.random.default_rng(0)
    counts = np.stack([sampling.task_counts(rng, batch_size, shares) for _ in range(4000)])
    assert (counts.sum(axis=1) == batch_size).all()
    assert (counts >= low).all() and (counts <= np.asarray(low) + 1).all()
    quotas = batch_size * np.asarray(shares) / sum(shares)
    # A count is one of two neighbours: its deviation is at most 1/2, that of the mean of 4000 at most .008.
    np.testing.assert_allclose(counts.mean(axis=0), quotas, atol=4 * 0.008)


def test_one_task_draws_what_it_drew_without_tasks(config):
    table = Setup.of(config).only.table("train")
    alone = sampling.train_indices(np.random.default_rng(5), table, 16, **DRAW)
    mixed = sampling.mixed_indices(np.random.default_rng(5), (table,), (1.0,), 16, **DRAW)
    assert not mixed.pop("task").any()
    for key, value in alone.items():
        np.testing.assert_array_equal(mixed[key], value)


def batches_of(config, count, rows=None):
    setup = Setup.of(config)
    shares = tuple(task.settings.share for task in setup.tasks)
    tables = tuple(task.table("train") for task in setup.tasks)
    draw = pipeline.DrawBatch(tables, config.train.batch_size, *setup.span, 41, True, 3, shares)
    reading = pipeline.Reading(num_threads=2) if rows is None else pipeline.Reading(2, 0, *rows)
    records = [task.records for task in setup.tasks]
    batches = list(pipeline.train_batches(records, draw, setup.window(41), start_step=0, steps=count, reading=reading))
    return setup, draw, batches


def test_each_sample_is_of_its_own_tasks_records(mixed):
    setup, draw, (batch, *_) = batches_of(mixed, 2)
    assert np.bincount(batch["task"]).tolist() == [12, 4]
    assert len(np.flatnonzero(np.diff(batch["task"]))) > 1, "the tasks' samples stand in blocks"
    drawn = draw(0)
    for b, task in enumerate(batch["task"]):
        records = setup.tasks[task].records
        video = int(drawn["video"][b])
        assert batch["label"][b] == records.videos[video].label
        levels, means, bound_px = records.flow(video, int(drawn["anchor"][b]), 3)
        y, x = drawn["y"][b], drawn["x"][b]
        np.testing.assert_array_equal(np.moveaxis(batch["flow"][b, 0], 1, -1), levels[:, y : y + 41, x : x + 41])
        np.testing.assert_array_equal(batch["mean"][b, 0], means)
        assert batch["bound"][b] == np.float32(bound_px)


def test_two_processes_read_halves_of_the_same_batch(mixed):
    whole = batches_of(mixed, 2)[2]
    halves = [batches_of(mixed, 2, rows=(process, 2))[2] for process in (0, 1)]
    for k, batch in enumerate(whole):
        for key, value in batch.items():
            np.testing.assert_array_equal(value, np.concatenate([half[k][key] for half in halves]))


def by_hand(logits, batch, tasks):
    """Return {task: loss} by float64 loops over the samples of a batch."""
    losses = {}
    for index, name in enumerate(tasks):
        own = [b for b in range(len(batch["task"])) if batch["task"][b] == index and batch["weight"][b] > 0]
        entropies = []
        for b in own:
            z = np.asarray(logits[name], np.float64)[b, 0]
            entropies.append(np.log(np.exp(z - z.max()).sum()) + z.max() - z[batch["label"][b]])
        losses[name] = float(np.mean(entropies)) if own else 0.0
    return losses


def lonely(batch):
    """Return the batch with its samples of the second task made padding: it holds none of that task."""
    return batch | {"weight": np.where(batch["task"] == 1, 0, batch["weight"]).astype(np.float32)}


@pytest.mark.parametrize("absent", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_loss_is_hand_arithmetic_sharded_and_accumulated(mixed, absent):
    """And the updated parameters are those of one device and one part."""
    mixed.model.dropout = 0.0
    setup, _, (batch, *_) = batches_of(mixed, 1)
    batch = lonely(batch) if absent else batch
    model, optimizer, tasks = setup.model(setup.heads), make_optimizer(mixed.optim), tuple(setup.heads)
    create = jax.jit(lambda key: steps.init(key, model=model, optimizer=optimizer, inputs=setup.inputs))
    first = jax.device_get(create(jax.random.key(0)))
    prepared = jax.jit(lambda b: train_inputs(b, crop=41, lighting_std=0.0, **setup.inputs.flow))(batch)
    logits = jax.jit(lambda x: model.apply({"params": first.params}, x, train=False))(prepared)
    wanted = by_hand(logits, batch, tasks)
    assert (wanted["second"] == 0.0) == absent and wanted["first"] > 0.5
    results = {}
    for devices, accumulate in [(1, 1), (1, 4), (8, 2)]:
        mesh = meshes.make_mesh(jax.devices()[:devices])
        static = {"model": model, "optimizer": optimizer, "inputs": setup.inputs, "tasks": tasks}
        step = steps.jit_train_step(mesh, **static, accumulate=accumulate)
        state = jax.device_put(jax.tree.map(jnp.asarray, first), meshes.replicated(mesh))
        state, metrics = step(state, meshes.put_batch(batch, mesh), jax.random.key(1))
        found = metrics.compute(tasks)
        # float32 sums of 12 terms: measured 2e-7 relative.
        assert found["loss"] == pytest.approx(sum(wanted.values()), rel=2e-6)
        for name, loss in wanted.items():
            assert found.get(f"loss_{name}", 0.0) == pytest.approx(loss, rel=2e-6)
        results[devices, accumulate] = jax.device_get(state.params)
    for params in results.values():
        for a, b in zip(jax.tree.leaves(results[1, 1]), jax.tree.leaves(params), strict=True):
            # The update is rate 0.01 times a gradient summed in another order.
            np.testing.assert_allclose(a, b, atol=2e-7)
    if absent:
        decay = mixed.optim.weight_decay * mixed.optim.learning_rate
        before, after = (p["full8_second"] for p in (first.params, results[1, 1]))
        np.testing.assert_array_equal(after["bias"], before["bias"])
        np.testing.assert_allclose(after["kernel"], before["kernel"] * (1 - decay), rtol=1e-6)


def test_parts_of_a_sharded_batch_stay_on_their_devices(mixed):
    setup, _, (batch, *_) = batches_of(mixed, 1)
    model, optimizer = setup.model(setup.heads), make_optimizer(mixed.optim)
    mesh = meshes.make_mesh(jax.devices()[:8])
    static = {"model": model, "optimizer": optimizer, "inputs": setup.inputs}
    step = steps.jit_train_step(mesh, **static, tasks=tuple(setup.heads), accumulate=2)
    state = steps.jit_init(mesh, **static)(jax.random.key(0))
    text = step.lower(state, meshes.put_batch(batch, mesh), jax.random.key(1)).compile().as_text()
    moved = [line for line in text.splitlines() if " u8[" in line and ("all-gather(" in line or "all-to-all(" in line)]
    assert moved == [] and "all-reduce" in text
