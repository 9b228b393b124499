"""Pyramids: what shrinking and growing keep, and that padding has no influence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from twostream_jax.flow import pyramid


def whole(image):
    return jnp.asarray(image.shape, jnp.int32)


def padded(image, shape, filler):
    """The image in the upper left of a larger one of `filler`."""
    out = np.full(shape, filler, np.float32)
    out[: image.shape[0], : image.shape[1]] = image
    return out


@pytest.mark.parametrize("scale", [0.5, 0.8])
def test_a_constant_stays_one_up_to_the_border(scale):
    image = np.full((19, 26), 37.0, np.float32)
    small = pyramid.shrink(image, whole(image), scale)
    np.testing.assert_allclose(small, 37, rtol=1e-6)
    np.testing.assert_allclose(pyramid.grow(small, whole(small), image.shape, scale), 37, rtol=1e-6)


def test_shrunk_pixels_lie_between_those_they_stand_for():
    # Half the size: pixel i of the small image lies at 2i + .5 of the large one, and a symmetric blur keeps a ramp.
    y, x = np.mgrid[:40, :60].astype(np.float32)
    small = np.asarray(pyramid.shrink(3 * x - 2 * y, whole(x), 0.5))
    y, x = np.mgrid[:20, :30]
    np.testing.assert_allclose(small[2:-2, 2:-2], (3 * (2 * x + 0.5) - 2 * (2 * y + 0.5))[2:-2, 2:-2], atol=1e-4)


def test_shrinking_is_the_gaussian_of_its_docstring():
    image = np.random.default_rng(0).uniform(0, 255, (1, 23)).astype(np.float32)
    sigma = 0.6 * np.sqrt(3)  # .6 sqrt(.5^-2 - 1)
    for i, got in enumerate(np.asarray(pyramid.shrink(image, whole(image), 0.5))[0]):
        away = np.arange(23) - (2 * i + 0.5)
        weights = np.exp(-(away**2) / (2 * sigma**2)) * (abs(away) <= 3 * sigma)
        assert got == pytest.approx((weights * image[0]).sum() / weights.sum(), rel=1e-5)


@pytest.mark.parametrize("scale", [0.5, 0.8])
def test_shrinking_blurs_away_what_the_small_image_cannot_show(scale):
    # Stripes of the highest frequency would come out as slow waves of full strength where subsampled as they are.
    stripes = np.tile(np.float32([0, 255]), (64, 48))
    small = np.asarray(pyramid.shrink(stripes, whole(stripes), scale))[4:-4, 4:-4]
    assert np.ptp(small) < 255 * (0.02 if scale == 0.5 else 0.75)


def test_grown_flow_is_bilinear_with_rescaled_vectors():
    # A zoom about the middle: u = .1 (x - centre). It is the same motion on both levels when vectors double.
    y, x = np.mgrid[:16, :24].astype(np.float32)
    small = np.stack([0.1 * (x - 11.5), 0.1 * (y - 7.5)], axis=-1)
    big = np.asarray(pyramid.grow_flow(small, jnp.array([16, 24]), (32, 48), 0.5))
    y, x = np.mgrid[:32, :48]
    want = np.stack([0.1 * (x - 23.5), 0.1 * (y - 15.5)], axis=-1)
    np.testing.assert_allclose(big[1:-1, 1:-1], want[1:-1, 1:-1], atol=1e-5)
    np.testing.assert_array_equal(big[:, 0, 0], big[:, 0, 0].clip(2 * small[0, 0, 0]))  # border values are continued


@pytest.mark.parametrize("scale", [0.5, 0.8])
@pytest.mark.parametrize("filler", [0.0, 1e6])
def test_padding_has_no_influence(scale, filler):
    image = np.random.default_rng(1).uniform(0, 255, (37, 50)).astype(np.float32)
    build = jax.jit(lambda *level: pyramid.build(*level, scale, 10, 8))
    alone, wide = build(image, whole(image)), build(padded(image, (48, 64), filler), whole(image))
    assert len(wide) >= len(alone) >= 3
    for ours, theirs in zip(alone, wide, strict=False):
        np.testing.assert_array_equal(ours.size, ours.image.shape)
        np.testing.assert_array_equal(ours.size, theirs.size)
        height, width = ours.image.shape
        assert np.isfinite(theirs.image).all()
        # Sums of the same terms in another order: float32 rounding of grey levels.
        np.testing.assert_allclose(theirs.image[:height, :width], ours.image, atol=1e-3)
    grown, grown_wide = (pyramid.grow(*levels[1], levels[0].image.shape, scale) for levels in (alone, wide))
    np.testing.assert_allclose(grown_wide[:37, :50], grown, atol=1e-3)


def test_levels_end_at_the_count_or_before_a_side_is_too_small():
    def shapes(scale, count, smallest):
        image, size = jax.ShapeDtypeStruct((256, 340), jnp.uint8), jax.ShapeDtypeStruct((2,), jnp.int32)
        built = jax.eval_shape(lambda *level: pyramid.build(*level, scale, count, smallest), image, size)
        return [level.image.shape for level in built]

    assert shapes(0.5, 3, 16) == [(256, 340), (128, 170), (64, 85)]
    assert shapes(0.5, 10, 16) == [(256, 340), (128, 170), (64, 85), (32, 43), (16, 22)]
    assert shapes(0.8, 3, 16) == [(256, 340), (205, 272), (164, 218)]
    assert shapes(0.5, 10, 1000) == [(256, 340)]
    assert shapes(0.99, 300, 40)[-1] == (50, 50)  # where rounding stops it, 50 * .99 = 49.5


def test_extend_repeats_the_last_valid_row_and_column():
    image = np.arange(20, dtype=np.float32).reshape(4, 5)
    want = [[0, 1, 2, 2, 2], [5, 6, 7, 7, 7], [5, 6, 7, 7, 7], [5, 6, 7, 7, 7]]
    np.testing.assert_array_equal(pyramid.extend(image, jnp.array([2, 3])), want)
    np.testing.assert_array_equal(pyramid.extend(image, jnp.array([4, 5])), image)
