"""Flow for worker processes: requests and fields come through whole, and whoever fails harms nobody else."""

import multiprocessing
import multiprocessing.connection
import sys
import threading
from dataclasses import dataclass

import numpy as np
import pytest

from input_pipeline import flow_service
from input_pipeline.fields import FlowFailed
from input_pipeline.flow_service import serving
from input_pipeline.prepare import prepare
from input_pipeline.schema import UserError
from input_pipeline.stages import PrepareSettings
from input_pipeline.video_list import Video, VideoList


def differences(sources, targets, both):
    """A `StartFlow` whose d^x is the first frame's levels and d^y the second's."""
    if sources[0, 0, 0] == 99:
        raise ValueError("RESOURCE_EXHAUSTED: out of memory\nmore")
    forward = np.stack([sources, targets], axis=-1).astype(np.float32)
    return lambda: (forward, forward[..., ::-1]) if both else (forward,)


def frames(seed, count=3, height=5, width=7):
    return np.random.default_rng(seed).integers(100, 256, (2, count, height, width)).astype(np.uint8)


def hundredths(sources, targets, both):
    """A `StartFlow` whose vectors are a hundredth of the first frame's level, twice."""
    forward = np.repeat(sources[..., None].astype(np.float32) / 100, 2, axis=-1)
    return lambda: (forward,)


@dataclass(frozen=True)
class Levels:
    """The source of a video of even frames, which may break off."""

    level: int
    count: int
    side: int
    breaks_at: int = -1
    variant = ""

    def exists(self):
        return True

    def size_bytes(self):
        return 1

    def frames(self, short_side):
        for i in range(self.count):
            if i == self.breaks_at:
                raise UserError("damaged")
            yield np.full((self.side, self.side, 3), self.level, np.uint8)


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
        flow_service._connected(remote).close()  # as the system does of a process that is killed
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
    with multiprocessing.connection.Listener(authkey=b"key") as listener:
        leaving = threading.Thread(target=lambda: listener.accept().close())
        leaving.start()
        remote = flow_service.RemoteFlow(listener.address, b"key")
        with pytest.raises(FlowFailed, match="the process that computes is gone"):
            remote(*frames(0), False)()
        leaving.join()
    with pytest.raises(FlowFailed, match="the process that computes is gone"):
        remote(*frames(0), False)


@pytest.mark.parametrize("side", [8, 64])
def test_a_video_that_breaks_off_leaves_the_next_ones_their_own_flow(tmp_path, side):
    """With 64 px an answer that nobody reads would fill the connection, with 8 px it would be the next video's."""
    videos = []
    for n in range(3):
        videos.append(Video(f"a{n}", tmp_path, 0, f"g{n}", {"1": "test"}, Levels(10, 100, side, breaks_at=80)))
        videos.append(Video(f"b{n}", tmp_path, 0, f"h{n}", {"1": "test"}, Levels(200, 64, side)))
    listed = VideoList("levels", "csv", ("c",), ("1",), tuple(videos))
    settings = PrepareSettings(side, "jax_tvl1", 20.0, False, 1.0, 2, flow_version="1")
    made = prepare(listed, tmp_path / "r", settings, lambda *_: None, device_flow=lambda method: hundredths)
    assert [video.name for video in made.videos] == ["b0", "b1", "b2"] and made.counts["quarantined"] == 3
    assert {video.flow_facts.mean_px for video in made.videos} == {2.828}  # (2, 2)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems listen at a file")
def test_no_path_is_too_long_and_nothing_is_left_behind(tmp_path, monkeypatch):
    folder = tmp_path / ("long" * 40)
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    with serving(differences) as remote:
        np.testing.assert_array_equal(remote(*frames(1), False)()[0], np.moveaxis(frames(1), 0, -1))
    assert not list(folder.iterdir())


def test_the_service_ends_whoever_has_come_last():
    """Again and again, since it hangs on which of two threads is the faster."""
    for seed in range(50):
        with serving(differences) as remote:
            remote(*frames(seed), False)()
        flow_service._connected.cache_clear()
