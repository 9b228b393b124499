"""Warping: direction, border rule, padding; gradients against hand-computed ones."""

import cv2
import jax.numpy as jnp
import numpy as np

from twostream_jax.flow.warp import centred_gradient, warp


def test_reads_to_the_right_and_below():
    field = np.arange(30, dtype=np.float32).reshape(5, 6, 1)
    flow = np.broadcast_to(np.float32([2, 1]), (5, 6, 2))
    got, inside = warp(field, flow, jnp.array([5, 6]))
    np.testing.assert_array_equal(got[:4, :4], field[1:, 2:])
    np.testing.assert_array_equal(inside, (np.arange(5)[:, None] < 4) & (np.arange(6)[None] < 4))
    np.testing.assert_array_equal(got[4, :, 0], [26, 27, 28, 29, 29, 29])  # past the border: its nearest value


def test_equals_opencv_between_pixels():
    rng = np.random.default_rng(0)
    field = rng.uniform(0, 255, (20, 33, 3)).astype(np.float32)
    flow = rng.normal(scale=4, size=(20, 33, 2)).astype(np.float32)
    y, x = np.mgrid[:20, :33].astype(np.float32)
    want = cv2.remap(field, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    # OpenCV rounds positions to 1/32 px before version 5.
    np.testing.assert_allclose(warp(field, flow, jnp.array([20, 33]))[0], want, atol=255 / 32)
    inner = np.abs(np.asarray(warp(field, flow, jnp.array([20, 33]))[0]) - want).mean()
    assert inner < 255 / 64


def test_padding_is_outside():
    field = np.full((8, 9, 1), 1e6, np.float32)
    field[:5, :6] = np.arange(30, dtype=np.float32).reshape(5, 6, 1)
    flow = np.random.default_rng(0).normal(scale=3, size=(8, 9, 2)).astype(np.float32)
    got, inside = warp(field, flow, jnp.array([5, 6]))
    want, want_inside = warp(field[:5, :6], flow[:5, :6], jnp.array([5, 6]))
    np.testing.assert_array_equal(got[:5, :6], want)
    np.testing.assert_array_equal(inside[:5, :6], want_inside)


def test_a_field_that_is_not_a_number_reads_no_other_memory():
    flow = np.full((4, 4, 2), np.nan, np.float32)
    _, inside = warp(np.ones((4, 4, 1), np.float32), flow, jnp.array([4, 4]))
    assert not np.asarray(inside).any()


def test_gradient_is_half_the_difference_of_neighbours():
    image = np.float32([[0, 1, 4, 9], [10, 11, 14, 19], [0, 0, 0, 0]])
    across, down = centred_gradient(image, jnp.array([2, 4]))
    np.testing.assert_array_equal(across[:2], [[0.5, 2, 4, 2.5], [0.5, 2, 4, 2.5]])
    np.testing.assert_array_equal(down[:2], [[5, 5, 5, 5], [5, 5, 5, 5]])
    padded = np.pad(image, ((0, 2), (0, 3)), constant_values=1e6)
    for ours, theirs in zip(centred_gradient(padded, jnp.array([2, 4])), (across, down), strict=True):
        np.testing.assert_array_equal(ours[:2, :4], theirs[:2])
        assert np.isfinite(ours).all()
