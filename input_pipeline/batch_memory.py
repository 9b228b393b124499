"""Memory that batches lie in: used again, and where processes fill them, shared with these."""

from __future__ import annotations

import collections
import itertools
import math
import mmap
import os
import threading
import weakref
from typing import NamedTuple

import numpy as np

# Arrays begin at multiples of this many bytes, so that jax on a CPU can take them as they are, without a copy.
_ALIGNMENT = 64
# Blocks that a process which fills batches keeps open: each batch has up to six, and some ten batches may be about.
_OPENED_BLOCKS = 128

_NAME = "twostream-batches"
_serials = itertools.count()


class SharedPlace(NamedTuple):
    """Where an array lies in a block that another process can open."""

    path: str
    serial: int  # tells blocks apart whose paths are the same, one after the other
    size: int  # of the block in bytes
    offset: int
    shape: tuple[int, ...]
    dtype: str


class _Block:
    """Some memory, of this process alone or a file without a name that exists in memory only (Linux)."""

    def __init__(self, size: int, shared: bool):
        self.size, self.serial, self._file = size, next(_serials), None
        if shared:
            self._file = os.memfd_create(_NAME)
            os.ftruncate(self._file, size)
            self.buffer = memoryview(mmap.mmap(self._file, size))
        else:
            memory = np.empty(size + _ALIGNMENT, np.uint8)
            self.buffer = memoryview(memory[-memory.ctypes.data % _ALIGNMENT :][:size])
        self.address = np.frombuffer(self.buffer, np.uint8).ctypes.data

    def __del__(self):
        if self._file is not None:
            os.close(self._file)  # the memory itself goes with the last array in it

    @property
    def path(self) -> str:
        return f"/proc/{os.getpid()}/fd/{self._file}"


class BatchMemory:
    """Hands out arrays in memory that is used again once nobody holds an array in it any more.

    The system clears every page of fresh memory, which takes as long as filling it. May be shared between threads.
    """

    def __init__(self, shared: bool = False):
        self._shared, self._lock = shared, threading.Lock()
        # Each block, and the array that was last handed out in it.
        self._blocks: list[tuple[_Block, weakref.ref]] = []

    def array(self, shape: tuple[int, ...], dtype) -> np.ndarray:
        """Return an array of whatever the memory holds; zeros are not to be expected."""
        size = max(1, math.prod(shape) * np.dtype(dtype).itemsize)
        with self._lock:
            block = self._free_block(size)
            # Not of an ndarray: views of views refer to the last array that has no ndarray below it, which is this one.
            # So it lives as long as any view of it, jax's included.
            whole = np.frombuffer(block.buffer, np.uint8)
            self._blocks.append((block, weakref.ref(whole)))
        return whole[: math.prod(shape) * np.dtype(dtype).itemsize].view(dtype).reshape(shape)

    def zeros(self, shape: tuple[int, ...], dtype) -> np.ndarray:
        """Return an array of zeros."""
        array = self.array(shape, dtype)
        array[...] = 0
        return array

    def place(self, array: np.ndarray) -> SharedPlace:
        """Return where another process finds an array that shared memory handed out."""
        address = array.ctypes.data
        with self._lock:
            block = next(b for b, _ in self._blocks if b.address <= address < b.address + b.size)
        return SharedPlace(block.path, block.serial, block.size, address - block.address, array.shape, array.dtype.str)

    def _free_block(self, size: int) -> _Block:
        """Return a block of at least this size, taken out of the list, of free ones the smallest.

        Where all that are free are too small, one of them is given up.
        """
        free = [place for place, (_, user) in enumerate(self._blocks) if user() is None]
        fitting = [place for place in free if self._blocks[place][0].size >= size]
        if fitting:
            return self._blocks.pop(min(fitting, key=lambda place: self._blocks[place][0].size))[0]
        if free:
            del self._blocks[free[0]]
        return _Block(size, self._shared)


# Of a process that fills batches: the blocks that it has opened, the last used last.
_opened: collections.OrderedDict[tuple[str, int], np.ndarray] = collections.OrderedDict()


def open_place(place: SharedPlace) -> np.ndarray:
    """Return the array at a place in another process's memory, to be written to."""
    key = (place.path, place.serial)
    if key not in _opened:
        file = os.open(place.path, os.O_RDWR)
        try:
            # The number of a file that was closed meanwhile may be another's by now, which is not to be written to.
            if not os.readlink(f"/proc/self/fd/{file}").startswith(f"/memfd:{_NAME}"):
                raise OSError(f"{place.path} is no memory of batches any more")
            _opened[key] = np.frombuffer(mmap.mmap(file, place.size), np.uint8)
        finally:
            os.close(file)
        if len(_opened) > _OPENED_BLOCKS:
            _opened.popitem(last=False)
    _opened.move_to_end(key)
    return np.ndarray(place.shape, place.dtype, _opened[key], place.offset)
