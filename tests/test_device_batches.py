"""Batches on the device ahead of the steps: order, errors, memory, and an end that nobody waits for in vain."""

import contextlib
import gc
import threading
import time
import weakref

import jax
import numpy as np
import pytest

from input_pipeline.schema import UserError
from twostream_jax import mesh as meshes
from twostream_jax.drivers import device_batches
from twostream_jax.drivers.device_batches import QUEUED, DeviceBatches

# Long enough for a thread to come to rest on a busy machine.
REST_S = 0.3


@pytest.fixture(scope="module")
def mesh():
    return meshes.make_mesh()


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert not [t for t in threading.enumerate() if t.name == "device-batches"]


def in_time(work, seconds=20.0):
    """Return `work()`, of a thread of its own; fails where it does not come back."""
    results = []
    thread = threading.Thread(target=lambda: results.append(work()), daemon=True)
    thread.start()
    thread.join(seconds)
    assert results, "hangs"
    return results[0]


def numbered(count, closed=None, log=None):
    """Yield batches of 16 rows that hold their number; says when and by whom it is closed."""
    try:
        for number in range(count):
            if log is not None:
                log.append(number)
            yield {"x": np.full((16, 2), number, np.int32)}
    finally:
        if closed is not None:
            closed.append(threading.current_thread().name)


def test_every_batch_comes_once_in_order_on_its_devices(mesh):
    closed = []
    with contextlib.closing(DeviceBatches(numbered(20, closed), mesh)) as batches:
        found = in_time(lambda: list(batches))
        assert closed == ["device-batches"]
        with pytest.raises(StopIteration):
            next(batches)
    assert [int(batch["x"][0, 0]) for batch in found] == list(range(20))
    assert all(batch["x"].sharding == meshes.sharded_rows(mesh) for batch in found)
    assert all(np.all(np.asarray(batch["x"]) == number) for number, batch in enumerate(found))


def test_batches_are_there_before_they_are_asked_for_but_no_more_than_fit(mesh, monkeypatch):
    read, put, taken = [], [], 0
    put_batch = meshes.put_batch
    monkeypatch.setattr(meshes, "put_batch", lambda batch, on: put.append(batch["x"][0, 0]) or put_batch(batch, on))
    with contextlib.closing(DeviceBatches(numbered(9, log=read), mesh)) as batches:
        for taken in range(4):
            time.sleep(REST_S)
            # One more is read, and waits on the host for room.
            assert (put, read) == (list(range(taken + QUEUED)), list(range(taken + QUEUED + 1)))
            assert batches.wait(0)
            assert int(next(batches)["x"][0, 0]) == taken


def test_wait_says_whether_a_batch_is_there(mesh):
    gate = threading.Event()

    def gated():
        gate.wait(20)
        yield {"x": np.zeros((16, 2))}

    with contextlib.closing(DeviceBatches(gated(), mesh)) as batches:
        begun = time.monotonic()
        assert not batches.wait(0.05) and time.monotonic() - begun >= 0.05
        gate.set()
        assert batches.wait(20.0)
        next(batches)
        # The end, too, is something that `next` says at once.
        assert batches.wait(20.0)
        with pytest.raises(StopIteration):
            next(batches)


def test_an_error_comes_as_it_was_in_the_place_of_its_batch(mesh):
    error = UserError("records/flow: record 7 is damaged; prepare with --verify")

    def damaged():
        yield from numbered(3)
        raise error

    with contextlib.closing(DeviceBatches(damaged(), mesh)) as batches:
        assert [int(next(batches)["x"][0, 0]) for _ in range(3)] == [0, 1, 2]
        for _ in range(2):
            with pytest.raises(UserError) as raised:
                in_time_raising(batches)
            assert raised.value is error


def in_time_raising(batches):
    assert batches.wait(20.0), "hangs"
    next(batches)


def test_an_error_of_the_copy_comes_too(mesh):
    def uneven():
        yield {"x": np.zeros((15, 2))}

    with contextlib.closing(DeviceBatches(uneven(), mesh)) as batches, pytest.raises(ValueError, match="evenly divide"):
        in_time_raising(batches)


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_closing_ends_the_thread_wherever_it_is(mesh, taken):
    closed = []
    batches = DeviceBatches(numbered(10**9, closed), mesh)
    for _ in range(taken):
        next(batches)
    in_time(lambda: batches.close() or True)
    assert closed == ["device-batches"]
    with pytest.raises(StopIteration):
        next(batches)


def test_closing_while_a_batch_is_read_waits_for_that_one_alone(mesh):
    read, closed = [], []

    def slow():
        try:
            for number in range(5):
                time.sleep(REST_S)
                read.append(number)
                yield {"x": np.zeros((16, 2))}
        finally:
            closed.append(True)

    batches = DeviceBatches(slow(), mesh)
    time.sleep(REST_S / 3)
    in_time(lambda: batches.close() or True)
    assert read == [0] and closed == [True]


def test_an_interrupted_training_thread_closes_it(mesh):
    closed = []
    with (
        pytest.raises(KeyboardInterrupt),
        contextlib.closing(DeviceBatches(numbered(10**9, closed), mesh)) as batches,
    ):
        next(batches)
        raise KeyboardInterrupt
    assert closed == ["device-batches"]


def aligned(rows):
    """Return memory that a CPU device takes as it is, without a copy."""
    block = np.empty(rows * 64 + 64, np.uint8)
    start = -block.ctypes.data % 64
    return block[start : start + rows * 64].reshape(rows, 64)


class Reused:
    """Batches in memory that is filled again as soon as nobody holds the last that lay in it."""

    def __init__(self):
        self.free, self.blocks = [], 0

    def batches(self, count):
        for number in range(count):
            if not self.free:
                self.free.append(aligned(16))
                self.blocks += 1
            block = self.free.pop()
            block[:] = number
            view = memoryview(block)
            batch = {"x": np.frombuffer(view, np.uint8).reshape(16, 64)}
            weakref.finalize(batch["x"].base, self.free.append, block)
            del view
            yield batch
            del batch


@pytest.mark.parametrize("devices", [1, 8])
def test_memory_of_a_batch_is_kept_as_long_as_the_device_needs_it_and_no_longer(devices):
    """A CPU device may read a batch where NumPy wrote it, even after the step that takes it was dispatched."""
    mesh = meshes.make_mesh(jax.devices()[:devices])
    reused = Reused()
    add = jax.jit(lambda total, batch: total + batch["x"].astype(np.int32).sum())
    sums, total = [], jax.device_put(np.int32(0), meshes.replicated(mesh))
    with contextlib.closing(DeviceBatches(reused.batches(40), mesh)) as batches:
        for batch in batches:
            total = add(total, batch)
            sums.append(total)
            del batch
    found = [int(each) for each in sums]
    assert found == [16 * 64 * n * (n + 1) // 2 for n in range(40)]
    gc.collect()
    # One being filled and one waiting for room, those queued, and those of steps not yet done.
    assert reused.blocks < 40 and len(reused.free) == reused.blocks


def test_what_is_handed_over_has_arrived(mesh, monkeypatch):
    """Else a slow copy to the device would look like a step that is at work."""
    waited = []
    monkeypatch.setattr(device_batches.jax, "block_until_ready", lambda tree: waited.append(tree) or tree)
    with contextlib.closing(DeviceBatches(numbered(3), mesh)) as batches:
        found = in_time(lambda: list(batches))
    assert [id(batch) for batch in waited] == [id(batch) for batch in found]
