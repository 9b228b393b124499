"""Oxford's CNN-M-2048, trained on ImageNet, as parameters of our spatial net. Nothing is read as a pickle."""

from __future__ import annotations

from pathlib import Path

from twostream_jax.pretrained.caffe import read_caffemodel
from twostream_jax.pretrained.matconvnet import read_mat
from twostream_jax.pretrained.oxford import OxfordNet, to_params

# By the file's last name.
READERS = {".caffemodel": read_caffemodel, ".mat": read_mat}

__all__ = ["READERS", "OxfordNet", "read_caffemodel", "read_mat", "read_oxford", "to_params"]


def read_oxford(path: Path) -> OxfordNet:
    """Return the net of a .caffemodel or MatConvNet .mat; UserError naming the file where it is not whole or no CNN-M."""
    return READERS[path.suffix.lower()](path)
