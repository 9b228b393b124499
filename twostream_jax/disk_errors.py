"""Why reading or writing failed, in a few words, where a library tells it in many tracebacks from its threads."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator

from input_pipeline.schema import first_line


def cause(error: BaseException, handled: BaseException | None) -> BaseException:
    """Return the exception at the bottom of a chain: orbax wraps what happened several times.

    handled: the one that was being handled already when the work began, which is none of its causes.
    """
    while (deeper := error.__cause__ or error.__context__) is not None and deeper is not handled:
        error = deeper
    return error


def as_os_error(error: BaseException) -> OSError | None:
    """Return what the operating system refused; TensorStore has its number in the text of a ValueError."""
    if isinstance(error, OSError):
        return OSError(error.errno, error.strerror or str(error))  # without its traceback
    found = re.search(r"os_error_code='(\d+)'", str(error))
    return OSError(int(found[1]), os.strerror(int(found[1]))) if found else None


def why(error: BaseException) -> str:
    """Return in a few words what went wrong, without the long names of files that TensorStore begins with."""
    refused = as_os_error(error)
    return refused.strerror if refused else first_line(error)


def leave_out_orbax() -> None:
    """Keep what orbax's threads say of a failure off the terminal: it is told in one line elsewhere."""
    for name in (None, "absl"):
        logging.getLogger(name).addFilter(_not_from_orbax)
    sys.unraisablehook = _unraisable


def _not_from_orbax(record: logging.LogRecord) -> bool:
    return f"{os.sep}orbax{os.sep}" not in record.pathname


def _unraisable(unraisable) -> None:
    # TensorStore's threads report to loops that orbax gave up when another read failed.
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


@contextlib.contextmanager
def unfinished_tasks_hidden() -> Iterator[None]:
    """Hide what Python says of tasks that orbax leaves behind where it fails, if they are collected in here."""
    hook, level = sys.unraisablehook, logging.getLogger("asyncio").level
    try:
        sys.unraisablehook = lambda _: None
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # "coroutine was never awaited"
            yield
    finally:
        sys.unraisablehook = hook
        logging.getLogger("asyncio").setLevel(level)
