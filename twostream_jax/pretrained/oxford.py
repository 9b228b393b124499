"""CNN-M-2048 as Oxford released it (Chatfield et al. 2014), and its conversion to our net on our inputs.

Both of its formats compute on images of 0..255 less a mean: `.caffemodel` on BGR, MatConvNet's `.mat` on RGB. Ours takes
(x - 110) / 58 of RGB (`preprocess.colour`). conv1 has no padding, so that shift and scale of its input fold into its
weights and bias without any rest. Where the mean is an image, its mean colour is subtracted instead: one bias cannot
hold a mean that differs from place to place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from input_pipeline.schema import UserError, shown
from twostream_jax.preprocess.colour import RGB_MEAN, RGB_STD

# Our names and the files'.
CONVOLUTIONS = {f"conv{k}": f"conv{k}" for k in range(1, 6)}
FULL = {"full6": "fc6", "full7": "fc7", "full8": "fc8"}
LAYERS = CONVOLUTIONS | FULL

# What the released VGG_CNN_M_2048 states beside its weights: (stride, padding) of each convolution, and of the response
# normalisation x / (k + alpha * sum over `size` channels of x^2)^beta. Caffe writes alpha 5e-4 and divides it by the size.
STRIDE_AND_PADDING = {"conv1": (2, 0), "conv2": (2, 1), "conv3": (1, 1), "conv4": (1, 1), "conv5": (1, 1)}
NORMALISATION = {"size": 5.0, "k": 2.0, "alpha": 1e-4, "beta": 0.75}  # in MatConvNet's order


@dataclass(frozen=True)
class OxfordNet:
    """The layers of a file, by our names. Kernels float32: conv and full6 [h, w, in, out], full7 and full8 [in, out].

    conv1's input channels are RGB.
    """

    kernels: Mapping[str, np.ndarray]
    biases: Mapping[str, np.ndarray]
    mean_rgb: np.ndarray  # [3], subtracted from 0..255 before conv1
    classes: tuple[str, ...]  # of full8; empty where the file does not name them


def checked_net(path: Path, kernels, biases, mean_rgb, classes=()) -> OxfordNet:
    """Return the net of a file once its arrays belong together; UserError naming the file and the layer otherwise."""
    for name, theirs in LAYERS.items():
        kernel, bias = kernels[name], biases[name]
        if bias.shape != kernel.shape[-1:]:
            raise _unfit(path, f"{theirs} has {kernel.shape[-1]} filters and a bias of shape {list(bias.shape)}")
        if not (np.isfinite(kernel).all() and np.isfinite(bias).all()):
            raise _unfit(path, f"{theirs} holds values that are no numbers, so it is damaged")
    if kernels["conv1"].shape[2] != 3:
        raise _unfit(
            path, f"conv1 takes {kernels['conv1'].shape[2]} channels; only a net on RGB images can be converted"
        )
    if not np.isfinite(mean_rgb).all():
        raise _unfit(path, f"its mean colour is {mean_rgb.tolist()}")
    if classes and len(classes) != kernels["full8"].shape[-1]:
        raise _unfit(path, f"it names {len(classes)} classes and fc8 has {kernels['full8'].shape[-1]}")
    return OxfordNet(kernels, biases, mean_rgb, tuple(classes))


def check_setting(path: Path, layer: str, name: str, found, wanted) -> None:
    """Refuse a file whose layer computes otherwise than CNN-M's; a number may be the float32 of the wanted one."""
    if np.shape(found) != np.shape(wanted) or not np.allclose(found, wanted, rtol=1e-5, atol=0):
        there = f"{found:.6g}" if np.ndim(found) == 0 else shown(found)
        raise _unfit(path, f"{layer} has {name} {there}, CNN-M has {shown(wanted)}")


def check_normalised(path: Path, layers: list[str]) -> None:
    """Refuse a file that does not state the response normalisations after conv1 and conv2, and no others."""
    if layers != ["norm1", "norm2"]:
        raise _unfit(path, f"its response normalisations are {shown(layers)}, CNN-M has norm1 and norm2")


def lacking(path: Path, layer: str, there) -> UserError:
    """Return the line for a file that has no such layer; `there` are the names that it has."""
    names = ", ".join(shown(name) for name in list(there)[:4]) or "none"
    return _unfit(path, f"no layer {layer!r} with weights (there are: {names}{', ...' if len(there) > 4 else ''})")


def to_params(net: OxfordNet) -> dict[str, dict[str, np.ndarray]]:
    """Return {layer: {"kernel", "bias"}} float32, conv1 .. full8, so that ours on our inputs computes what theirs does.

    conv1(x - mean) on x = 58 z + 110 is 58 conv1(z) + bias + sum of conv1's weights times (110 - mean). A weight of conv1
    is so 58 times theirs and, at the same learning rate, moves 58^2 times less for its size than it would in Caffe.
    """
    params = {name: {"kernel": net.kernels[name], "bias": net.biases[name]} for name in LAYERS}
    # Float64, so that the sum over 147 weights is rounded once.
    kernel = params["conv1"]["kernel"].astype(np.float64)
    shift = np.einsum("hwco,c->o", kernel, RGB_MEAN - np.asarray(net.mean_rgb, np.float64))
    params["conv1"] = {"kernel": kernel * RGB_STD, "bias": params["conv1"]["bias"] + shift}
    return {name: {key: np.asarray(a, np.float32) for key, a in layer.items()} for name, layer in params.items()}


def _unfit(path: Path, what: str) -> UserError:
    return UserError(f"{path}: not Oxford's CNN-M ({what}); give VGG_CNN_M_2048.caffemodel or imagenet-vgg-m-2048.mat")
