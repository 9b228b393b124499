"""train.profile: a trace of some training steps, for TensorBoard's profile plugin and for Perfetto."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from input_pipeline.schema import first_line
from twostream_jax import validate
from twostream_jax.drivers.step_lines import StepLines


class Profile:
    """Traces the steps that `train.profile` names, in the first process; the devices are idle at both ends."""

    def __init__(self, folder: Path, wanted: str, start: int, say: Callable[[str], None] = print):
        """`folder` is the trace's, `wanted` train.profile, `start` the step that the run continues from.

        What there is to tell goes to `say`.
        """
        self._folder, self._say, self._running = folder, say, False
        steps = validate.profiled_steps(wanted)
        if steps and steps[-1] <= start:
            say(f"note: train.profile={wanted}: no trace, the run continues at step {start}")
        # Of steps that were taken before the run was stopped there is nothing to trace.
        self._steps = range(max(steps.start, start + 1), steps.stop) if jax.process_index() == 0 else range(0)

    def before(self, step: int, state: Any, lines: StepLines) -> None:
        """Begin the trace if this is its first step."""
        if self._steps and step == self._steps[0]:
            with lines.clock_stopped():
                jax.block_until_ready(state)
                # Tracing every Python call as well would slow the threads that read, and show an input that starves.
                options = jax.profiler.ProfileOptions()
                options.python_tracer_level = 0
                jax.profiler.start_trace(self._folder, create_perfetto_trace=True, profiler_options=options)
            self._running = True

    def after(self, step: int, state: Any, lines: StepLines) -> None:
        """End the trace if this was its last step."""
        if self._running and step == self._steps[-1]:
            with lines.clock_stopped():
                jax.block_until_ready(state)
                self.close()

    def close(self) -> None:
        """Write the trace if one is under way; a line says where, or why it cannot be."""
        if not self._running:
            return
        self._running = False
        try:
            jax.profiler.stop_trace()
            self._say(f"{self._folder}: trace of training steps, for TensorBoard's profile plugin or ui.perfetto.dev")
        # Of a full disk jax raises one or the other. A trace is not worth the run.
        except (OSError, RuntimeError, ValueError) as error:
            print(f"warning: {self._folder}: the trace cannot be written ({first_line(error)})", file=sys.stderr)
