"""Flow JPEGs taken over as DCT coefficients, exactly: nothing is decoded and coded again."""

from __future__ import annotations

import tempfile

import numpy as np

from input_pipeline import dct_record
from input_pipeline.codecs import decode_grey
from input_pipeline.dct import BLOCK, POSITIONS, Coding, decode_field, mean_of_coded
from input_pipeline.schema import UserError

_MAX_COEFFICIENT = 2047  # quantised coefficients of 8-bit pictures have 11 bits and a sign (ITU-T T.81, F.1.2)


def transcode_field(x_jpeg: bytes, y_jpeg: bytes) -> tuple[np.ndarray, Coding, tuple[int, int]]:
    """Return the coefficients int16 [2, 64, nby, nbx] of a field's two JPEGs, their coding and (height, width) in px.

    Raises ValueError as `jpeg_coefficients` does, and where the two are not of one size and quality.
    """
    x, coding, size = jpeg_coefficients(x_jpeg)
    y, *facts = jpeg_coefficients(y_jpeg)
    if facts != [coding, size]:
        raise ValueError("the x and y JPEGs differ in size or in their quantisation tables")
    return np.stack([x, y]), coding, size


def field_record(name: str, index: int, x_jpeg: bytes, y_jpeg: bytes, bound_px: float) -> tuple[bytes, Coding]:
    """Return the DCT record of field `index` of a video from its two JPEGs, and its coding; raises as `transcode_field`."""
    coefficients, coding, size = transcode_field(x_jpeg, y_jpeg)
    mean = mean_of_coded(coefficients, coding, bound_px, size)
    return dct_record.serialise_field(name, index, coefficients, coding, mean, size), coding


def check_installed() -> None:
    """Raise UserError without the package jpeglib."""
    try:
        import jpeglib  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"data.codec=dct: taking over flow JPEGs needs jpeglib ({error}); run pip install 'twostream-jax[jpeg]'"
        ) from error


def jpeg_coefficients(jpeg: bytes) -> tuple[np.ndarray, Coding, tuple[int, int]]:
    """Return a JPEG's own quantised luminance coefficients int16 [64, nby, nbx], their coding and (height, width) in px.

    Raises ValueError when the JPEG is damaged, or when these coefficients do not give the picture that decoding gives,
    within one grey level (luminance at less than full resolution, a picture to be turned), or have steps above 255.
    Raises UserError without the package jpeglib.
    """
    check_installed()
    import jpeglib

    levels = decode_grey(jpeg)
    try:
        # It reads nothing but files.
        with tempfile.NamedTemporaryFile(suffix=".jpg") as file:
            file.write(jpeg)
            file.flush()
            image = jpeglib.read_dct(file.name)
            blocks, steps = image.Y, image.qt[image.quant_tbl_no[0]].ravel()
    except OSError as error:
        raise ValueError(f"damaged JPEG: {len(jpeg)} bytes whose coefficients cannot be read ({error})") from error
    (height, width), coding = levels.shape, Coding(tuple(map(float, steps)), 128.0)
    down, across = -(-height // BLOCK), -(-width // BLOCK)
    # Of a colour JPEG there may be more blocks than the picture fills.
    planes = blocks[:down, :across].reshape(-1, POSITIONS).T.reshape(POSITIONS, *blocks[:down, :across].shape[:2])
    if not _gives(planes, coding, levels) or steps.max() > 255:
        raise ValueError("JPEG of a kind that cannot be taken over: its luminance does not give the decoded picture")
    return planes, coding, (height, width)


def _gives(planes: np.ndarray, coding: Coding, levels: np.ndarray) -> bool:
    """Return whether coefficients [64, nby, nbx] decode to these levels [H, W] within one."""
    if np.abs(planes).max() > _MAX_COEFFICIENT:
        return False
    decoded = decode_field(planes, coding, 127.5) + 127.5  # at this bound a px is a level
    height, width = levels.shape
    decoded = decoded[:height, :width]
    return decoded.shape == levels.shape and np.abs(decoded - levels).max() <= 1.0
