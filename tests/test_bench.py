"""mode=bench: a peer that does the same work, and what the table and bench.json hold."""

import json
import statistics

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_line import refused, run

from twostream_jax import cli_config, steps
from twostream_jax.bench import run as bench_run
from twostream_jax.bench import step as bench_step
from twostream_jax.models import build_model
from twostream_jax.optim import make_optimizer


@pytest.fixture
def small():
    config, _ = cli_config.load("configs/bench.py", ["--config.model.width=0.0625", "--config.model.dropout=0"])
    config.input.crop, config.input.stack, config.train.batch_size = 57, 3, 8
    return config


@pytest.mark.slow
def test_the_peer_makes_the_same_step(small):
    """The same loss and the same new weights, so that its time is that of the same work."""
    torch = pytest.importorskip("torch", reason="the peer is PyTorch: pip install 'twostream-jax[bench]'")
    from twostream_jax.bench.torch_nets import TorchCnnM, flow_input, training_step

    batch, inputs = bench_step.flow_batch(small), steps.Inputs.of(small.input)
    model, optimizer = build_model(small.model, {"bench": 101}), make_optimizer(small.optim)
    state = jax.jit(lambda key: steps.init(key, model=model, optimizer=optimizer, inputs=inputs))(jax.random.key(0))
    # Biases of 0, as they begin, would hide an error in what decays; heads near 0 the logits.
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda a: a + 0.03 * rng.normal(size=a.shape).astype(np.float32), state.params)
    state = state.replace(params=params)
    batches = {key: torch.from_numpy(value) for key, value in batch.items()}
    net = TorchCnnM(6, 101, normalised=("conv1",), width=small.model.width, dropout=0.0)
    net(flow_input(batches)[:1])
    net.load(params)
    how = {"channels_last": True, "compiled": False, "half": False}
    theirs = training_step(net, batches, small.optim, **how)
    ours = jax.jit(lambda s, b: steps.train_step(
        s, b, jax.random.key(1), model=model, optimizer=optimizer, inputs=inputs, tasks=("bench",)
    ))  # fmt: skip
    for _ in range(2):  # the second with momentum
        state, metrics = ours(state, {key: jnp.asarray(value) for key, value in batch.items()})
        assert metrics.compute()["loss"] == pytest.approx(theirs(), rel=1e-4)
    copy = TorchCnnM(6, 101, normalised=("conv1",), width=small.model.width, dropout=0.0)
    copy(flow_input(batches)[:1])
    copy.load(jax.device_get(state.params))
    before = TorchCnnM(6, 101, normalised=("conv1",), width=small.model.width, dropout=0.0)
    before(flow_input(batches)[:1])
    before.load(params)
    for (name, a), b, c in zip(net.named_parameters(), copy.parameters(), before.parameters(), strict=True):
        moved = float((b - c).detach().abs().max())
        assert moved > 1e-6, name
        # Gradients in float32 by two libraries.
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), atol=2e-3 * moved + 1e-7, err_msg=name)


@pytest.mark.slow
def test_a_bench_prints_its_table_and_leaves_every_round(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench_run, "ROUNDS", 2)
    monkeypatch.setattr(bench_step, "PEERS", {"PyTorch": (False, False, True)})
    result = bench_run.bench(["step"], small, tmp_path)
    stored = json.loads((tmp_path / "bench.json").read_text())
    assert stored["benches"]["step"]["wall_s"] == result["benches"]["step"]["wall_s"]
    found = result["benches"]["step"]
    assert len(found["wall_s"]["twostream-jax"]) == len(found["cpu_s"]["twostream-jax"]) == 2
    seconds = statistics.median(found["wall_s"]["twostream-jax"])
    assert found["flops_per_second"] == found["flops"] / seconds and found["samples_per_second"] == 8 / seconds
    # conv1 alone: 2 * 26^2 outputs * 49 * 6 * 8 channels, forwards and for its kernel, of 8 samples.
    assert found["flops"] > 2 * 8 * 2 * 26**2 * 49 * 6 * 8
    said = capsys.readouterr().out
    assert "step: cnn_m_temporal, batch of 8, float32" in said and "GFLOP a step" in said
    assert ("of the time of PyTorch" in said) == ("PyTorch" not in found["missing"])
    assert stored["machine"]["versions"]["jax"] == jax.__version__ and stored["machine"]["cores"] >= 1


def test_mistakes_are_one_line(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(capsys, ["--mode=bench"], "--mode=bench needs --bench=input,step,flow,eval,end2end")
    refused(
        capsys,
        ["--mode=bench", "--bench=steps"],
        "--bench=steps: choose of input, step, flow, eval, end2end, with commas between",
    )
    refused(capsys, ["--mode=eval", "--bench=step"], "--bench: mode eval does not take it, only bench")
    step = ["--mode=bench", "--bench=step"]
    spatial = ["--config.model.name=cnn_m_spatial", "--config.input.streams=rgb"]
    refused(capsys, [*step, *spatial], "model.name=cnn_m_spatial: the benches are of cnn_m_temporal")
    refused(
        capsys, [*step, "--config.train.batch_size=3"], "train.batch_size=3: must divide over the 8 devices present"
    )
    assert run(capsys, "--help")[0] == 0
