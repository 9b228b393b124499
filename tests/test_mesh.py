"""The mesh's order, and what goes where."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from input_pipeline.schema import UserError
from twostream_jax import mesh as meshes


def test_devices_are_ordered_by_process_then_id(monkeypatch):
    shuffled = [jax.devices()[i] for i in (5, 0, 3, 7, 1, 2, 6, 4)]
    assert [d.id for d in meshes.make_mesh(shuffled).devices] == list(range(8))
    fakes = [SimpleNamespace(process_index=p, id=i) for p, i in [(1, 2), (0, 9), (1, 0), (0, 1)]]
    monkeypatch.setattr(meshes, "Mesh", lambda devices, *_, **__: devices)
    assert [(d.process_index, d.id) for d in meshes.make_mesh(fakes)] == [(0, 1), (0, 9), (1, 0), (1, 2)]


def test_a_batch_is_split_by_rows_in_order():
    mesh = meshes.make_mesh()
    batch = meshes.put_batch({"x": np.arange(32).reshape(16, 2)}, mesh)["x"]
    for device, shard in zip(mesh.devices, sorted(batch.addressable_shards, key=lambda s: s.device.id), strict=True):
        rows = np.asarray(shard.data)
        assert shard.device == device and rows.shape == (2, 2)
        assert rows[0, 0] == device.id * 4


def test_a_coordinator_that_is_none(monkeypatch):
    def refuse(*_):
        raise ValueError("no such coordinator\nand more lines")

    monkeypatch.setattr(jax.distributed, "initialize", refuse)
    with pytest.raises(
        UserError, match=r"--coordinator=nowhere --num_processes=2 --process_id=0: no such coordinator; give"
    ):
        meshes.start_processes("nowhere", 2, 0)
    with pytest.raises(UserError, match=r"--coordinator= --num_processes=2"):
        meshes.start_processes("", 2, 0)
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"--coordinator=nowhere .* give HOST:PORT"):
        meshes.start_processes("nowhere", 2, 1)
