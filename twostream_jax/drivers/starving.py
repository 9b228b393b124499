"""Whether a run's input starves the devices, and the line that says so and what helps."""

from __future__ import annotations

import os
from collections.abc import Callable

# The devices stand still for more than this share of so many lines of metrics.jsonl on end. A first line, in which a
# start's compilation and the reading of the first batches fall, does not count.
STARVED_SHARE, STARVED_LINES = 0.02, 3


class Starving:
    """Calls `say(share)` once, when enough lines on end have waited for input too long."""

    def __init__(self, say: Callable[[float], None]):
        self._say, self._lines, self._starved, self._said = say, 0, 0, False

    def add(self, share: float) -> None:
        """Take the share of a line's time that its steps' input was waited for."""
        self._starved = self._starved + 1 if self._lines and share > STARVED_SHARE else 0
        self._lines += 1
        if self._starved == STARVED_LINES and not self._said:
            self._said = True
            self._say(share)


def starving_line(share: float, *, threads: int, workers: int, cores: int, flow_jpegs: bool, on_cpu: bool) -> str:
    """Return the line for a run that waits for input for this share of its time.

    threads, workers: data.num_threads and data.num_workers; cores: those this process may use; `flow_jpegs`: whether
    flow is read, and stored as JPEGs; `on_cpu`: whether the steps are computed on the same cores.
    """
    if threads < cores:
        remedy = f"raise data.num_threads={threads} to {cores}, the cores of this machine"
    elif on_cpu:
        # More threads or processes would take from the steps what they give to the input, and so would the inverse DCT.
        remedy = f"reading and training share {cores} cores, so only more of them, or an accelerator, would help"
    elif flow_jpegs:
        remedy = "prepare the records with data.codec=dct (--mode=prepare), whose flow takes a fifth of the CPU time"
    else:
        more = f"raise data.num_workers={workers}" if workers else "set data.num_workers=2, or more"
        remedy = f"{more}, if cores are idle, or move the records to a faster disk"
    return f"note: training waits for its input {share:.0%} of the time (input_wait in metrics.jsonl): {remedy}"


def usable_cores() -> int:
    """Return how many cores this process may use."""
    # sched_getaffinity is Linux's; containers and schedulers hand out fewer cores than there are.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
