import errno
import os
import signal
import sys

import cv2
import pytest
from tiny_clips import listed

from input_pipeline import workers


def die_on_deadly(video):
    if video.name.startswith("deadly"):
        os.kill(os.getpid(), signal.SIGKILL)
    return f"done {video.name}"


def test_a_video_that_kills_its_worker_is_set_aside_alone(tmp_path):
    names = ["a", "deadly1", "b", "c", "deadly2", "d", "e"]
    results = list(workers.run(listed(tmp_path, names).videos, die_on_deadly, 2))
    assert sorted(video.name for video, _ in results) == sorted(names)
    for video, result in results:
        assert result == (workers.DIED if video.name.startswith("deadly") else f"done {video.name}")


def jax_is_loaded(video):
    return sorted({"jax", "flax", "grain"} & set(sys.modules)), cv2.getNumThreads()


def test_workers_load_no_jax_and_use_one_thread(tmp_path):
    # The test's own module must be free of jax as well, since a worker imports the job's module.
    [(_, (loaded, threads))] = workers.run(listed(tmp_path, ["a"]).videos, jax_is_loaded, 2)
    assert (loaded, threads) == ([], 1)


def full_disk(video):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_an_error_of_the_job_passes_through(tmp_path):
    with pytest.raises(OSError, match="No space left on device"):
        list(workers.run(listed(tmp_path, ["a", "b", "c"]).videos, full_disk, 2))
