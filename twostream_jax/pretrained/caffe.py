"""Reads a .caffemodel: Caffe's NetParameter, a protocol buffer, by the few of its fields that matter here.

Numbers of the fields are those of Caffe's caffe.proto. Both of its kinds of layers are read, `layers` (2014) and `layer`.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from input_pipeline.schema import UserError, first_line
from twostream_jax.pretrained.oxford import (
    CONVOLUTIONS,
    LAYERS,
    NORMALISATION,
    STRIDE_AND_PADDING,
    OxfordNet,
    check_normalised,
    check_setting,
    checked_net,
    lacking,
)

# RGB on 0..255: the mean colour of Oxford's mean image, which lies in a file of its own (VGG_mean).
MEAN_RGB = (123.68, 116.779, 103.939)

# Message -> its fields: (name, number, kind, repeated). Packed numbers of a blob have the wire format of bytes: read as
# such, 90 million of them become an array without a Python object for each.
_LAYER = [
    ("convolution_param", "ConvolutionParameter"),
    ("pooling_param", "PoolingParameter"),
    ("lrn_param", "LRNParameter"),
]
_MESSAGES = {
    "BlobShape": [("dim", 1, "INT64", True)],
    "BlobProto": [
        *((name, number, "INT32", False) for number, name in enumerate(("num", "channels", "height", "width"), 1)),
        ("data", 5, "BYTES", True),
        ("double_data", 8, "BYTES", True),
        ("shape", 7, "BlobShape", False),
    ],
    "ConvolutionParameter": [("pad", 3, "UINT32", True), ("stride", 6, "UINT32", True)],
    "PoolingParameter": [
        ("pool", 1, "INT32", False),
        ("kernel_size", 2, "UINT32", False),
        ("stride", 3, "UINT32", False),
    ],
    "LRNParameter": [
        ("local_size", 1, "UINT32", False),
        ("alpha", 2, "FLOAT", False),
        ("beta", 3, "FLOAT", False),
        ("k", 5, "FLOAT", False),
    ],
    "V0LayerParameter": [("name", 1, "BYTES", False)],
    "V1LayerParameter": [
        ("layer", 1, "V0LayerParameter", False),
        ("name", 4, "BYTES", False),
        ("blobs", 6, "BlobProto", True),
        *((name, number, kind, False) for (name, kind), number in zip(_LAYER, (10, 19, 18), strict=True)),
    ],
    "LayerParameter": [
        ("name", 1, "BYTES", False),
        ("blobs", 7, "BlobProto", True),
        *((name, number, kind, False) for (name, kind), number in zip(_LAYER, (106, 121, 118), strict=True)),
    ],
    "NetParameter": [("layers", 2, "V1LayerParameter", True), ("layer", 100, "LayerParameter", True)],
}
# Caffe's own values where a field is left out.
_DEFAULTS = {"stride": 1, "pad": 0, "local_size": 5, "alpha": 1.0, "beta": 0.75}


def read_caffemodel(path: Path) -> OxfordNet:
    """Return the CNN-M-2048 of a .caffemodel; UserError naming the file where it is damaged or another net.

    Kernels are OIHW over BGR in the file, full6's inputs the map in the order C, H, W; HWIO over RGB here.
    """
    try:
        net = _message("NetParameter").FromString(path.read_bytes())
    except DecodeError as error:
        raise _damaged(path, first_line(error)) from error
    layers = {_name(layer): layer for layer in [*net.layers, *net.layer] if layer.blobs}
    if any(layer.HasField("layer") for layer in net.layers):
        raise UserError(f"{path}: in Caffe's format of 2013; convert it with Caffe's upgrade_net_proto_binary")
    for name in LAYERS.values():
        if name not in layers:
            raise lacking(path, name, layers)
        if len(layers[name].blobs) != 2:
            raise _damaged(path, f"{name} has {len(layers[name].blobs)} arrays, weights and a bias are 2")
    _check_settings(path, [*net.layers, *net.layer])
    blobs = {ours: [_array(path, theirs, blob) for blob in layers[theirs].blobs] for ours, theirs in LAYERS.items()}
    kernels = _kernels(path, {name: weights for name, (weights, _) in blobs.items()})
    biases = {name: bias.reshape(-1) for name, (_, bias) in blobs.items()}
    return checked_net(path, kernels, biases, np.array(MEAN_RGB))


def _kernels(path: Path, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the kernels in our layout of the weights in Caffe's."""
    kernels = {}
    for name, blob in weights.items():
        if name in CONVOLUTIONS:
            if blob.ndim != 4:
                raise _damaged(path, f"{name} has weights of shape {list(blob.shape)}")
            kernels[name] = blob.transpose(2, 3, 1, 0)
        else:
            # The first versions wrote a matrix as [1, 1, out, in].
            outputs = blob.shape[2] if blob.ndim == 4 and blob.shape[:2] == (1, 1) else blob.shape[0]
            kernels[name] = blob.reshape(outputs, -1).T
    kernels["conv1"] = kernels["conv1"][:, :, ::-1]
    channels, inputs = kernels["conv5"].shape[-1], kernels["full6"].shape[0]
    side = math.isqrt(inputs // channels) if channels else 0
    if side * side * channels != inputs:
        raise _damaged(path, f"fc6 takes {inputs} numbers, no square map of conv5's {channels} channels")
    kernels["full6"] = kernels["full6"].reshape(channels, side, side, -1).transpose(1, 2, 0, 3)
    return kernels


def _array(path: Path, layer: str, blob) -> np.ndarray:
    """Return the float32 array of a blob, in the shape that it states."""
    shape = list(blob.shape.dim) if blob.HasField("shape") else [blob.num, blob.channels, blob.height, blob.width]
    data, dtype = (blob.double_data, "<f8") if blob.double_data else (blob.data, "<f4")
    content = b"".join(data)
    stated = math.prod(shape) * np.dtype(dtype).itemsize
    if min(shape, default=0) < 1 or stated != len(content):
        raise _damaged(path, f"{layer} states an array of shape {shape} and holds {len(content)} bytes")
    return np.frombuffer(content, dtype).reshape(shape).astype(np.float32)


def _check_settings(path: Path, layers) -> None:
    """Refuse strides, paddings, poolings and normalisations other than CNN-M's, where the file states them."""
    for layer in layers:
        name = _name(layer)
        if name in STRIDE_AND_PADDING and layer.HasField("convolution_param"):
            for key, wanted in zip(("stride", "pad"), STRIDE_AND_PADDING[name], strict=True):
                for found in getattr(layer.convolution_param, key) or [_DEFAULTS[key]]:
                    check_setting(path, name, key, found, wanted)
        if layer.HasField("pooling_param"):
            for key, wanted in (("pool", 0), ("kernel_size", 3), ("stride", 2)):
                check_setting(path, name, key, _stated(layer.pooling_param, key), wanted)
        if layer.HasField("lrn_param"):
            _check_normalisation(path, name, layer.lrn_param)
    # A file of weights alone says nothing of the rest.
    if not all(layer.blobs for layer in layers):
        check_normalised(path, [_name(layer) for layer in layers if layer.HasField("lrn_param")])


def _check_normalisation(path: Path, name: str, stated) -> None:
    size = _stated(stated, "local_size")
    check_setting(path, name, "local_size", size, NORMALISATION["size"])
    check_setting(path, name, "alpha / local_size", _stated(stated, "alpha") / size, NORMALISATION["alpha"])
    check_setting(path, name, "beta", _stated(stated, "beta"), NORMALISATION["beta"])
    # Caffe of early 2014 has no such field; Oxford's prototxt says 2.
    if stated.HasField("k"):
        check_setting(path, name, "k", stated.k, NORMALISATION["k"])


def _stated(message, key: str):
    return getattr(message, key) if message.HasField(key) else _DEFAULTS.get(key, 0)


def _name(layer) -> str:
    # Bytes that are no UTF-8 are somebody's damage, to be shown and not to be stumbled over.
    return layer.name.decode(errors="replace")


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(f"{path}: not a whole .caffemodel ({reason}); download or copy it again")


@cache
def _message(name: str):
    """Return the class of a message of `_MESSAGES`."""
    field_types = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="caffemodel_fields.proto", package="caffemodel", syntax="proto2")
    for message, fields in _MESSAGES.items():
        described = file.message_type.add(name=message)
        for field, number, kind, repeated in fields:
            label = field_types.LABEL_REPEATED if repeated else field_types.LABEL_OPTIONAL
            added = described.field.add(name=field, number=number, label=label)
            if kind in _MESSAGES:
                added.type, added.type_name = field_types.TYPE_MESSAGE, f".caffemodel.{kind}"
            else:
                added.type = getattr(field_types, f"TYPE_{kind}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffemodel.{name}"))
