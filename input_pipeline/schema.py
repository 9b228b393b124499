"""Keys, shapes, dtypes and units of records and batches; the flow <-> uint8 formula.

A batch is a dict of NumPy arrays, all of whose first axis is the sample B. It stays in bytes until the jitted step:

| key         | shape              | dtype   | what                                                                    |
|-------------|--------------------|---------|-------------------------------------------------------------------------|
| `rgb`       | [B, T, h, w, 3]    | uint8   | RGB window of the frame(s)                                              |
| `flow`      | [B, T, L, 2, h, w] | uint8   | planar window of L fields; plane 0 is d^x (right), plane 1 is d^y (down) |
| `mean`      | [B, T, L, 2]       | float32 | mean vector of each whole stored field, px per frame                    |
| `bound`     | [B]                | float32 | the px that uint8 255 stands for                                        |
| `size`      | [B, 2]             | int32   | valid h, w of the window; what lies beyond is padding                   |
| `crop`      | [B, 4]             | int32   | training: crop box y, x, h, w inside the window                         |
| `flip`      | [B]                | bool    | training: mirror the sample left to right (and negate d^x)              |
| `lighting`  | [B, 3]             | float32 | training, with `rgb`: draws of the PCA lighting, in standard deviations |
| `label`     | [B]                | int32   | 0-based class of the sample's own task                                  |
| `task`      | [B]                | int32   | index of the task among the run's tasks                                 |
| `weight`    | [B]                | float32 | 1 for a sample, 0 for padding                                           |

A batch holds `rgb`, or `flow` with `mean` and `bound`, or both, by the streams of the net. T is 1 for single-frame nets.

Flow of DCT records (`data.codec=dct`) comes as coefficients instead, of the P planes that some of the records hold (`dct`):

| key         | shape                    | dtype   | what                                                              |
|-------------|--------------------------|---------|-------------------------------------------------------------------|
| `flow`      | [B, T, L, 2, P, n, m]    | int8    | planes of n x m blocks of 8 px: the window, or more               |
| `steps`     | [B, P]                   | float32 | px that one unit of each plane stands for                         |
| `zero`      | [B]                      | float32 | px that zero coefficients stand for                               |

Their windows begin at whole blocks, that is at multiples of 8 px, and `crop` says where in one the crop lies.

The L fields of a bi-directional stack are L/2 forward ones, of frames t, t + 1, ..., then L/2 backward ones, of frames t,
t - 1, ..., each pointing to the frame before it. The window of a training sample is its crop (of DCT records the blocks
that hold it), or the whole frame where trajectories are followed out of the crop.
"""

from __future__ import annotations

import reprlib

import numpy as np

# Stands in every dataset.json; a reader refuses any other.
SCHEMA_VERSION = 2

STREAMS = ("rgb", "flow")
SUBSETS = ("train", "validation", "test")
OPENCV_METHODS = ("tvl1", "dis", "farneback", "deepflow")
DEVICE_METHODS = ("jax_tvl1", "jax_brox")  # computed by jax, on whatever devices there are
FLOW_METHODS = (*OPENCV_METHODS, *DEVICE_METHODS, "none")
CODECS = ("jpeg", "dct")


# Of a string this many characters, of a number that many digits, of a list six items.
_SHOWN = reprlib.Repr()
_SHOWN.maxstring = _SHOWN.maxother = 100


class UserError(ValueError):
    """A mistake that a user made and can mend: one line that names the key or file, its value and the remedy."""


def first_line(error: Exception) -> str:
    """Return the first line of what an error says, cut at 200 characters; its kind where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def one_line(text: str, most: int = 1000) -> str:
    """Return a text as one line of at most `most` characters, unprintable ones escaped: names may have any letter."""
    escaped = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text.replace("\n", " "))
    return escaped if len(escaped) <= most else f"{escaped[:most]} ..."


def shown_name(text: str) -> str:
    """Return a name as a message shows it: as it is, or like `shown` where it would break the line."""
    return text if text.isprintable() and len(text) <= 300 else shown(text)


def shown(value) -> str:
    """Return a value as a message shows it: like repr, in one line, long or deep ones cut."""
    return _SHOWN.repr(value)


def quantise_flow(flow: np.ndarray, bound_px: float) -> np.ndarray:
    """Return uint8 levels of a float flow: round(255 (clip(d, -b, b) + b) / 2b) with b = `bound_px` in px per frame.

    255 - q decodes to exactly -d, so a mirrored field needs no second encoding (2014 paper, Sect. 5: "linearly
    rescaled to a [0, 255] range").
    """
    clipped = np.clip(flow, -bound_px, bound_px)
    return np.rint((clipped + bound_px) * (255.0 / (2.0 * bound_px))).astype(np.uint8)


def dequantise_flow(levels: np.ndarray, bound_px: float) -> np.ndarray:
    """Return float32 px per frame of uint8 levels: 2b q / 255 - b. Level 127.5 would be zero; a zero field reads b / 255."""
    return levels.astype(np.float32) * np.float32(2.0 * bound_px / 255.0) - np.float32(bound_px)
