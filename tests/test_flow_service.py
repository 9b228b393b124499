"""Flow for worker processes: requests and fields come through whole, and whoever fails harms nobody else."""

import multiprocessing
import threading

import numpy as np
import pytest

from input_pipeline import flow_service
from input_pipeline.fields import FlowFailed
from input_pipeline.flow_service import serving


def differences(sources, targets, both):
    """A `StartFlow` whose d^x is the first frame's levels and d^y the second's."""
    if sources[0, 0, 0] == 99:
        raise ValueError("RESOURCE_EXHAUSTED: out of memory\nmore")
    forward = np.stack([sources, targets], axis=-1).astype(np.float32)
    return lambda: (forward, forward[..., ::-1]) if both else (forward,)


def frames(seed, count=3, height=5, width=7):
    return np.random.default_rng(seed).integers(100, 256, (2, count, height, width)).astype(np.uint8)


def ask(remote, seed, into):
    """What a worker process does: two requests one after the other, the second of both directions."""
    first, second = frames(seed), frames(seed + 50, count=2, height=4)
    (one,) = remote(*first, False)()
    into.put((seed, one, remote(*second, True)()))


def check(seed, one, both):
    first, second = frames(seed), frames(seed + 50, count=2, height=4)
    np.testing.assert_array_equal(one, np.moveaxis(first, 0, -1))
    np.testing.assert_array_equal(both[0], np.moveaxis(second, 0, -1))
    np.testing.assert_array_equal(both[1], np.moveaxis(second, 0, -1)[..., ::-1])


def test_each_worker_process_gets_its_own_fields():
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    with serving(differences) as remote:
        workers = [context.Process(target=ask, args=(remote, seed, answers)) for seed in (0, 1)]
        for worker in workers:
            worker.start()
        found = [answers.get(timeout=60) for _ in workers]
        for worker in workers:
            worker.join()
    assert sorted(seed for seed, _, _ in found) == [0, 1]
    for answer in found:
        check(*answer)


def test_a_device_that_fails_is_told_and_the_next_request_is_answered():
    with serving(differences) as remote:
        bad = frames(0)
        bad[:] = 99
        with pytest.raises(FlowFailed, match=r"^RESOURCE_EXHAUSTED: out of memory$"):
            remote(*bad, False)()
        np.testing.assert_array_equal(remote(*frames(1), False)()[0], np.moveaxis(frames(1), 0, -1))


def test_a_worker_that_dies_while_it_waits_harms_nobody():
    begun, go_on = threading.Event(), threading.Event()

    def slow(sources, targets, both):
        begun.set()
        assert go_on.wait(60)
        return differences(sources, targets, both)

    with serving(slow) as remote:
        remote(*frames(0), False)
        assert begun.wait(60)
        flow_service._connected(remote.address, remote.key).close()  # as the system does of a process that is killed
        flow_service._connected.cache_clear()
        go_on.set()
        np.testing.assert_array_equal(remote(*frames(1), False)()[0], np.moveaxis(frames(1), 0, -1))


def test_strangers_are_not_served():
    with serving(differences) as remote:
        stranger = flow_service.RemoteFlow(remote.address, b"another key")
        with pytest.raises(multiprocessing.AuthenticationError):
            stranger(*frames(0), False)
        np.testing.assert_array_equal(remote(*frames(1), False)()[0], np.moveaxis(frames(1), 0, -1))


def test_a_parent_that_is_gone_is_told():
    ours, theirs = multiprocessing.Pipe()
    theirs.close()
    with pytest.raises(FlowFailed, match="its process is gone"):
        flow_service._receive(ours, (1, 2, 2, 2), 1)
