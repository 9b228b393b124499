"""The update rule and the schedule against arithmetic by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from twostream_jax.optim import learning_rate, make_optimizer


def section(**values):
    optim = base.get_config().optim
    optim.update(values)
    return optim


def test_the_papers_schedule():
    rate = learning_rate(section())
    # 2014 Sect. 5: the 50,001st update is the first at 1e-3, the 70,001st the first at 1e-4.
    for step, value in [(0, 1e-2), (49_999, 1e-2), (50_000, 1e-3), (69_999, 1e-3), (70_000, 1e-4), (79_999, 1e-4)]:
        assert float(rate(step)) == pytest.approx(value, rel=1e-6)


def test_warm_up_rises_linearly_to_the_rate():
    rate = learning_rate(section(warmup_steps=4, drops=(10,)))
    assert [float(rate(step)) for step in (0, 1, 2, 3, 4, 9)] == pytest.approx(
        [0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01]
    )
    assert float(rate(10)) == pytest.approx(1e-3)


def test_two_updates_by_hand():
    optimizer = make_optimizer(section(learning_rate=0.1, drops=(1,), momentum=0.5, weight_decay=0.01))
    params = {"conv": {"kernel": jnp.asarray([2.0]), "bias": jnp.asarray([3.0])}}
    grads = {"conv": {"kernel": jnp.asarray([1.0]), "bias": jnp.asarray([1.0])}}
    state = optimizer.init(params)
    first, state = optimizer.update(grads, state, params)
    # Kernel: velocity 1 + .01 * 2 = 1.02; bias is not decayed.
    assert float(first["conv"]["kernel"][0]) == pytest.approx(-0.102)
    assert float(first["conv"]["bias"][0]) == pytest.approx(-0.1)
    params = jax.tree.map(jnp.add, params, first)
    second, _ = optimizer.update(grads, state, params)
    # Rate 0.01 now; kernel 1.898: velocity .5 * 1.02 + 1 + .01898 = 1.52898; bias .5 + 1.
    np.testing.assert_allclose(second["conv"]["kernel"], [-0.0152898], rtol=1e-5)
    np.testing.assert_allclose(second["conv"]["bias"], [-0.015], rtol=1e-5)
