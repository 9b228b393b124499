"""The videos of `tiny_config` as DCT records, and their fields decoded on the host."""

import numpy as np

from input_pipeline import dct_record
from input_pipeline.dct import decode_field
from twostream_jax.drivers.prepare import prepare_records


def prepare_dct(config, folder, **changes):
    """Return a copy of the config whose records, in a new folder, hold flow of both directions as DCT records."""
    own = config.copy_and_resolve_references()
    own.data.records, own.data.codec, own.flow.backward = str(folder / "dct_records"), "dct", True
    own.flow.update(changes)
    prepare_records(own)
    return own


def host_fields(records, video, indices, backward=False):
    """Return (coefficients [n, 2, 64, nby, nbx], px float32 [n, H, W, 2], means [n, 2]) of a video's fields."""
    folder, stored = "flow_backward" if backward else "flow", records.videos[video]
    found = [records.raw(folder, video)[int(i)] for i in indices]
    headers = [dct_record.parse_header(record) for record in found]
    coefficients = np.stack([dct_record.coefficients_of(*pair) for pair in zip(found, headers, strict=True)])
    px = np.stack([decode_field(c, h.coding, stored.bound_px) for c, h in zip(coefficients, headers, strict=True)])
    whole = px[:, :, : stored.height, : stored.width].transpose(0, 2, 3, 1)
    return coefficients, whole, np.array([header.mean for header in headers], np.float32)
