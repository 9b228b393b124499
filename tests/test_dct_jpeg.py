"""Needs jpeglib: pip install 'twostream-jax[jpeg]'."""

import sys
import types

import cv2
import numpy as np
import pytest
from test_dct import exact_px

from input_pipeline import codecs, dct, dct_jpeg, dct_record
from input_pipeline.schema import UserError


@pytest.fixture
def jpeglib():
    return pytest.importorskip("jpeglib")


def picture(kind, height=45, width=70):
    rng = np.random.default_rng(3)
    if kind == "smooth":
        noise = cv2.GaussianBlur(rng.normal(size=(height, width)), (0, 0), 4)
        return cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    if kind == "noise":
        return rng.integers(0, 256, (height, width), dtype=np.uint8)
    # Blocks of black and white: the largest coefficients there are.
    return np.kron(rng.integers(0, 2, (height, width)), np.ones((4, 4)))[:height, :width].astype(np.uint8) * 255


def jpeg_of(image, quality=95):
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


@pytest.mark.parametrize("kind", ["smooth", "noise", "black and white"])
@pytest.mark.parametrize("quality", [25, 75, 95, 100])
def test_coefficients_give_the_decoded_picture_within_one_level(jpeglib, kind, quality):
    jpeg = jpeg_of(picture(kind), quality)
    coefficients, coding, size = dct_jpeg.jpeg_coefficients(jpeg)
    assert coefficients.dtype == np.int16 and coefficients.shape == (64, 6, 9) and size == (45, 70)
    # At this bound a px is a level; the inverse DCT is the standard's formula in float64.
    levels = exact_px(coefficients, coding, 127.5)[:45, :70] + 127.5
    assert np.abs(levels - codecs.decode_grey(jpeg)).max() <= 1.0
    if quality == 100 or (kind, quality) == ("black and white", 95):
        assert np.abs(coefficients).max() > 127


def test_a_record_keeps_coefficients_beyond_int8_exactly(jpeglib):
    x, y = jpeg_of(picture("smooth")), jpeg_of(picture("black and white"))
    coefficients, coding, size = dct_jpeg.transcode_field(x, y)
    np.testing.assert_array_equal(coefficients[0], dct_jpeg.jpeg_coefficients(x)[0])
    np.testing.assert_array_equal(coefficients[1], dct_jpeg.jpeg_coefficients(y)[0])
    record = dct_record.serialise_field("v", 3, coefficients, coding, np.zeros(2), size)
    header = dct_record.parse_header(record)
    assert header.coding == coding and (header.height, header.width) == size
    np.testing.assert_array_equal(dct_record.coefficients_of(record, header), coefficients)


def test_a_grey_block_by_hand(jpeglib):
    """Level 200 is 72 above 128: 8 * 72 = 576 in steps of 1 at quality 100."""
    coefficients, coding, _ = dct_jpeg.jpeg_coefficients(jpeg_of(np.full((8, 8), 200, np.uint8), 100))
    assert coding == dct.Coding((1.0,) * 64, 128.0)
    assert coefficients[0].item() == 576 and not coefficients[1:].any()
    # b / 255 above what the same level would be were 127.5 zero: 2 * 20 * (200 - 127.5) / 255.
    np.testing.assert_allclose(dct.decode_field(coefficients, coding, 20.0), 2900 / 255, rtol=1e-6)


def test_the_mean_is_near_that_of_the_jpeg(jpeglib):
    x, y = jpeg_of(picture("smooth")), jpeg_of(255 - picture("smooth"))
    mean = dct.mean_of_coded(*dct_jpeg.transcode_field(x, y)[:2], 20.0, (45, 70))
    # A decoder rounds to levels of .16 px; over 3150 px that averages out.
    np.testing.assert_allclose(mean, codecs.mean_of_stored(x, y, 20.0), atol=0.01)


