"""Frozen layers: no backward pass, no optimizer memory, no drift; and which patterns are refused."""

import contextlib
import functools
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trained import same_arrays

from input_pipeline.schema import UserError
from twostream_jax import mesh as meshes
from twostream_jax import steps
from twostream_jax.checkpoint import Checkpoints
from twostream_jax.drivers import inspect
from twostream_jax.drivers.setup import Setup
from twostream_jax.drivers.train import train
from twostream_jax.optim import frozen_layers, make_optimizer, trained_part

LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "full6", "full7", "full8_t")
ALL_BUT_FULL8 = LAYERS[:-1]


@pytest.mark.parametrize(
    ("patterns", "frozen"),
    [
        ((), ()),
        (("conv*", "full6", "full7"), ALL_BUT_FULL8),
        (("conv1",), ("conv1",)),
        (("full[67]", "conv[12]"), ("conv1", "conv2", "full6", "full7")),
        (("full8_*",), ("full8_t",)),
        (("conv*", "conv1"), LAYERS[:5]),
    ],
)
def test_patterns(patterns, frozen):
    assert frozen_layers(reversed(LAYERS), patterns) == frozen
    params = {name: name for name in LAYERS}
    assert trained_part(params, frozen) == {name: name for name in LAYERS if name not in frozen}


@pytest.mark.parametrize("pattern", ["conv9", "Conv*", "", "full8", "conv1/kernel"])
def test_a_pattern_that_covers_nothing_is_refused(pattern):
    with pytest.raises(
        UserError, match=r"^init\.freeze='.*': covers no layer of the net; it has conv1, conv2.*full8_t$"
    ):
        frozen_layers(LAYERS, ("conv1", pattern))


def test_nothing_left_to_train_is_refused():
    with pytest.raises(
        UserError, match=r"^init\.freeze=\*: covers every layer, so nothing would train; leave one out$"
    ):
        frozen_layers(LAYERS, ("*",))


def build(config, frozen):
    """Return (state, batch, key, step function) of a spatial net, all of them by shape."""
    config.model.name, config.input.streams, config.model.dropout = "cnn_m_spatial", ("rgb",), 0.5
    setup = Setup.of(config)
    model, optimizer = setup.model({"t": 9}), make_optimizer(config.optim)
    static = {"model": model, "optimizer": optimizer, "inputs": setup.inputs, "frozen": frozen}
    shapes = {
        "rgb": ((4, 1, 41, 41, 3), jnp.uint8), "crop": ((4, 4), jnp.int32), "flip": ((4,), jnp.bool_),
        "lighting": ((4, 3), jnp.float32), "label": ((4,), jnp.int32), "task": ((4,), jnp.int32),
        "weight": ((4,), jnp.float32),
    }  # fmt: skip
    batch = {name: jax.ShapeDtypeStruct(*shape) for name, shape in shapes.items()}
    state = jax.eval_shape(lambda key: steps.init(key, **static), jax.random.key(0))

    def step(state, batch, key):
        return steps.train_step(state, batch, key, tasks=("t",), **static)

    return state, batch, step


def count(jaxpr, primitive: str) -> int:
    """Return how often a primitive stands in a jaxpr, those inside it counted too."""
    found = 0
    for equation in jaxpr.eqns:
        found += equation.primitive.name == primitive
        for value in equation.params.values():
            # A jaxpr, one with its constants, or several.
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                found += count(inner, primitive) if hasattr(inner, "eqns") else 0
    return found


@pytest.mark.parametrize(
    ("frozen", "convolutions"),
    [
        # Five forwards, and backwards two a layer but for conv1, whose input needs no gradient.
        ((), 5 + 5 + 4),
        # What is below the lowest layer that trains is not gone back to.
        (("conv1",), 5 + 4 + 3),
        (("conv1", "conv2", "conv3", "conv4"), 5 + 1),
        (ALL_BUT_FULL8, 5),
        # A frozen layer in between passes the gradient on, and has none of its own.
        (("conv2",), 5 + 4 + 4),
    ],
)
def test_frozen_layers_have_no_backward_pass(config, frozen, convolutions):
    state, batch, step = build(config, frozen)
    jaxpr = jax.make_jaxpr(step)(state, batch, jax.eval_shape(lambda: jax.random.key(0)))
    assert count(jaxpr.jaxpr, "conv_general_dilated") == convolutions


def test_the_optimizer_has_no_memory_of_frozen_layers(config):
    state, _, _ = build(config, ALL_BUT_FULL8)
    shapes = sorted(leaf.shape for leaf in jax.tree.leaves(state.opt_state))
    # Momentum of full8's bias and kernel, and the schedule's count.
    assert shapes == [(), (9,), (128, 9)]
    assert set(state.params) == set(LAYERS)


