import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.fft import dctn, idctn
from test_dct import smooth_flow

from input_pipeline import dct, dct_record, dct_store
from input_pipeline.codecs import decode_grey
from input_pipeline.dataset_file import RecordFile
from twostream_jax.preprocess.crops import crop_windows
from twostream_jax.preprocess.dequantise import dequantise_dct

BOUND = 20.0
JPEG_LIKE = dct.Coding(tuple(float(k % 12 + 1) for k in range(64)), 128.0)
ALL = tuple(range(128))


def to_px(planes, codings, bounds, numbers):
    """dequantise_dct of int8 planes [B, ...], jitted, each sample with its own coding and bound."""
    pairs = list(zip(codings, bounds, strict=True))
    steps = jnp.array([dct.px_steps(coding, numbers, bound) for coding, bound in pairs])
    zero = jnp.array([dct.px_zero(coding, bound) for coding, bound in pairs], jnp.float32)
    run = jax.jit(dequantise_dct, static_argnames="planes")
    return run(jnp.array(planes), steps, zero, jnp.array(bounds, jnp.float32), planes=numbers)


def scipy_px(coefficients, coding, bound):
    """px float64 [..., H, W] of coefficients [..., 64, nby, nbx], by SciPy."""
    *leading, _, down, across = coefficients.shape
    scaled = coefficients.astype(np.float64) * np.array(coding.steps)[:, None, None]
    blocks = np.moveaxis(scaled, -3, -1).reshape(*leading, down, across, 8, 8)
    levels = np.swapaxes(idctn(blocks, axes=(-2, -1), norm="ortho"), -2, -3).reshape(*leading, 8 * down, 8 * across)
    return np.clip((levels + coding.zero - 127.5) * 2 * bound / 255, -bound, bound)


def float32_bound(coefficients, coding, bound):
    """How far each px [..., H, W] of coefficients [..., 64, nby, nbx] may be from float64's, summed in any order.

    A sum of n float32 products is off by at most (n + 1) 2^-24 times the sum of their sizes; step, scale, basis and their
    product are rounded once each, and zero is added at the end.
    """
    sizes = np.abs(dct.split_planes(coefficients).astype(np.float64)) * dct.px_steps(coding, ALL, bound)[:, None, None]
    matrix = np.abs(dctn(np.eye(8), axes=0, norm="ortho"))
    blocks = sizes.reshape(*sizes.shape[:-3], 2, 8, 8, *sizes.shape[-2:])
    summed = np.einsum("...huvyx,ui,vj->...yixj", blocks, matrix, matrix)
    *leading, down, _, across, _ = summed.shape
    return (128 + 6) * 2.0**-24 * (summed.reshape(*leading, 8 * down, 8 * across) + bound)


@pytest.mark.parametrize("leading", [(), (3,), (2, 3, 2)])
def test_px_are_scipys_within_what_float32_allows(leading):
    coefficients = np.random.default_rng(2).integers(-300, 300, (2, *leading, 64, 3, 4)).astype(np.int16)
    # Small enough not to be clipped nearly everywhere.
    coefficients[..., 1:, :, :] //= 16
    codings, bounds = (dct.OWN_CODING, JPEG_LIKE), (20.0, 3.0)
    px = to_px(dct.split_planes(coefficients), codings, bounds, ALL)
    assert px.shape == (2, *leading, 24, 32) and px.dtype == jnp.float32
    for b, (coding, bound) in enumerate(zip(codings, bounds, strict=True)):
        wanted = scipy_px(coefficients[b], coding, bound)
        assert (np.abs(wanted) < bound).mean() > 0.5
        allowed = float32_bound(coefficients[b], coding, bound)
        # A fiftieth of a grey level: far below what a wrong plane, step or sign would make.
        assert allowed.max() < 2 * bound / 255 / 50
        assert (np.abs(px[b] - wanted) <= allowed).all()


def test_the_inverse_is_one_product():
    shapes = [(2, 1, 10, 2, 67, 3, 4), (2, 67), (2,), (2,)]
    inputs = [jnp.zeros(shape, dtype) for shape, dtype in zip(shapes, [jnp.int8] + 3 * [jnp.float32], strict=True)]
    program = str(jax.make_jaxpr(lambda *arrays: dequantise_dct(*arrays, tuple(range(67))))(*inputs))
    assert program.count("dot_general[") == 1 and "gather" not in program


def test_a_level_block_by_hand():
    """Low byte -93 and high byte 1 are 163, in steps of 2 levels: 40.75 levels of 40 / 255 px."""
    planes = np.zeros((1, 2, 1, 1), np.int8)
    planes[0, :, 0, 0] = -93, 1
    px = to_px(planes, [dct.OWN_CODING], [BOUND], (0, 64))
    np.testing.assert_allclose(px, np.full((1, 8, 8), 40.75 * 40 / 255), rtol=1e-6)


