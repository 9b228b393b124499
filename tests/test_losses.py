"""The multi-task loss against hand arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from twostream_jax.losses import multi_task_loss

TASKS = ("ucf101", "hmdb51")
LOG2, LOG3, LOG4 = np.log(2.0), np.log(3.0), np.log(4.0)


def mixed_batch():
    """Four samples: ucf101 (2 classes), hmdb51 (3 classes), ucf101, padding of ucf101 with a weight of 0.

    softmax([0, ln 3]) = (1/4, 3/4); softmax([0, 0, ln 2]) = (1/4, 1/4, 1/2).
    """
    ucf = jnp.array([[0.0, LOG3], [5.0, -5.0], [0.0, 0.0], [9.0, -9.0]])[:, None, :]
    hmdb = jnp.array([[1.0, 2.0, 3.0], [0.0, 0.0, LOG2], [4.0, 0.0, 1.0], [0.0, 1.0, 0.0]])[:, None, :]
    labels = jnp.array([0, 2, 1, 1], jnp.int32)  # label 2 does not exist in ucf101
    return {"ucf101": ucf, "hmdb51": hmdb}, labels, jnp.array([0, 1, 0, 0], jnp.int32), jnp.array([1.0, 1, 1, 0])


def test_a_mixed_batch_by_hand():
    loss, per_task = jax.jit(multi_task_loss, static_argnums=4)(*mixed_batch(), TASKS)
    # ucf101: mean of -ln(1/4) and -ln(1/2); hmdb51: -ln(1/2).
    np.testing.assert_allclose(per_task["ucf101"], (LOG4 + LOG2) / 2, rtol=1e-6)
    np.testing.assert_allclose(per_task["hmdb51"], LOG2, rtol=1e-6)
    np.testing.assert_allclose(loss, (LOG4 + LOG2) / 2 + LOG2, rtol=1e-6)
    assert loss.dtype == jnp.float32 and loss.shape == ()


def test_gradients_by_hand_and_none_in_the_other_head():
    logits, *rest = mixed_batch()
    gradient = jax.grad(lambda z: multi_task_loss(z, *rest, TASKS)[0])(logits)
    # (softmax - one hot) / count of the task.
    ucf = [[(0.25 - 1) / 2, 0.75 / 2], [0, 0], [0.5 / 2, -0.5 / 2], [0, 0]]
    hmdb = [[0, 0, 0], [0.25, 0.25, -0.5], [0, 0, 0], [0, 0, 0]]
    np.testing.assert_allclose(gradient["ucf101"][:, 0], ucf, atol=1e-7)
    np.testing.assert_allclose(gradient["hmdb51"][:, 0], hmdb, atol=1e-7)


def test_padding_does_not_matter():
    logits, labels, task, weight = mixed_batch()
    loss, _ = multi_task_loss(logits, labels, task, weight, TASKS)
    cut, _ = multi_task_loss({k: v[:3] for k, v in logits.items()}, labels[:3], task[:3], weight[:3], TASKS)
    assert float(loss) == float(cut)


def test_weights_are_a_weighted_mean():
    logits, labels, task, _ = mixed_batch()
    _, per_task = multi_task_loss(logits, labels, task, jnp.array([3.0, 0.5, 1.0, 0.0]), TASKS)
    np.testing.assert_allclose(per_task["ucf101"], (3 * LOG4 + LOG2) / 4, rtol=1e-6)
    np.testing.assert_allclose(per_task["hmdb51"], LOG2, rtol=1e-6)


def test_a_task_without_samples_has_loss_and_gradient_zero():
    logits, labels, _, weight = mixed_batch()
    task = jnp.zeros(4, jnp.int32)
    labels = jnp.minimum(labels, 1)
    (loss, per_task), gradient = jax.value_and_grad(
        lambda z: multi_task_loss(z, labels, task, weight, TASKS), has_aux=True
    )(logits)
    assert float(per_task["hmdb51"]) == 0.0
    assert float(loss) == float(per_task["ucf101"]) > 0
    np.testing.assert_array_equal(gradient["hmdb51"], np.zeros((4, 1, 3)))
    assert np.isfinite(gradient["ucf101"]).all()


def test_a_batch_of_padding_is_zero():
    logits, labels, task, _ = mixed_batch()
    loss, gradient = jax.value_and_grad(lambda z: multi_task_loss(z, labels, task, jnp.zeros(4), TASKS)[0])(logits)
    assert float(loss) == 0.0
    for leaf in jax.tree.leaves(gradient):
        np.testing.assert_array_equal(leaf, np.zeros(leaf.shape))


def test_time_is_averaged():
    logits = {"a": jnp.array([[[0.0, LOG3], [0.0, 0.0]]])}
    one = jnp.zeros(1, jnp.int32)
    loss, _ = multi_task_loss(logits, one, one, jnp.ones(1), ("a",))
    np.testing.assert_allclose(loss, (LOG4 + LOG2) / 2, rtol=1e-6)


def test_large_logits_stay_finite():
    logits = {"a": jnp.array([[[1e4, -1e4]]])}
    zero = jnp.zeros(1, jnp.int32)
    loss, _ = multi_task_loss(logits, zero + 1, zero, jnp.ones(1), ("a",))
    assert float(loss) == pytest.approx(2e4, rel=1e-6)


def test_a_label_outside_its_own_tasks_classes_is_nan():
    logits, labels, task, weight = mixed_batch()
    loss, per_task = multi_task_loss(logits, labels.at[0].set(2), task, weight, TASKS)
    assert np.isnan(loss) and np.isnan(per_task["ucf101"]) and not np.isnan(per_task["hmdb51"])
