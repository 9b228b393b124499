"""Small nets of CNN-M's form as Oxford's two formats hold them, written by hand, and their forward pass."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import scipy.io

MEAN_RGB = (123.68, 116.779, 103.939)
# name: (channels, kernel, stride, padding), FACTS of the released net; pooling follows 1, 2 and 5.
CONV = {"conv1": (96, 7, 2, 0), "conv2": (256, 5, 2, 1), "conv3": (512, 3, 1, 1), "conv4": (512, 3, 1, 1)}
CONV |= {"conv5": (512, 3, 1, 1)}


def random_net(width: float, side: int, classes: int, seed: int = 0, channels: int = 3) -> dict:
    """Return {layer: (weights, bias)} in Caffe's layout: OIHW over BGR, full ones [out, in] over a map C, side, side."""
    rng, net, before = np.random.default_rng(seed), {}, channels
    for name, (count, kernel, _, _) in CONV.items():
        count = max(8, round(count * width))
        net[name] = _layer(rng, (count, before, kernel, kernel))
        before = count
    before *= side * side
    for name, count in (("fc6", max(8, round(4096 * width))), ("fc7", max(8, round(2048 * width))), ("fc8", classes)):
        net[name] = _layer(rng, (count, before))
        before = count
    return net


def _layer(rng, shape):
    weights = rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))
    return weights.astype(np.float32), rng.normal(size=shape[0]).astype(np.float32)


# --- Caffe -----------------------------------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value) -> bytes:
    """Return one field of a protocol buffer: a whole number, a float, or text and bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def blob(array: np.ndarray, old: bool, double: bool = False) -> bytes:
    if old:
        shape = (1,) * (4 - array.ndim) + array.shape
        head = b"".join(field(number, side) for number, side in enumerate(shape, 1))
    else:
        head = field(7, field(1, b"".join(map(varint, array.shape))))
    data = field(8, array.astype("<f8").tobytes()) if double else field(5, array.astype("<f4").tobytes())
    return head + data


def caffe_layers(old: bool) -> list[tuple[str, bytes]]:
    """Return (name, its parameters) of every layer of the released net, in order."""
    conv, pool, norm = (10, 19, 18) if old else (106, 121, 118)
    layers = [("data", b"")]
    pooling = field(pool, field(2, 3) + field(3, 2))
    lrn = field(norm, field(1, 5) + field(2, 5e-4) + field(3, 0.75) + field(5, 2.0))
    for name, (count, kernel, stride, pad) in CONV.items():
        # As Caffe writes them: what is a default is left out.
        stated = field(1, count) + (field(3, pad) if pad else b"") + field(4, kernel)
        layers += [(name, field(conv, stated + (field(6, stride) if stride > 1 else b""))), (f"relu{name[-1]}", b"")]
        if name in ("conv1", "conv2"):
            layers.append((f"norm{name[-1]}", lrn))
        if name in ("conv1", "conv2", "conv5"):
            layers.append((f"pool{name[-1]}", pooling))
    return [*layers, ("fc6", b""), ("relu6", b""), ("fc7", b""), ("relu7", b""), ("fc8", b""), ("prob", b"")]


def caffemodel(net: dict, *, old: bool = False, layers=None, double: bool = False) -> bytes:
    """Return the bytes of a .caffemodel, with Caffe's `layers` of 2014 (old) or `layer`."""
    whole = field(1, "CNN_M")
    for name, parameters in layers or caffe_layers(old):
        blobs = b"".join(field(6 if old else 7, blob(array, old, double)) for array in net.get(name, ()))
        whole += field(2 if old else 100, field(4 if old else 1, name) + blobs + parameters)
    return whole


# --- MatConvNet ------------------------------------------------------------------------------------------------------


