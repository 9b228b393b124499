"""Memory that batches lie in is used again, and never while somebody may still read it; other processes write to it."""

import gc
import multiprocessing
import os

import jax
import numpy as np
import pytest

from input_pipeline.batch_memory import BatchMemory, open_place


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


def test_another_process_finds_what_shared_memory_hands_out():
    memory = BatchMemory(shared=True)
    first, second = memory.zeros((3, 5), np.float32), memory.array((40,), np.uint8)
    second[:] = 1
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=write, args=(memory.place(first), memory.place(second)))
    process.start()
    process.join(30)
    assert process.exitcode == 0
    assert (first == np.arange(15, dtype=np.float32).reshape(3, 5)).all() and second.tolist() == [7] * 40


def write(place, other):
    open_place(place)[:] = np.arange(15, dtype=np.float32).reshape(3, 5)
    open_place(other)[:] = 7


def test_a_block_that_takes_the_number_of_another_is_not_mistaken_for_it():
    """File descriptors are used again; what a worker has opened stays open."""
    memory = BatchMemory(shared=True)
    paths = []
    for size in (100, 5000):
        array = memory.array((size,), np.uint8)
        paths.append(memory.place(array).path)
        open_place(memory.place(array))[:] = size % 251
        assert (array == size % 251).all()
        del array
    assert paths[0] == paths[1]


def test_part_of_an_array_has_its_place_too():
    memory = BatchMemory(shared=True)
    array = memory.zeros((4, 8), np.int32)
    open_place(memory.place(array[2]))[:] = 9
    assert array.sum(axis=1).tolist() == [0, 0, 72, 0]


def test_another_file_that_took_the_number_of_a_block_is_left_alone(tmp_path):
    memory = BatchMemory(shared=True)
    place = memory.place(memory.array((10,), np.uint8))
    memory.array((1000,), np.uint8)  # the first block is given up
    with (tmp_path / "file").open("wb+") as file:
        file.write(b"precious" * 2)
        file.flush()
        other = place._replace(path=f"/proc/{os.getpid()}/fd/{file.fileno()}", serial=10**9)
        with pytest.raises(OSError, match="is no memory of batches any more"):
            open_place(other)
    assert (tmp_path / "file").read_bytes() == b"precious" * 2
