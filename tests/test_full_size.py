"""The paper's nets at full size on a CPU: one training step each, and one over two devices."""

import jax
import numpy as np
import pytest

from twostream_jax import cli_config, steps
from twostream_jax import mesh as meshes
from twostream_jax.models import build_model
from twostream_jax.optim import make_optimizer
from twostream_jax.steps import Inputs


def one_step(name, devices):
    """Return (loss, new state) of the first step of a paper's config on two random samples."""
    config, _ = cli_config.load(f"configs/{name}.py", ["--config.model.dropout=0.0"])
    mesh, inputs = meshes.make_mesh(devices), Inputs.of(config.input)
    model, optimizer = build_model(config.model, {"ucf101": 101}), make_optimizer(config.optim)
    rng = np.random.default_rng(0)
    batch = {
        "size": np.full((2, 2), 224, np.int32),
        "crop": np.tile(np.asarray([0, 0, 224, 224], np.int32), (2, 1)),
        "flip": np.asarray([False, True]),
        "label": np.asarray([3, 99], np.int32),
        "task": np.zeros(2, np.int32),
        "weight": np.ones(2, np.float32),
    }
    if name == "spatial":
        batch |= {
            "rgb": rng.integers(0, 256, (2, 1, 224, 224, 3), dtype=np.uint8),
            "lighting": rng.normal(size=(2, 3)).astype(np.float32),
        }
    else:
        batch |= {
            "flow": rng.integers(100, 156, (2, 1, 10, 2, 224, 224), dtype=np.uint8),
            "mean": np.zeros((2, 1, 10, 2), np.float32),
            "bound": np.full(2, 20, np.float32),
        }
    init_key, key = steps.jit_keys(mesh, 0)
    state = steps.jit_init(mesh, model=model, optimizer=optimizer, inputs=inputs)(init_key)
    step = steps.jit_train_step(mesh, model=model, optimizer=optimizer, inputs=inputs, tasks=("ucf101",))
    state, metrics = step(state, meshes.put_batch(batch, mesh), key)
    return metrics.compute()["loss"], state


@pytest.mark.slow
@pytest.mark.parametrize(("name", "total"), [("temporal", 90_707_781), ("spatial", 90_627_813)])
def test_a_full_size_step_alone_and_sharded(name, total):
    loss, state = one_step(name, jax.devices()[:1])
    assert sum(leaf.size for leaf in jax.tree.leaves(state.params)) == total
    assert int(state.step) == 1 and np.isfinite(loss)
    # The first loss of a net that knows nothing, ln 101 = 4.615, within what its random scores add.
    assert abs(loss - np.log(101)) < 0.2
    conv1 = np.asarray(state.params["conv1"]["kernel"])
    del state
    sharded_loss, sharded = one_step(name, jax.devices()[:2])
    assert sharded_loss == pytest.approx(loss, rel=1e-5)
    # One update of 1e-2 times gradients summed in another order.
    np.testing.assert_allclose(np.asarray(sharded.params["conv1"]["kernel"]), conv1, atol=1e-5)
