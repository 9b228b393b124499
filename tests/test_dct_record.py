import numpy as np
import pytest

from input_pipeline import dct, dct_record

ZERO_MEAN = np.zeros(2)


def record_of(coefficients, size=None):
    down, across = coefficients.shape[-2:]
    size = size or (8 * down, 8 * across)
    return dct_record.serialise_field("v", 0, coefficients, dct.OWN_CODING, ZERO_MEAN, size)


def with_counts(counts, down, across, seed=0):
    """Coefficients int16 [2, 64, down, across] with so many non-zero ones in each of the first positions of x and y."""
    rng = np.random.default_rng(seed)
    coefficients = np.zeros((2, 64, down * across), np.int16)
    for component in (0, 1):
        for position, count in enumerate(counts):
            places = rng.choice(down * across, count, replace=False)
            coefficients[component, position, places] = rng.choice([-2000, -128, -1, 1, 127, 128], count)
    return coefficients.reshape(2, 64, down, across)


def test_thin_planes_have_a_coefficient_in_at_most_one_block_of_64():
    """20 x 32 = 640 blocks: up to 10 coefficients are thin, 11 are not."""
    coefficients = np.zeros((2, 64, 20, 32), np.int16)
    coefficients[0, 5].flat[:10] = 1
    coefficients[0, 9].flat[:11] = 1
    coefficients[1, 63].flat[-1] = 1000  # low byte -24, high byte 4
    header = dct_record.parse_header(record_of(coefficients))
    assert list(header.whole) == [9] and list(header.thin) == [5, 128 + 63, 128 + 64 + 63]
    assert list(header.counts) == [10, 1, 1] and header.coefficients == 12


def test_no_plane_has_more_thin_coefficients_than_a_byte_counts():
    """130 x 130 = 16900 blocks: one in 64 would be 264."""
    header = dct_record.parse_header(record_of(with_counts([255, 256], 130, 130)))
    assert {number % 64 for number in header.whole} == {1} and 0 in header.thin


def test_blocks_beyond_two_bytes_are_stored_whole():
    coefficients = np.zeros((2, 64, 257, 256), np.int16)
    coefficients[0, 3, 256, 255] = 7
    record = record_of(coefficients)
    header = dct_record.parse_header(record)
    assert list(header.whole) == [3] and not header.thin
    np.testing.assert_array_equal(dct_record.coefficients_of(record, header), coefficients)
    # With one row less the last block is number 65535.
    record = record_of(coefficients[:, :, 1:])
    header = dct_record.parse_header(record)
    assert list(header.thin) == [3] and not header.whole
    np.testing.assert_array_equal(dct_record.coefficients_of(record, header), coefficients[:, :, 1:])


@pytest.mark.parametrize("counts", [[0], [1], [640] * 64, [640, 200, 11, 10, 9, 1, 0, 1] * 8])
def test_any_coefficients_come_back(counts):
    coefficients = with_counts(counts, 20, 32)
    record = record_of(coefficients, (155, 249))
    header = dct_record.parse_header(record)
    assert (header.height, header.width, header.blocks) == (155, 249, (20, 32))
    np.testing.assert_array_equal(dct_record.coefficients_of(record, header), coefficients)
    np.testing.assert_array_equal(dct_record.coefficients_of(memoryview(record), header), coefficients)


@pytest.mark.parametrize("planes", [tuple(range(128)), (0, 2, 3, 64, 66), (5,), (127,)])
@pytest.mark.parametrize("corner", [(0, 0), (3, 7), (19, 31), (25, 0), (0, 40)])
def test_windows_hold_whole_and_thin_planes(planes, corner):
    fields = [with_counts([640, 200, 11, 10, 9, 1, 0, 1] * 8, 20, 32, seed) for seed in range(3)]
    fields.append(np.zeros_like(fields[0]))
    records = [record_of(field) for field in fields]
    out = np.zeros((4, 2, len(planes), 6, 9), np.int8)
    found = [(record, dct_record.parse_header(record)) for record in records]
    dct_record.fill_windows(found, planes, corner, out)
    padded = np.pad(dct.split_planes(np.stack(fields))[:, :, list(planes)], ((0, 0),) * 3 + ((0, 40), (0, 50)))
    wanted = padded[..., corner[0] : corner[0] + 6, corner[1] : corner[1] + 9]
    np.testing.assert_array_equal(out, wanted)
    # Position 0 has a coefficient in every block; the field ends at block (20, 32).
    assert 0 not in planes or wanted.any() == (corner[0] < 20 and corner[1] < 32)


def test_header_says_what_was_given():
    coding = dct.Coding(tuple(float(k + 1) for k in range(64)), 128.0)
    coefficients = with_counts([5], 2, 3)
    record = dct_record.serialise_field("a/é", 70_000, coefficients, coding, np.array([1.5, -0.25]), (9, 24))
    header = dct_record.parse_header(record)
    assert (header.key, header.index, header.mean) == (dct_record.video_key("a/é"), 70_000, (1.5, -0.25))
    assert header.coding == coding and dct_record.parse_header(record_of(coefficients)).coding == dct.OWN_CODING
    assert dct_record.video_key("a") != dct_record.video_key("b")
