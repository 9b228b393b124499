import itertools

import cv2
import numpy as np
import pytest

from input_pipeline import codecs, dct, dct_record
from input_pipeline.opencv_flow import compute_flow, grey
from input_pipeline.schema import dequantise_flow, quantise_flow
from input_pipeline.videos import iterate_frames

# First 16 positions of ITU-T T.81, figure A.6, as row * 8 + column.
FIRST_IN_ZIGZAG = [0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5]


def smooth_flow(height, width, seed=0, largest=9.0):
    noise = np.random.default_rng(seed).normal(size=(height, width, 2)).astype(np.float32)
    flow = cv2.GaussianBlur(noise, (0, 0), 2)
    return flow * np.float32(largest / np.abs(flow).max())


def in_blocks(padded):
    """[..., 8a, 8b] -> [..., a, b, 8, 8]."""
    *leading, height, width = padded.shape
    return np.swapaxes(padded.reshape(*leading, height // 8, 8, width // 8, 8), -2, -3)


def cosines():
    """D float64 [8, 8], frequency by place, as ITU-T T.81, A.3.3, writes it: C(u) / 2 cos((2x + 1) u pi / 16)."""
    return np.array(
        [[(0.5**0.5 if u == 0 else 1) / 2 * np.cos((2 * x + 1) * u * np.pi / 16) for x in range(8)] for u in range(8)]
    )


def exact_px(coefficients, coding, bound):
    """px float64 [..., H, W] of coefficients [..., 64, nby, nbx], by the standard's formula."""
    scaled = coefficients.astype(np.float64) * np.array(coding.steps)[:, None, None]
    *leading, _, down, across = scaled.shape
    scaled = scaled.reshape(*leading, 8, 8, down, across)
    levels = np.einsum("...uvyx,ui,vj->...yixj", scaled, cosines(), cosines()).reshape(*leading, 8 * down, 8 * across)
    return np.clip((levels + coding.zero - 127.5) * 2 * bound / 255, -bound, bound)


def test_zigzag_is_that_of_the_standard():
    assert dct.zigzag(16) == FIRST_IN_ZIGZAG
    assert dct.zigzag(64)[-3:] == [55, 62, 63] and sorted(dct.zigzag(64)) == list(range(64))


def test_coefficients_are_the_standards_rounded_to_the_steps():
    flow = smooth_flow(21, 35)
    coded = dct.code_field(flow, 20.0)
    assert coded.dtype == np.int16 and coded.shape == (2, 64, 3, 5)
    # Edges are repeated, not filled with zero.
    levels = np.pad(flow.astype(np.float64).transpose(2, 0, 1) * 127.5 / 20, ((0, 0), (0, 3), (0, 5)), mode="edge")
    exact = np.einsum("cyxij,ui,vj->cuvyx", in_blocks(levels), cosines(), cosines()).reshape(2, 64, 3, 5)
    steps = np.array(dct.OWN_CODING.steps)[:, None, None]
    # Half a step, and what float32 makes of coefficients up to 1020 / 2.
    assert np.abs(exact / steps - coded).max() <= 0.5 + 1e-4
    assert np.abs(coded).max() > 127


def test_flow_beyond_the_bound_is_clipped():
    flow = smooth_flow(16, 16)
    np.testing.assert_array_equal(dct.code_field(flow, 2.0), dct.code_field(np.clip(flow, -2, 2), 2.0))
    assert np.abs(dct.decode_field(dct.code_field(flow, 2.0), dct.OWN_CODING, 2.0)).max() <= 2.0


def test_a_still_field_is_exactly_zero():
    coded = dct.code_field(np.zeros((16, 24, 2), np.float32), 20.0)
    assert not coded.any()
    assert not dct.decode_field(coded, dct.OWN_CODING, 20.0).any()
    assert dct.px_zero(dct.OWN_CODING, 20.0) == 0.0


def test_a_level_field_by_hand():
    """6.4 px of a bound of 20 are 40.8 levels, 326.4 as the mean's coefficient, 163 steps of 2: low -93, high 1."""
    coded = dct.code_field(np.full((8, 8, 2), (6.4, -6.4), np.float32), 20.0)
    assert coded[:, 0, 0, 0].tolist() == [163, -163] and not coded[:, 1:].any()
    planes = dct.split_planes(coded)
    assert planes[:, [0, 64], 0, 0].tolist() == [[163 - 256, 1], [-163 + 256, -1]]
    # 326 / 8 = 40.75 levels of 40 / 255 px.
    np.testing.assert_allclose(dct.decode_field(coded, dct.OWN_CODING, 20.0)[0], 40.75 * 40 / 255, rtol=1e-6)


@pytest.mark.parametrize("coding", [dct.OWN_CODING, dct.Coding(tuple(float(k % 7 + 1) for k in range(64)), 128.0)])
def test_decoding_is_the_standards(coding):
    coefficients = np.random.default_rng(1).integers(-40, 40, (3, 2, 64, 4, 5)).astype(np.int16)
    decoded = dct.decode_field(coefficients, coding, 20.0)
    assert decoded.dtype == np.float32 and decoded.shape == (3, 2, 32, 40)
    wanted = exact_px(coefficients, coding, 20.0)
    # 64 terms of at most 40 * 8 levels / 4 in float32.
    np.testing.assert_allclose(decoded, wanted, atol=64 * 64 * 80 * 2.0**-24 * 40 / 255)
    assert (np.abs(wanted) == 20.0).any() and (np.abs(wanted) < 20.0).any()


def test_planes_hold_any_coefficient():
    every = np.arange(-(2**14) + 1, 2**14, dtype=np.int16)
    coefficients = np.resize(every, (2, 64, 32, 8))
    planes = dct.split_planes(coefficients)
    assert planes.dtype == np.int8 and planes.shape == (2, 128, 32, 8)
    np.testing.assert_array_equal(dct.join_planes(planes), coefficients)
    # What fits one byte needs no high plane.
    np.testing.assert_array_equal(planes[:, 64:] != 0, (coefficients < -128) | (coefficients > 127))


def test_the_mean_is_that_of_the_decoded_field_without_its_padding():
    flow = smooth_flow(21, 35, largest=30.0) + np.float32(3)
    coded = dct.code_field(flow, 20.0)
    mean = dct.mean_of_coded(coded, dct.OWN_CODING, 20.0, (21, 35))
    assert mean.dtype == np.float32
    np.testing.assert_allclose(mean, exact_px(coded, dct.OWN_CODING, 20.0)[:, :21, :35].mean((1, 2)), atol=2e-6)


def test_fewer_positions_are_the_first_in_zigzag():
    coded = dct.code_field(smooth_flow(32, 32), 20.0)
    fewer = dct.code_field(smooth_flow(32, 32), 20.0, positions=16)
    np.testing.assert_array_equal(fewer[:, FIRST_IN_ZIGZAG], coded[:, FIRST_IN_ZIGZAG])
    assert np.abs(np.delete(coded, FIRST_IN_ZIGZAG, 1)).any() and not np.delete(fewer, FIRST_IN_ZIGZAG, 1).any()


def test_px_of_a_unit_by_hand():
    coding = dct.Coding((16.0, 11.0, *[1.0] * 62), 128.0)
    # 2b / 255 is a px at b = 127.5: position 0, position 1, the high byte of position 1.
    assert dct.px_steps(coding, (0, 1, 65), 127.5).tolist() == [16.0, 11.0, 11.0 * 256]
    assert dct.px_zero(coding, 127.5) == 0.5


@pytest.mark.parametrize(("crop", "blocks"), [(224, 29), (225, 29), (226, 30), (1, 1), (2, 2), (8, 2), (9, 2), (10, 3)])
def test_window_sizes_by_hand(crop, blocks):
    assert dct.window_blocks(crop) == blocks


@pytest.mark.parametrize(("crop", "side"), [(224, 256), (224, 342), (224, 224), (41, 48), (8, 9), (1, 7)])
def test_every_crop_lies_in_its_window(crop, side):
    window, blocks = dct.window_blocks(crop), -(-side // 8)
    for start in range(side - crop + 1):
        first = dct.first_block(start, blocks, window)
        assert first == max(0, min(start // 8, blocks - window))
        # From its first px to its last, which are stored ones.
        assert 0 <= 8 * first <= start and start + crop <= min(8 * (first + window), 8 * blocks)


REAL = [
    ("weizmann4/bend/actor0_bend.avi", "dis", 4),
    ("ucf101/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi", "dis", 4),
    ("ucf101/BoxingSpeedBag/v_BoxingSpeedBag_g23_c04.avi", "dis", 4),
    ("ucf101/JavelinThrow/v_JavelinThrow_g05_c05.avi", "dis", 4),
    ("fight/fight/fi104.mp4", "dis", 4),
    ("ucf101/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi", "tvl1", 1),
    ("fight/noFight/nofi048.mp4", "tvl1", 1),
]


@pytest.fixture(scope="module")
def real_fields(data_dir):
    """Flow [n, H, W, 2] of real clips at short side 256, by seven (clip, method)."""
    fields = []
    for clip, method, pairs in REAL:
        frames = np.stack(list(itertools.islice(iterate_frames(data_dir / clip, 256), 20, 21 + pairs)))
        fields.append(compute_flow(grey(frames), method))
    return fields


def dct_error(flow, bound, positions):
    coded = dct.code_field(flow, bound, positions)
    px = dct.decode_field(coded, dct.OWN_CODING, bound)[:, : flow.shape[0], : flow.shape[1]].transpose(1, 2, 0)
    record = dct_record.serialise_field("v", 0, coded, dct.OWN_CODING, np.zeros(2), flow.shape[:2])
    return px - np.clip(flow, -bound, bound), len(record)


def jpeg_error(flow, bound):
    jpegs = codecs.encode_field(quantise_flow(flow, bound).transpose(2, 0, 1))
    px = dequantise_flow(np.stack([codecs.decode_grey(jpeg) for jpeg in jpegs], axis=-1), bound)
    return px - np.clip(flow, -bound, bound), sum(map(len, jpegs))


def summary(errors):
    """Mean and RMS error in px over all fields, and their bytes."""
    values = np.concatenate([error.ravel() for error, _ in errors])
    return np.abs(values).mean(), np.sqrt((values**2).mean()), sum(size for _, size in errors)


@pytest.mark.parametrize("bound", [20.0, "video"])
def test_real_flow_is_kept_as_well_as_by_jpeg_in_fewer_bytes(real_fields, bound):
    bounds = [float(np.abs(flow).max()) if bound == "video" else bound for flow in real_fields]
    pairs = [(field, b) for flow, b in zip(real_fields, bounds, strict=True) for field in flow]
    mean, rms, size = summary([jpeg_error(field, b) for field, b in pairs])
    all_mean, all_rms, all_size = summary([dct_error(field, b, 64) for field, b in pairs])
    assert all_mean <= 1.05 * mean and all_rms <= 1.05 * rms and all_size <= size
    few_mean, few_rms, few_size = summary([dct_error(field, b, 28) for field, b in pairs])
    assert few_mean <= mean and few_rms <= 0.12 and few_size <= all_size


def test_no_real_clip_is_kept_worse_than_by_jpeg(real_fields):
    for flow in real_fields:
        mean, rms, _ = summary([jpeg_error(field, 20.0) for field in flow])
        own_mean, own_rms, _ = summary([dct_error(field, 20.0, 64) for field in flow])
        assert own_mean <= 1.05 * mean and own_rms <= 1.05 * rms
