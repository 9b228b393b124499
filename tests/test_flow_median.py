"""Median filters against OpenCV's and NumPy's."""

import cv2
import jax.numpy as jnp
import numpy as np
import pytest

from twostream_jax.flow.median import median, middle


@pytest.mark.parametrize("window_px", [1, 3, 5])
def test_equals_opencv(window_px):
    image = np.random.default_rng(0).normal(size=(31, 45)).astype(np.float32)
    image[5:12, 7:20] = 1.0  # ties
    want = cv2.medianBlur(image, window_px) if window_px > 1 else image
    np.testing.assert_array_equal(median(image, jnp.array([31, 45]), window_px), want)


@pytest.mark.parametrize("window_px", [3, 5])
def test_padding_has_no_influence(window_px):
    image = np.random.default_rng(1).normal(size=(40, 48)).astype(np.float32)
    image[30:], image[:, 41:] = 1e6, -1e6
    got = median(image, jnp.array([30, 41]), window_px)
    np.testing.assert_array_equal(got[:30, :41], cv2.medianBlur(np.ascontiguousarray(image[:30, :41]), window_px))


@pytest.mark.parametrize("count", [1, 3, 5, 7, 9, 25])
def test_middle_is_the_median_of_any_values(count):
    # Few different values: most of these have ties.
    values = np.random.default_rng(count).integers(0, 9, (count, 2000)).astype(np.float32)
    np.testing.assert_array_equal(middle(list(jnp.asarray(values))), np.median(values, axis=0))


def test_every_arrangement_of_zeros_and_ones():
    # A network of exchanges selects the median of all inputs if it does so for zeros and ones (Knuth's 0-1 principle).
    bits = (np.arange(512)[None] >> np.arange(9)[:, None] & 1).astype(np.float32)
    np.testing.assert_array_equal(middle(list(jnp.asarray(bits))), (bits.sum(axis=0) > 4).astype(np.float32))
