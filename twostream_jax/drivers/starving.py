"""Whether a run's input starves the devices, and the line that says so and what helps."""

from __future__ import annotations

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


def starving_line(share: float, *, workers: int, cores: int, flow_jpegs: bool, on_cpu: bool) -> str:
    """Return the line for a run that waits for input for this share of its time.

    workers: data.num_workers; cores: those this process may use; `flow_jpegs`: whether flow is read, and stored as JPEGs;
    `on_cpu`: whether the steps are computed on the same cores.
    """
    more = max(2, cores // 2)
    if on_cpu:
        # More threads or processes would take from the steps what they give to the input, and so would the inverse DCT.
        remedy = f"reading and training share {cores} cores, so only more of them, or an accelerator, would help"
    elif workers < more and cores > 1:
        remedy = f"set data.num_workers={more}: worker processes read beside each other"
        if flow_jpegs:
            remedy += ", or prepare the records with data.codec=dct, whose flow takes a fifth of the CPU time"
    elif flow_jpegs:
        remedy = "prepare the records with data.codec=dct (--mode=prepare), whose flow takes a fifth of the CPU time"
    else:
        remedy = "move the records to a faster disk, or give the machine more cores"
    return f"note: training waits for its input {share:.0%} of the time (input_wait in metrics.jsonl): {remedy}"
