"""Metrics by hand numbers."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from twostream_jax.metrics import (
    ClipMetrics,
    accuracy,
    confusion,
    correct_by_task,
    mean_class_accuracy,
    top_k,
    wilson_interval,
)

# Rows: label first, label last, a tie of classes 0 and 2, all equal.
PROBS = np.array([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [0.4, 0.2, 0.4], [1 / 3, 1 / 3, 1 / 3]])


def sums(loss_sum, correct, count) -> ClipMetrics:
    return ClipMetrics(*(jnp.float32([value]) for value in (loss_sum, correct, count)), jnp.float32(loss_sum))


def test_merged_sums_are_those_of_the_whole():
    merged = sums(6, 1, 3).merge(sums(1, 1, 1)).merge(ClipMetrics.empty())
    assert merged.compute() == {"loss": 7 / 4, "clip_accuracy": 2 / 4}


def test_no_sample_is_nan():
    assert all(math.isnan(value) for value in ClipMetrics.empty().compute().values())


def test_empty_can_be_merged_on_the_device():
    step = jax.jit(lambda total, other: total.merge(other), donate_argnums=0)
    assert step(ClipMetrics.empty(), sums(2, 1, 4)).compute() == {"loss": 0.5, "clip_accuracy": 0.25}


def test_sums_of_a_mixed_batch():
    logits = {
        "a": jnp.array([[[1.0, 0.0]], [[0.0, 9.0]], [[0.0, 1.0]], [[0.0, 1.0]]]),
        "b": jnp.array([[[0.0, 1, 0]], [[0.0, 0, 1]], [[0.0, 1, 0]], [[1.0, 0, 0]]]),
    }
    labels = jnp.array([0, 2, 0, 1], jnp.int32)
    task = jnp.array([0, 1, 0, 0], jnp.int32)
    weight = jnp.array([1.0, 1.0, 1.0, 0.0])
    # Right by their own heads: samples 0 and 1; sample 3, right too, is padding.
    correct = correct_by_task(logits, labels, task, weight, ("a", "b"))
    assert correct.tolist() == [1.0, 1.0]
    metrics = ClipMetrics.of(jnp.array([0.5, 0.25]), correct, jnp.array([2.0, 1.0]))
    assert metrics.compute(("a", "b")) == {
        "loss": 0.75,
        "clip_accuracy": 2 / 3,
        "loss_a": 0.5,
        "clip_accuracy_a": 0.5,
        "loss_b": 0.25,
        "clip_accuracy_b": 1.0,
    }
    # A second batch of two samples, none of them of b: its loss counts as the mean over what b has had.
    more = ClipMetrics.of(jnp.array([1.5, 0.0]), jnp.array([0.0, 0.0]), jnp.array([2.0, 0.0]))
    both = metrics.merge(more).compute(("a", "b"))
    assert (both["loss_a"], both["loss_b"], both["clip_accuracy_a"]) == (1.0, 0.25, 0.25)
    assert both["loss"] == pytest.approx((0.75 * 3 + 1.5 * 2) / 5)
    assert set(more.compute(("a", "b"))) == {"loss", "clip_accuracy", "loss_a", "clip_accuracy_a"}  # NaN is no JSON


def test_clip_accuracy_averages_logits_over_time():
    logits = {"a": jnp.array([[[3.0, 0.0], [0.0, 1.0], [0.0, 1.0]]])}
    zero = jnp.zeros(1, jnp.int32)
    assert correct_by_task(logits, zero, zero, jnp.ones(1), ("a",)).tolist() == [1.0]


def test_accuracy_gives_ties_to_the_lower_class():
    assert accuracy(PROBS, np.array([0, 2, 0, 0])) == 3 / 4
    assert accuracy(PROBS, np.array([0, 2, 2, 1])) == 1 / 4


@pytest.mark.parametrize(
    ("labels", "k", "share"),
    [
        ([0, 2, 0, 0], 1, 3 / 4),
        ([0, 2, 2, 1], 1, 1 / 4),
        ([0, 2, 2, 1], 2, 3 / 4),
        ([0, 2, 1, 2], 2, 1 / 4),
        ([0, 2, 1, 2], 3, 1.0),
    ],
)
def test_top_k_by_hand(labels, k, share):
    assert top_k(PROBS, np.array(labels), k) == share


def test_top_1_is_accuracy():
    rng = np.random.default_rng(0)
    probs, labels = rng.integers(0, 4, (200, 5)) / 4, rng.integers(0, 5, 200)
    assert top_k(probs, labels, 1) == accuracy(probs, labels)


def test_mean_class_accuracy_weighs_present_classes_alike():
    probs = np.eye(4)[[0, 0, 0, 1, 0]]
    # Class 0: 3 of 3; class 1: 1 of 2; classes 2 and 3 are absent.
    assert mean_class_accuracy(probs, np.array([0, 0, 0, 1, 1])) == (1 + 0.5) / 2


def test_confusion_is_true_by_predicted():
    counts = confusion(np.array([0, 0, 2, 0]), np.array([0, 2, 1, 2]), 3)
    np.testing.assert_array_equal(counts, [[1, 0, 2], [0, 0, 0], [0, 1, 0]])
    assert np.issubdtype(counts.dtype, np.integer)


def test_wilson_interval_against_published_values():
    # Newcombe, Statistics in Medicine 17 (1998), Table I, method 3 (score): 81/263, 15/148, 0/20, 1/29.
    for correct, n, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        np.testing.assert_allclose(wilson_interval(correct, n), (low, high), atol=5e-5)


def test_wilson_interval_ends():
    # With p = 1: low = 1 / (1 + z^2 / n).
    low, high = wilson_interval(10, 10)
    assert low == pytest.approx(1 / (1 + 1.959963984540054**2 / 10), rel=1e-12)
    assert high == pytest.approx(1.0, abs=1e-15)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_wilson_interval_solves_its_equation():
    """The ends are the p at which |share - p| is z standard errors of p itself."""
    for end in wilson_interval(37, 100):
        assert abs(0.37 - end) == pytest.approx(1.959963984540054 * math.sqrt(end * (1 - end) / 100), rel=1e-12)
