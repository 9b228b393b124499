"""Memory that batches lie in is used again, and never while somebody may still read it; threads share a batch's rows."""

import gc
import pickle
import threading

import jax
import numpy as np
import pytest

from input_pipeline.batch_memory import BatchMemory, RowThreads


def address(array):
    return array.__array_interface__["data"][0]


def test_memory_is_used_again_when_nobody_holds_it():
    memory = BatchMemory()
    first = memory.array((3, 1000), np.uint8)
    assert first.shape == (3, 1000) and first.flags.writeable and first.flags.c_contiguous
    place = address(first)
    assert place % 64 == 0 and address(memory.array((3, 1000), np.uint8)) != place
    del first
    # Of another type and shape, but no larger.
    again = memory.array((700,), np.float32)
    assert address(again) == place and again.dtype == np.float32


@pytest.mark.parametrize(
    "hold", [lambda a: a[1:2, 5], lambda a: a.T[3:], lambda a: a.view(np.int8)[..., ::2], memoryview]
)
def test_a_view_holds_the_memory(hold):
    memory = BatchMemory()
    array = memory.array((4, 64), np.uint8)
    place, array[:] = address(array), 7
    view = hold(array)
    del array
    other = memory.array((4, 64), np.uint8)
    other[:] = 9
    assert address(other) != place and (np.asarray(view).view(np.uint8) == 7).all()
    del view
    assert address(memory.array((4, 64), np.uint8)) == place


def test_an_array_on_the_device_holds_the_memory():
    """On a CPU jax takes such memory as it is: what it computes with must not change underneath."""
    memory = BatchMemory()
    held = []
    for value in range(6):
        array = memory.array((256, 1024), np.uint8)
        array[:] = value
        held.append(jax.device_put(array))
        del array
    assert [np.unique(np.asarray(array)).tolist() for array in held] == [[value] for value in range(6)]
    places = {array.unsafe_buffer_pointer() for array in held}
    del held
    gc.collect()
    # And it is given back when jax is done with it.
    assert address(memory.array((256, 1024), np.uint8)) in places


def test_a_larger_array_takes_the_place_of_a_free_one():
    memory = BatchMemory()
    for size in (100, 200, 300, 50):
        memory.array((size,), np.uint8)
    assert [block.size for block, _ in memory._blocks] == [300]


def test_memory_and_threads_may_be_handed_to_another_process():
    memory, threads = pickle.loads(pickle.dumps((BatchMemory(), RowThreads(3))))
    assert memory.array((2,), np.int8).shape == (2,) and threads.count == 3


@pytest.mark.parametrize("count", [0, 1, 3, 8])
@pytest.mark.parametrize("rows", [0, 1, 5, 100])
def test_each_row_is_filled_once(count, rows):
    filled, lock = [], threading.Lock()

    def fill(row):
        with lock:
            filled.append((row, threading.get_ident()))

    threads = RowThreads(count)
    threads(fill, rows)
    assert sorted(row for row, _ in filled) == list(range(rows))
    assert len({who for _, who in filled}) <= max(count, 1)
    if count < 2:
        assert {who for _, who in filled} <= {threading.get_ident()}
    threads.close()
    threads.close()


def test_several_threads_work_at_the_same_time():
    meeting = threading.Barrier(3, timeout=10)
    RowThreads(3)(lambda row: meeting.wait() if row % 4 == 0 else None, 12)


def test_what_a_row_raises_is_raised():
    def fill(row):
        if row >= 3:
            raise ValueError(f"row {row}")

    with pytest.raises(ValueError, match="row 3"):
        RowThreads(4)(fill, 16)
