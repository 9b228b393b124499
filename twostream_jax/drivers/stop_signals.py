"""Signals that ask a run to stop."""

from __future__ import annotations

import signal
import threading

import jax


class StopSignals:
    """Turns the first SIGTERM or Ctrl-C into a wish that the loop grants after its step; the second acts as ever.

    In a run of several processes a signal may reach one of them only, which cannot save alone: there nothing changes.
    """

    def __init__(self):
        self.wanted = 0  # the signal's number
        self._before = {}
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._wish)

    @property
    def exit_status(self) -> int:
        """0 after SIGTERM, as schedulers that preempt expect of work that was saved; 130 after Ctrl-C."""
        return 0 if self.wanted == signal.SIGTERM else 128 + self.wanted

    def _wish(self, number, frame) -> None:
        self.wanted = number
        self.restore()

    def restore(self) -> None:
        """Put back the handlers that were there."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