def test_the_luminance_of_a_colour_jpeg_is_taken(jpeglib):
    colour = np.stack([picture("smooth"), picture("smooth")[::-1], picture("smooth")[:, ::-1]], axis=-1)
    for factor in (cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444):
        jpeg = cv2.imencode(".jpg", colour, [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor])[1].tobytes()
        coefficients, coding, size = dct_jpeg.jpeg_coefficients(jpeg)
        assert coefficients.shape == (64, 6, 9) and size == (45, 70)
        levels = exact_px(coefficients, coding, 127.5)[:45, :70] + 127.5
        assert np.abs(levels - codecs.decode_grey(jpeg)).max() <= 1.0


def turned(jpeg):
    """The same JPEG with an Exif segment that says: to be shown turned by 90 degrees (TIFF tag 0x112 is 6)."""
    tiff = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    body = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2) + body + jpeg[2:]


@pytest.mark.parametrize("height", [45, 70])
def test_a_picture_to_be_turned_is_refused(jpeglib, height):
    with pytest.raises(ValueError, match=r"^JPEG of a kind that cannot be taken over"):
        dct_jpeg.jpeg_coefficients(turned(jpeg_of(picture("smooth", height, 70))))


def test_damaged_jpegs_are_refused(jpeglib):
    jpeg = jpeg_of(picture("smooth"))
    with pytest.raises(ValueError, match=r"^damaged JPEG: \d+ bytes without an end marker$"):
        dct_jpeg.jpeg_coefficients(jpeg[: len(jpeg) // 2])
    with pytest.raises(ValueError, match=r"^damaged JPEG"):
        dct_jpeg.jpeg_coefficients(b"no picture")


def test_components_of_two_qualities_are_refused(jpeglib):
    image = picture("smooth")
    for other in (jpeg_of(image, 90), jpeg_of(image[:40])):
        with pytest.raises(ValueError, match=r"^the x and y JPEGs differ in size or in their quantisation tables$"):
            dct_jpeg.transcode_field(jpeg_of(image), other)


def test_what_the_library_refuses_is_named(jpeglib, monkeypatch):
    def refuse(path):
        raise OSError("reading failed")

    monkeypatch.setattr(jpeglib, "read_dct", refuse)
    with pytest.raises(
        ValueError, match=r"^damaged JPEG: \d+ bytes whose coefficients cannot be read \(reading failed\)$"
    ):
        dct_jpeg.jpeg_coefficients(jpeg_of(picture("smooth")))


def grey_with(monkeypatch, jpeglib, *, mean=0, last=0, step=1):
    """Take over a grey JPEG for which the library returns these first and last coefficients and this step."""
    blocks = np.zeros((1, 1, 8, 8), np.int16)
    blocks[..., 0, 0], blocks[..., 7, 7] = mean, last
    fake = types.SimpleNamespace(Y=blocks, qt=np.full((1, 8, 8), step, np.uint16), quant_tbl_no=np.array([0]))
    monkeypatch.setattr(jpeglib, "read_dct", lambda path: fake)
    return dct_jpeg.jpeg_coefficients(jpeg_of(np.full((8, 8), 128, np.uint8)))


@pytest.mark.parametrize("what", [{"mean": 9}, {"last": 2048}, {"step": 256}])
def test_coefficients_of_another_picture_or_out_of_range_are_refused(jpeglib, monkeypatch, what):
    # A mean of 8 steps of 1 is one level more, which decoders may differ by.
    assert grey_with(monkeypatch, jpeglib, mean=8)[0][0].item() == 8
    with pytest.raises(ValueError, match=r"^JPEG of a kind that cannot be taken over"):
        grey_with(monkeypatch, jpeglib, **what)


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "jpeglib", None)
    with pytest.raises(
        UserError, match=r"^data\.codec=dct: taking over flow JPEGs needs jpeglib \(.*twostream-jax\[jpeg\]"
    ):
        dct_jpeg.jpeg_coefficients(jpeg_of(picture("smooth")))