def test_frequencies_lie_as_in_a_jpeg():
    """Position 1 varies along x, position 8 along y."""
    for position, axis in ((1, 2), (8, 1)):
        planes = np.full((1, 1, 1, 1), 9, np.int8)
        px = np.asarray(to_px(planes, [dct.OWN_CODING], [BOUND], (position,)))
        assert np.abs(np.diff(px, axis=axis)).min() > 0 and np.ptp(px, axis=3 - axis).max() == 0


def test_px_are_clipped_at_the_bound_as_levels_are():
    planes = np.full((2, 1, 1, 1), 127, np.int8)
    planes[1] = -127
    px = to_px(planes, [JPEG_LIKE, JPEG_LIKE], [1.0, 2.0], (11,))
    assert px[0].max() == 1.0 and px[0].min() == -1.0 and px[1].max() == 2.0 and px[1].min() == -2.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four fields of 61x83 px, some of whose coefficients need two bytes; and the fields' coefficients."""
    path = tmp_path_factory.mktemp("dct")
    fields = [dct.code_field(smooth_flow(61, 83, seed) + np.float32([7, -1]), BOUND) for seed in range(4)]
    size = (61, 83)
    records = [
        dct_record.serialise_field(
            "v", i, field, dct.OWN_CODING, dct.mean_of_coded(field, dct.OWN_CODING, BOUND, size), size
        )
        for i, field in enumerate(fields)
    ]
    file = RecordFile("f", 4, dct_store.write_file(path / "f", records))
    return dct_store.DctFolder(path, [file]), np.stack(fields)


def test_a_window_cropped_gives_what_the_whole_field_gives(folder):
    store, fields = folder
    crop, planes = 37, store.planes
    assert any(plane >= 64 for plane in planes)
    whole = np.zeros((1, 4, 2, len(planes), 8, 11), np.int8)
    store.read_stack((0, 0), "v", range(4), planes, (0, 0), whole[0])
    whole_px = np.asarray(to_px(whole, [dct.OWN_CODING], [BOUND], planes))
    corners = [(y, x) for y in (0, 3, 8, 15, 24) for x in (0, 7, 16, 33, 46)]
    n = dct.window_blocks(crop)
    windows = np.zeros((len(corners), 4, 2, len(planes), n, n), np.int8)
    boxes = np.full((len(corners), 4), crop, np.int32)
    for b, (y, x) in enumerate(corners):
        first = dct.first_block(y, 8, n), dct.first_block(x, 11, n)
        store.read_stack((0, 0), "v", range(4), planes, first, windows[b])
        boxes[b, :2] = y - 8 * first[0], x - 8 * first[1]
    count = len(corners)
    px = crop_windows(to_px(windows, [dct.OWN_CODING] * count, [BOUND] * count, planes), jnp.array(boxes), crop)
    allowed = 2 * float32_bound(fields, dct.OWN_CODING, BOUND)
    for b, (y, x) in enumerate(corners):
        box = np.s_[..., y : y + crop, x : x + crop]
        assert (np.abs(px[b] - whole_px[0][box]) <= allowed[box]).all()


def test_the_stored_mean_is_that_of_the_device_s_field(folder):
    store, _ = folder
    whole = np.zeros((1, 4, 2, len(store.planes), 8, 11), np.int8)
    stack = store.read_stack((0, 0), "v", range(4), store.planes, (0, 0), whole[0])
    px = np.asarray(to_px(whole, [stack.coding], [BOUND], store.planes))[0, ..., :61, :83]
    # Each of 5063 px is off by 2e-5 at most, and not all the same way.
    np.testing.assert_allclose(stack.means, px.mean((2, 3), dtype=np.float64), rtol=0, atol=2e-5)


def test_the_device_decodes_as_the_host(folder):
    _, fields = folder
    px = to_px(dct.split_planes(fields), [dct.OWN_CODING] * 4, [BOUND] * 4, ALL)
    difference = np.abs(px - dct.decode_field(fields, dct.OWN_CODING, BOUND))
    assert (difference <= 2 * float32_bound(fields, dct.OWN_CODING, BOUND)).all()


def test_a_jpeg_taken_over_is_the_jpeg_decoded_within_one_level():
    pytest.importorskip("jpeglib")
    from input_pipeline.dct_jpeg import jpeg_coefficients

    rng = np.random.default_rng(5)
    for quality in (75, 95):
        image = cv2.resize(rng.integers(0, 256, (9, 12), dtype=np.uint8), (70, 45), interpolation=cv2.INTER_NEAREST)
        jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
        coefficients, coding, _ = jpeg_coefficients(jpeg)
        # At this bound a px is a level.
        px = np.asarray(to_px(dct.split_planes(coefficients)[None], [coding], [127.5], ALL))[0, :45, :70]
        assert np.abs(px + 127.5 - decode_grey(jpeg)).max() <= 1.0