def mat_layers(net: dict, *, old: bool) -> list[dict]:
    layers, width = [], net["conv5"][0].shape[0]
    side = int(np.sqrt(net["fc6"][0].shape[1] // width))
    shapes = {"fc6": (-1, width, side, side), "fc7": (-1, net["fc6"][0].shape[0], 1, 1)}
    shapes["fc8"] = (-1, net["fc7"][0].shape[0], 1, 1)
    for name, (weights, bias) in net.items():
        filters = weights.reshape(shapes.get(name, weights.shape)).transpose(2, 3, 1, 0)
        filters = filters[:, :, ::-1] if name == "conv1" else filters
        layer = {"name": name, "type": "conv", "stride": 1.0, "pad": 0.0}
        if name in CONV:
            stride, pad = CONV[name][2:]
            layer |= {"stride": np.array([stride, stride], float), "pad": np.full(4, pad, float)}
        row = bias[None]
        layers.append(layer | ({"filters": filters, "biases": row} if old else {"weights": cell(filters, row)}))
        layers.append({"name": f"relu{name[-1]}", "type": "relu"})
        if name in ("conv1", "conv2"):
            param = np.array([5, 2, 1e-4, 0.75])
            layers.append({"name": f"norm{name[-1]}", "type": "normalize" if old else "lrn", "param": param})
        if name in ("conv1", "conv2", "conv5"):
            pool = {"pool": np.array([3.0, 3.0]), "stride": np.array([2.0, 2.0]), "pad": np.array([0, 1, 0, 1.0])}
            layers.append({"name": f"pool{name[-1]}", "type": "pool", **pool})
    return [*layers[:-1], {"name": "prob", "type": "softmax"}]


def cell(*items) -> np.ndarray:
    array = np.empty((1, len(items)), object)
    array[0, :] = items
    return array


def write_mat(path: Path, net: dict, *, old: bool = False, layers=None, classes=(), mean=None, compress=True) -> Path:
    """Write a MatConvNet file; its mean is an image of 5 x 4 px that averages to MEAN_RGB, or `mean`."""
    if mean is None:
        mean = np.random.default_rng(1).normal(size=(5, 4, 3))
        mean = (mean - mean.mean(axis=(0, 1)) + MEAN_RGB).astype(np.float32)
    meta = {"normalization": {"averageImage": mean, "imageSize": np.array([224.0, 224, 3])}}
    if classes:
        meta["classes"] = {"name": cell(*classes), "description": cell(*classes)}
    content = {"layers": cell(*(layers or mat_layers(net, old=old)))}
    scipy.io.savemat(path, content | (meta if old else {"meta": meta}), do_compression=compress)
    return path


# --- what they compute -----------------------------------------------------------------------------------------------


def forward(net: dict, rgb: np.ndarray) -> np.ndarray:
    """Return logits float64 [N, classes] of uint8 rgb [N, H, W, 3], as Caffe computes them: NCHW, BGR less the mean."""
    x = (rgb.astype(np.float64) - MEAN_RGB)[..., ::-1].transpose(0, 3, 1, 2)
    for name, (_, _, stride, pad) in CONV.items():
        x = np.maximum(_convolve(x, *(a.astype(np.float64) for a in net[name]), stride, pad), 0)
        x = _normalise(x) if name in ("conv1", "conv2") else x
        x = _pool(x) if name in ("conv1", "conv2", "conv5") else x
    x = x.reshape(len(x), -1)
    for name in ("fc6", "fc7", "fc8"):
        x = (x if name == "fc6" else np.maximum(x, 0)) @ net[name][0].T.astype(np.float64) + net[name][1]
    return x


def _convolve(x, weights, bias, stride: int, pad: int) -> np.ndarray:
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, weights.shape[2:], axis=(2, 3))
    return (
        np.einsum("nchwij,ocij->nohw", windows[:, :, ::stride, ::stride], weights, optimize=True) + bias[:, None, None]
    )


def _normalise(x) -> np.ndarray:
    """Caffe's LRN: x / (k + alpha / size * sum of squares over `size` channels)^beta."""
    squares, sums = np.square(x), np.zeros_like(x)
    for channel in range(x.shape[1]):
        sums[:, channel] = squares[:, max(0, channel - 2) : channel + 3].sum(axis=1)
    return x / (2.0 + 5e-4 / 5 * sums) ** 0.75


def _pool(x) -> np.ndarray:
    """Caffe's pooling: 3x3 maxima at stride 2, as many as begin inside, cut off at the border."""
    count = -(-(x.shape[2] - 3) // 2) + 1
    rows = [x[:, :, 2 * i : 2 * i + 3].max(axis=2) for i in range(count)]
    return np.stack([np.stack([row[:, :, 2 * i : 2 * i + 3].max(axis=2) for i in range(count)], 2) for row in rows], 2)


def forward_in_torch(net: dict, rgb: np.ndarray) -> np.ndarray:
    """Return what `forward` does, computed by PyTorch, whose normalisation and ceil-mode pooling are Caffe's."""
    import torch
    import torch.nn.functional as F

    with torch.no_grad():
        x = torch.from_numpy(np.ascontiguousarray((rgb.astype(np.float64) - MEAN_RGB)[..., ::-1].transpose(0, 3, 1, 2)))
        for name, (_, _, stride, pad) in CONV.items():
            weights, bias = (torch.from_numpy(a).double() for a in net[name])
            x = F.relu(F.conv2d(x, weights, bias, stride=stride, padding=pad))
            if name in ("conv1", "conv2"):
                x = F.local_response_norm(x, 5, alpha=5e-4, beta=0.75, k=2.0)
            if name in ("conv1", "conv2", "conv5"):
                x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        x = x.flatten(1)
        for name in ("fc6", "fc7", "fc8"):
            weights, bias = (torch.from_numpy(a).double() for a in net[name])
            x = F.linear(x, weights, bias)
            x = x if name == "fc8" else F.relu(x)
        return x.numpy()
