import struct

import cv2
import numpy as np
import pytest

from input_pipeline import codecs
from input_pipeline.schema import dequantise_flow


def smooth(height=48, width=64, seed=0):
    noise = np.random.default_rng(seed).normal(size=(height, width)).astype(np.float32)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 4), None, 60, 200, cv2.NORM_MINMAX).astype(np.uint8)


def test_field_planes_come_back_in_order():
    levels = np.stack([smooth(seed=1), smooth(seed=2)])
    x, y = codecs.encode_field(levels)
    for plane, jpeg in zip(levels, (x, y), strict=True):
        decoded = codecs.decode_grey(jpeg)
        assert decoded.dtype == np.uint8 and decoded.shape == (48, 64)
        # Quality 95 quantises smooth content by steps of 1 to 3: two levels at the most.
        assert np.abs(decoded.astype(int) - plane).max() <= 2


def test_frame_comes_back_as_rgb():
    frame = np.zeros((32, 48, 3), np.uint8)
    frame[:] = (200, 30, 60)
    decoded = codecs.decode_frame(codecs.encode_frame(frame))
    # A uniform block keeps its colour but for the rounding of YCbCr.
    assert np.abs(decoded.astype(int) - frame).max() <= 2


def test_quality_is_95():
    # IJG scales the standard table's first entry, 16, by (200 - 2q) percent: 16 * 10 / 100 + .5 = 2.
    jpeg, _ = codecs.encode_field(np.zeros((2, 16, 16), np.uint8))
    table = jpeg.index(b"\xff\xdb")
    assert jpeg[table + 5] == 2


def test_jpegs_are_grey():
    jpeg, _ = codecs.encode_field(np.zeros((2, 16, 16), np.uint8))
    frame_header = jpeg.index(b"\xff\xc0")
    assert jpeg[frame_header + 9] == 1  # components


def test_mean_is_that_of_the_decoded_field():
    # Noise, whose mean JPEG does not keep exactly, so that the encoded field's mean would differ.
    levels = np.random.default_rng(0).integers(0, 256, (2, 40, 56)).astype(np.uint8)
    x, y = codecs.encode_field(levels)
    decoded = np.stack([cv2.imdecode(np.frombuffer(j, np.uint8), cv2.IMREAD_GRAYSCALE) for j in (x, y)])
    wanted = dequantise_flow(decoded, 20.0).astype(np.float64).mean(axis=(1, 2))
    mean = codecs.mean_of_stored(x, y, 20.0)
    assert mean.dtype == np.float32 and mean.shape == (2,)
    # float32 px of about 20 have steps of 2e-6.
    np.testing.assert_allclose(mean, wanted, atol=4e-6)
    assert np.abs(dequantise_flow(levels, 20.0).mean(axis=(1, 2), dtype=np.float64) - wanted).max() > 1e-4


def test_damaged_jpegs_are_refused():
    whole = codecs.encode_frame(np.zeros((32, 32, 3), np.uint8))
    for decode in (codecs.decode_grey, codecs.decode_frame):
        with pytest.raises(ValueError, match=rf"damaged JPEG: {len(whole) - 5} bytes without an end marker"):
            decode(whole[:-5])
        with pytest.raises(ValueError, match="damaged JPEG: 0 bytes"):
            decode(b"")
        with pytest.raises(ValueError, match="damaged JPEG: 12 bytes that cannot be decoded"):
            decode(b"0123456789\xff\xd9")


@pytest.mark.parametrize("side", [8192, 32000, 65500])
def test_a_header_that_claims_an_enormous_picture_is_refused_before_memory_is_taken(side):
    """OpenCV takes 6 GB for 32000x32000 px and raises an error of its own kind for more than 2^30 px."""
    jpeg = codecs.encode_frame(np.zeros((48, 64, 3), np.uint8))
    assert codecs.claimed_size(jpeg) == (48, 64)
    height_and_width = struct.pack(">HH", 48, 64)
    assert jpeg.count(height_and_width) == 1
    damaged = jpeg.replace(height_and_width, struct.pack(">HH", side, side))
    for decode in (codecs.decode_grey, codecs.decode_frame):
        with pytest.raises(ValueError, match=f"damaged JPEG: claims {side}x{side} px, more than 35,651,584"):
            decode(damaged)


def test_the_claimed_size_is_found_behind_other_segments_or_nowhere():
    frame = b"\xff\xc2\x00\x11\x08\x00\x30\x00\x40"  # SOF2, as in progressive JPEGs: 8 bits, 48 x 64
    table = b"\xff\xc4\x00\x04\xff\xc0"  # a Huffman table whose content looks like a frame header
    assert codecs.claimed_size(b"\xff\xd8" + table + b"\xff\xff\xff" + frame) == (48, 64)
    for nowhere in (b"", b"\xff\xd8", b"\xff\xd8" + table, b"\xff\xd8" + table + frame[:6], b"\xff" * 100):
        assert codecs.claimed_size(nowhere) == (0, 0)


def test_other_pictures_than_jpegs_are_refused():
    png = cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes()
    with pytest.raises(ValueError, match=r"damaged JPEG: \d+ bytes that cannot be decoded"):
        codecs.decode_frame(png + b"\xff\xd9")


def test_records_keep_their_features():
    mean = np.array([1.5, -0.25], np.float32)
    name, index, x, y, got = codecs.parse_field(codecs.serialise_field("Biking/ä b", 7, b"\xff\x00x", b"y", mean))
    assert (name, index, x, y) == ("Biking/ä b", 7, b"\xff\x00x", b"y")
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, mean)
    assert codecs.parse_frame(codecs.serialise_frame("a", 0, b"image")) == ("a", 0, b"image")


def test_record_bytes_are_a_tf_example():
    # Written out by hand from example.proto's field numbers: features(1) { feature(1) { key(1) value(2) } }, keys sorted;
    # value holds int64_list(3) or bytes_list(1), whose value is field 1, int64 packed.
    def message(number, content):
        return bytes([number << 3 | 2, len(content)]) + content

    def entry(key, value):
        return message(1, message(1, key) + message(2, value))

    index = entry(b"index", message(3, message(1, b"\x05")))
    image = entry(b"image", message(1, message(1, b"J")))
    video = entry(b"video", message(1, message(1, b"v")))
    assert codecs.serialise_frame("v", 5, b"J") == message(1, image + index + video)


def test_other_records_are_refused():
    with pytest.raises(ValueError, match=r"record of 3 bytes is not a tf\.train\.Example"):
        codecs.parse_frame(b"\xff\xff\xff")
    with pytest.raises(ValueError, match="record without the feature index"):
        codecs.parse_frame(b"")
    with pytest.raises(ValueError, match="record without the feature image"):
        codecs.parse_frame(codecs.serialise_field("a", 0, b"x", b"y", np.zeros(2, np.float32)))
    with pytest.raises(ValueError, match=r"record without the feature mean \[2\]"):
        codecs.parse_field(codecs.serialise_frame("a", 0, b"image"))
    with pytest.raises(ValueError, match="record without the feature y"):
        codecs.parse_field(codecs._serialise("a", 0, {"x": b"x"}, np.zeros(2, np.float32)))