@pytest.fixture(scope="module")
def frozen_run(tiny_config, tmp_path_factory):
    """A run of which only full8 trains, for four steps: (config, workdir, what it printed)."""
    config = tiny_config.copy_and_resolve_references()
    config.init.freeze = ("conv*", "full6", "full7")
    config.model.dropout, config.train.steps, config.train.checkpoint_every = 0.5, 4, 2
    workdir, everyone, printed = tmp_path_factory.mktemp("frozen") / "run", jax.devices(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(jax, "devices", lambda *_: everyone[:1])
        train(config, workdir)
    return config, workdir, printed.getvalue()


def saved_states(config, workdir):
    """Return the function that draws the first state, and the states of the checkpoints: {step: state}."""
    setup, mesh = Setup.of(config), meshes.make_mesh(jax.devices()[:1])
    model = setup.model(setup.heads)
    frozen = frozen_layers(steps.abstract_params(model, setup.inputs), config.init.freeze)
    optimizer = make_optimizer(config.optim)
    create = steps.jit_init(mesh, model=model, optimizer=optimizer, inputs=setup.inputs, frozen=frozen)
    create = functools.partial(create, steps.jit_keys(mesh, config.seed)[0])
    with Checkpoints(workdir, read_only=True) as checkpoints:
        abstract = jax.eval_shape(create)
        return create, {step: checkpoints.restore(step, abstract, mesh) for step in checkpoints.steps()}


def unchanged(earlier, later) -> set[str]:
    """Return the layers that are bit for bit the same in two states."""
    return {name for name in earlier.params if same_arrays(earlier.params[name], later.params[name])}


def test_frozen_layers_do_not_drift(frozen_run):
    """Bit for bit, with weight decay at work; the others move at each step."""
    config, workdir, _ = frozen_run
    assert config.optim.weight_decay > 0
    _, saved = saved_states(config, workdir)
    assert list(saved) == [2, 4]
    assert unchanged(saved[2], saved[4]) == set(saved[2].params) - {"full8_videos"}


def test_what_a_run_says_of_frozen_layers(frozen_run):
    _, _, printed = frozen_run
    assert f"run: frozen: {', '.join(ALL_BUT_FULL8)}\n" in printed
    assert "note: init.from is empty, so the frozen layers stay as they were drawn\n" in printed


@pytest.mark.slow
def test_a_run_with_frozen_layers_continues_bit_for_bit(frozen_run, tmp_path, one_device, capsys):
    config, workdir, _ = frozen_run
    for count in (2, 4):
        part = config.copy_and_resolve_references()
        part.train.steps = count
        train(part, tmp_path / "run")
    assert capsys.readouterr().out.count("note: init.from is empty") == 1
    (create, straight), (_, halved) = saved_states(config, workdir), saved_states(config, tmp_path / "run")
    assert same_arrays(straight[4], halved[4])
    assert unchanged(create(), straight[2]) == set(straight[2].params) - {"full8_videos"}


def test_other_frozen_layers_are_another_run(frozen_run):
    config, workdir, _ = frozen_run
    config = config.copy_and_resolve_references()
    config.train.steps, config.init.freeze = 6, ("conv*",)
    with pytest.raises(UserError, match=r"init\.freeze was \['conv\*', 'full6', 'full7'\], is \['conv\*'\]; restore"):
        train(config, workdir)


def test_inspect_tells_what_is_frozen(frozen_run, config):
    stored, workdir, _ = frozen_run
    for result in (inspect.inspect_run(stored, workdir), inspect.inspect_config(stored)):
        assert result["frozen"] == list(ALL_BUT_FULL8) and result["trained"] == 128 * 9 + 9 < result["total"]
        lines = inspect.report_lines(result)
        assert f"frozen: {', '.join(ALL_BUT_FULL8)}" in lines and any(
            line.split()[:2] == ["trained", "1,161"] for line in lines
        )
    free = inspect.inspect_config(config)
    assert free["frozen"] == [] and free["trained"] == free["total"]
    assert not any("frozen" in line for line in inspect.report_lines(free))


@pytest.mark.slow
def test_one_update_of_full8_is_that_of_the_whole_net(config):
    """Freezing the rest changes nothing of what full8 learns in a step, dropout included."""
    mesh = meshes.make_mesh(jax.devices()[:1])
    rng = np.random.default_rng(0)
    batch = {
        "rgb": rng.integers(0, 256, (4, 1, 41, 41, 3), dtype=np.uint8),
        "crop": np.tile(np.int32([0, 0, 41, 41]), (4, 1)),
        "flip": np.array([True, False, True, False]),
        "lighting": np.zeros((4, 3), np.float32),
        "label": np.int32([0, 3, 5, 8]),
        "task": np.zeros(4, np.int32),
        "weight": np.ones(4, np.float32),
    }
    config.model.name, config.input.streams, config.model.dropout = "cnn_m_spatial", ("rgb",), 0.5
    setup = Setup.of(config)
    static = {
        "model": setup.model({"t": 9}), "optimizer": make_optimizer(config.optim), "inputs": setup.inputs,
    }  # fmt: skip
    heads, losses = [], []
    for frozen in ((), ALL_BUT_FULL8):
        state = steps.jit_init(mesh, **static, frozen=frozen)(jax.random.key(0))
        step = steps.jit_train_step(mesh, **static, tasks=("t",), frozen=frozen)
        for key in (1, 2):
            twin = jax.tree.map(jnp.copy, state)
            new, metrics = step(twin, meshes.put_batch(batch, mesh), jax.random.key(key))
            losses.append(metrics.compute()["loss"])
            heads.append(jax.tree.map(np.asarray, new.params["full8_t"]))
    for name in ("kernel", "bias"):
        np.testing.assert_allclose(heads[0][name], heads[2][name], rtol=1e-5, atol=1e-7)
    # Dropout is drawn anew for another key, frozen or not.
    assert losses[0] == pytest.approx(losses[2], rel=1e-6) and losses[2] != losses[3]
