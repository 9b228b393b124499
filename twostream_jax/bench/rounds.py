"""Interleaved rounds: every contestant runs once a round, so that a busy moment of the machine meets all alike.

Each has a process of its own, which sleeps while the others run: threads that one library leaves spinning would take the
cores from the next, and count as its time.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

# Returns the function that is timed, facts about it and, where there is one, a function that is called before each round
# and not timed. What it raises, as without its library, is told in the table.
Builder = Callable[..., tuple]


@dataclass
class Rounds:
    """What interleaved rounds found: times by contestant, facts of those that could be built, reasons of the others."""

    wall_s: dict[str, list[float]] = field(default_factory=dict)
    cpu_s: dict[str, list[float]] = field(default_factory=dict)
    facts: dict[str, dict] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def median(self, name: str) -> float:
        """Return the median seconds of a contestant's rounds."""
        return statistics.median(self.wall_s[name])

    def fastest(self, names: list[str]) -> str | None:
        """Return which of the names has the lowest median; None where none of them could be built."""
        return min((name for name in names if name in self.wall_s), key=self.median, default=None)

    def ratio(self, name: str, peer: str) -> float:
        """Return the median over rounds of the time of `name` divided by that of `peer` in the same round."""
        return _median_ratio(self.wall_s[name], self.wall_s[peer])

    def cpu_ratio(self, name: str, peer: str) -> float:
        """Return the same of the CPU seconds."""
        return _median_ratio(self.cpu_s[name], self.cpu_s[peer])


def _median_ratio(ours: list[float], theirs: list[float]) -> float:
    return statistics.median(own / other for own, other in zip(ours, theirs, strict=True))


def time_lines(found: dict, samples: int) -> list[str]:
    """Return a line for each contestant: median and range of the wall time, median of the CPU time, samples a second.

    found: `wall_s`, `cpu_s` and `missing` of some `Rounds`; samples: how many one round of each goes through.
    """
    width = max(map(len, (*found["wall_s"], *found["missing"])))
    lines = []
    for who, seconds in found["wall_s"].items():
        median, cpu = statistics.median(seconds), statistics.median(found["cpu_s"][who])
        wall = f"{1e3 * median:8.1f} ms [{1e3 * min(seconds):.0f} to {1e3 * max(seconds):.0f}]"
        lines.append(f"  {who:<{width}} {wall}, CPU {1e3 * cpu:.1f} ms, {samples / median:.1f} samples/s")
    return lines + [f"  {who:<{width}} cannot be had: {why}" for who, why in found["missing"].items()]


def interleave(
    contestants: Mapping[str, tuple[Builder, tuple]], rounds: int, on_progress: Callable[[int, int], None]
) -> Rounds:
    """Return the times of `rounds` rounds, after one of each contestant that is not counted.

    A contestant is (builder, arguments): in its process, `builder(*arguments)` returns the function that is timed, which
    must return only when its work is done, and facts about it. The order turns by one place each round.
    `on_progress(rounds done, rounds)` is called as it goes.
    """
    found = Rounds()
    on_progress(0, rounds)
    with contextlib.ExitStack() as stack:
        running: dict[str, Connection] = {}
        for name, (builder, arguments) in contestants.items():
            connection = stack.enter_context(_process(builder, arguments))
            built, said = connection.recv()
            if built:
                running[name], found.facts[name] = connection, said
                found.wall_s[name], found.cpu_s[name] = [], []
            else:
                found.missing[name] = said
        names = list(running)
        for done in range(rounds):
            for place in range(len(names)):
                name = names[(place + done) % len(names)]
                running[name].send(True)
                wall, cpu = running[name].recv()
                found.wall_s[name].append(wall)
                found.cpu_s[name].append(cpu)
            on_progress(done + 1, rounds)
    return found


@contextlib.contextmanager
def _process(builder: Builder, arguments: tuple) -> Iterator[Connection]:
    """Yield the connection to a fresh process that builds a contestant and runs it once for each True it is sent."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    # Not a daemon: those may have no processes of their own, as PyTorch's loaders do.
    process = context.Process(target=_serve, args=(theirs, builder, arguments))
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        with contextlib.suppress(BrokenPipeError):
            ours.send(False)
        process.join(30)
        process.kill()
        process.join()


def _serve(connection: Connection, builder: Builder, arguments: tuple) -> None:
    try:
        run, facts, *before = builder(*arguments)
        run()  # compiles
    # Libraries that are absent, compilers that are not there, memory that is too small: each raises its own.
    except Exception as error:
        text = str(error).strip().splitlines()
        connection.send((False, f"{type(error).__name__}: {text[0][:200] if text else ''}"))
        return
    connection.send((True, facts))
    while connection.recv():
        # Garbage of one round must not be collected at the cost of the next.
        gc.collect()
        for get_ready in before:
            get_ready()
        wall, cpu = time.perf_counter(), _cpu_s()
        run()
        took = time.perf_counter() - wall, _cpu_s() - cpu
        _wait_until_idle()
        connection.send(took)


def _wait_until_idle(seconds: float = 10.0) -> None:
    """Wait until what reads ahead has nothing left to do, at most so long: else it would take cores from the next."""
    limit = time.monotonic() + seconds
    begun = _cpu_s()
    while time.monotonic() < limit:
        time.sleep(0.05)
        now = _cpu_s()
        if now - begun < 0.01:
            return
        begun = now


def _cpu_s() -> float:
    """Return the CPU seconds of this process and the processes it has started; those that still run on Linux only."""
    ended = os.times()
    seconds = time.process_time() + ended.children_user + ended.children_system
    for child in multiprocessing.active_children():
        with contextlib.suppress(OSError):
            # After the name in brackets: utime and stime are fields 14 and 15 of proc_pid_stat(5), in ticks.
            stat = Path(f"/proc/{child.pid}/stat").read_text(encoding="utf-8", errors="replace")
            numbers = stat.rpartition(")")[2].split()
            seconds += (int(numbers[11]) + int(numbers[12])) / os.sysconf("SC_CLK_TCK")
    return seconds
