"""Runs a job on each video in worker processes that outlive neither a deadly video nor their parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from typing import Any

import cv2

from input_pipeline.quarantine import SetAside
from input_pipeline.video_list import Video

# Tried again by the next run: another machine, or a quieter one, may manage.
DIED = SetAside("its worker process died: a crash in the decoder, or too little memory", "")

Job = Callable[[Video], Any]


def run(videos: Sequence[Video], job: Job, processes: int, inline: bool = False) -> Iterator[tuple[Video, Any]]:
    """Yield (video, job(video)) of every video, in the order in which they finish.

    A video on which a worker process dies is yielded with `DIED`; `inline`, the job runs in this process, where such a
    video ends the run. An exception of the job passes through; closing the iterator stops all work at once. Workers
    are spawned, so that they hold neither threads nor locks of this process.
    """
    if inline:
        yield from ((video, job(video)) for video in videos)
        return
    left = deque(videos)
    while left:
        suspects = yield from _run_pool(left, job, processes)
        # All videos in work when a process died are suspect; alone each shows whether it was the one.
        for suspect in suspects:
            guilty = yield from _run_pool(deque([suspect]), job, 1)
            yield from ((video, DIED) for video in guilty)


def _run_pool(left: deque[Video], job: Job, processes: int):
    """Yield the results of `left`, emptying it, until all are done or a worker dies; return the videos in work then."""
    running = {}
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(min(processes, len(left)), multiprocessing.get_context("spawn"), start_worker)
    try:
        while left or running:
            # Two a process keep all of them busy and few suspect.
            while left and len(running) < 2 * processes:
                running[pool.submit(job, left[0])] = left[0]
                left.popleft()
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                result = future.result()
                yield running.pop(future), result
        return []
    except BrokenProcessPool:
        return list(running.values())
    finally:
        unfinished = set(multiprocessing.active_children()) - others if running else ()
        for process in unfinished:
            process.terminate()
        pool.shutdown(cancel_futures=True)


def usable_cores() -> int:
    """Return how many cores this process may use."""
    # Containers and schedulers hand out fewer cores than there are; macOS cannot tell them from the others.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_worker() -> None:
    """Make this process a worker: Ctrl-C passes it by, it leaves with its parent, and OpenCV uses one thread."""
    # Ctrl-C reaches the whole process group; the parent alone answers it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(0)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    # A killed parent cannot stop its workers, and they would wait for it for ever.
    connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)
