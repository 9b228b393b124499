"""Reads MatConvNet's imagenet-vgg-m-2048.mat, a MATLAB file of version 5: both of its layouts, of 2014 and since 2015."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

from input_pipeline.schema import UserError, first_line
from twostream_jax.pretrained.oxford import (
    LAYERS,
    NORMALISATION,
    STRIDE_AND_PADDING,
    OxfordNet,
    check_normalised,
    check_setting,
    checked_net,
    lacking,
)

# Before 2015 `meta` was not there, and its fields stood beside `layers`.
VARIABLES = ("layers", "meta", "normalization", "classes")


def read_mat(path: Path) -> OxfordNet:
    """Return the CNN-M-2048 of a MatConvNet file; UserError naming the file where it is damaged or another net.

    Filters are HWIO over RGB already, full6's too; the mean image [H, W, 3] becomes its mean colour.
    """
    content = _load(path)
    try:
        layers = [_fields(cell) for cell in content["layers"].reshape(-1)]
        named = {str(_scalar(layer["name"])): layer for layer in layers if "name" in layer}
        weighted = {name: layer for name, layer in named.items() if "weights" in layer or "filters" in layer}
        meta = _fields(content["meta"]) if "meta" in content else content
        average = np.asarray(_fields(meta["normalization"])["averageImage"], np.float64)
        names = _fields(meta["classes"])["name"] if "classes" in meta else np.empty(0, object)
        classes = [str(_scalar(name)) for name in names.reshape(-1)]
    except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
        raise _damaged(path, f"its fields are not MatConvNet's: {first_line(error)}") from error
    for name in LAYERS.values():
        if name not in weighted:
            raise lacking(path, name, weighted)
    _check_settings(path, named)
    arrays = {ours: _weights(path, theirs, weighted[theirs]) for ours, theirs in LAYERS.items()}
    kernels = {name: kernel for name, (kernel, _) in arrays.items()}
    for name in ("full7", "full8"):
        kernels[name] = kernels[name].reshape(-1, kernels[name].shape[-1])
    return checked_net(
        path, kernels, {name: bias for name, (_, bias) in arrays.items()}, _mean_colour(path, average), classes
    )


def _load(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        try:
            content = scipy.io.loadmat(stream, variable_names=VARIABLES)
        except NotImplementedError as error:
            raise UserError(
                f"{path}: a MATLAB file of version 7.3; in MATLAB, load it and save it again with '-v7'"
            ) from error
        # Of a damaged file SciPy raises whatever it stumbles over, OSError too.
        except Exception as error:
            raise _damaged(path, first_line(error)) from error
    if "layers" not in content:
        raise _damaged(path, "it has no variable 'layers'")
    return content


def _fields(struct: np.ndarray) -> dict[str, Any]:
    """Return the fields of a MATLAB struct, which SciPy reads as an array of one record, a cell one of one object."""
    while struct.dtype == object:
        struct = struct.reshape(-1)[0]
    record = struct.reshape(-1)[0]
    return {name: record[name] for name in struct.dtype.names}


def _scalar(value: np.ndarray):
    """Return the text or number of MATLAB's [1, 1] and cell arrays."""
    while isinstance(value, np.ndarray):
        value = value.reshape(-1)[0]
    return value


def _weights(path: Path, name: str, layer: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return the kernel [h, w, in, out] and the bias [out] of a layer, float32."""
    pair = list(layer["weights"].reshape(-1)) if "weights" in layer else [layer["filters"], layer.get("biases")]
    if len(pair) != 2 or any(not isinstance(a, np.ndarray) or a.dtype.kind != "f" for a in pair):
        raise _damaged(path, f"{name} has no filters and biases")
    kernel, bias = pair
    # MATLAB drops dimensions of 1 at the end.
    kernel = kernel.reshape(*kernel.shape, *(1,) * (4 - kernel.ndim))
    if kernel.ndim != 4 or kernel.size == 0:
        raise _damaged(path, f"{name} has filters of shape {list(kernel.shape)}")
    return np.ascontiguousarray(kernel, np.float32), bias.reshape(-1).astype(np.float32)


def _mean_colour(path: Path, average: np.ndarray) -> np.ndarray:
    """Return RGB [3] of a mean image [H, W, 3] or a mean colour of any shape of three numbers."""
    if average.size == 3:
        return average.reshape(3)
    if average.ndim != 3 or average.shape[2] != 3:
        raise _damaged(path, f"its averageImage has shape {list(average.shape)}")
    return average.mean(axis=(0, 1))


def _check_settings(path: Path, layers: dict[str, dict[str, Any]]) -> None:
    """Refuse strides, paddings and normalisations other than CNN-M's, where the file states them."""
    wanted = {name: {"stride": stride, "pad": pad} for name, (stride, pad) in STRIDE_AND_PADDING.items()}
    wanted |= {f"pool{k}": {"pool": 3, "stride": 2} for k in (1, 2, 5)}
    wanted |= {f"norm{k}": {"param": list(NORMALISATION.values())} for k in (1, 2)}
    for name, settings in wanted.items():
        layer = layers.get(name, {})
        for key in settings.keys() & layer.keys():
            found = np.asarray(layer[key], np.float64).reshape(-1).tolist()
            value = settings[key]
            # One number, or one for each of two axes or four sides.
            check_setting(path, name, key, found, value if isinstance(value, list) else [value] * max(1, len(found)))
    check_normalised(
        path, [name for name, layer in layers.items() if _scalar(layer.get("type")) in ("normalize", "lrn")]
    )


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(f"{path}: not a whole MatConvNet file ({reason}); download or copy it again")
