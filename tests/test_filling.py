"""Threads and worker processes fill a batch, every item once, and what goes wrong is told where it was asked for."""

import contextlib
import os
import threading
import time

import numpy as np
import pytest

from input_pipeline.filling import FillingProcesses, FillingThreads
from input_pipeline.schema import UserError
from twostream_jax.drivers.setup import check_values

# Fills, which worker processes import.


def number(records, batch, item, window):
    batch["value"][item] += records[0] * item + window
    batch["who"][item] = os.getpid()


def raise_from_three_on(records, batch, item, window):
    if item >= 3:
        raise UserError(f"row {item}")


def die(records, batch, item, window):
    os._exit(1)


@contextlib.contextmanager
def processes(count, records=(10,)):
    with contextlib.closing(FillingProcesses(count, records)) as filling:
        yield filling


def filled(filling, rows):
    batch = {"value": filling.memory.zeros((rows,), np.int64), "who": filling.memory.zeros((rows,), np.int64)}
    filling(number, (10,), batch, list(range(rows)), 3)
    assert batch["value"].tolist() == [10 * row + 3 for row in range(rows)]
    return set(batch["who"].tolist())


@pytest.mark.parametrize("count", [0, 1, 3, 8])
@pytest.mark.parametrize("rows", [1, 5, 100])
def test_threads_fill_each_item_once(count, rows):
    filling = FillingThreads(count)
    assert filled(filling, rows) == {os.getpid()}
    filling.close()
    filling.close()


def test_below_two_threads_the_work_is_done_here():
    who = []
    for count, others in ((0, False), (1, False), (2, True)):
        who.clear()
        FillingThreads(count)(lambda *_: who.append(threading.get_ident()), (), {}, [0, 1], None)
        assert (threading.get_ident() not in who) == others


def test_several_threads_work_at_the_same_time():
    meeting = threading.Barrier(3, timeout=10)
    FillingThreads(3)(lambda r, b, item, w: meeting.wait() if item % 4 == 0 else None, (), {}, list(range(12)), None)


def test_worker_processes_fill_each_item_once_and_stay():
    with processes(2) as filling:
        first = filled(filling, 100)
        assert os.getpid() not in first and len(first) <= 2
        # Several batches at a time, as two threads ask for them.
        threads = [threading.Thread(target=filled, args=(filling, 50)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(first | filled(filling, 7)) <= 2
    assert not any(os.path.exists(f"/proc/{process}") for process in first)


def test_what_an_item_raises_is_raised():
    with pytest.raises(UserError, match=r"^row 3$"):
        FillingThreads(4)(raise_from_three_on, (), {}, list(range(16)), None)
    with processes(1) as filling:
        with pytest.raises(UserError, match=r"^row 3$"):
            filling(raise_from_three_on, (), {}, list(range(16)), None)
        filled(filling, 4)


def test_a_worker_that_dies_ends_the_reading_in_one_line():
    with processes(2) as filling:
        begun = time.monotonic()
        with pytest.raises(
            UserError, match=r"^data.num_workers=2: a worker process has died, perhaps of too little memory"
        ):
            filling(die, (), {}, list(range(16)), None)
        assert time.monotonic() - begun < 20


def test_without_linux_threads_are_named(config, monkeypatch):
    monkeypatch.delattr(os, "memfd_create")
    config.data.num_workers = 2
    with pytest.raises(UserError) as error:
        check_values(config)
    assert str(error.value) == "data.num_workers=2: works on Linux only; set it to 0 and use data.num_threads"
