"""A folder is written by one command at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from input_pipeline.schema import UserError

LOCK_FILE = ".lock"


@contextlib.contextmanager
def folder_lock(folder: Path, what: str) -> Iterator[None]:
    """Hold `folder`, which must exist, for this process while the block runs; death releases it, however it comes.

    what: who works there, for the line that another gets ("a training"). The lock is flock's on the file `.lock`, which
    stays behind: removing it would let two processes lock two files of the same name. Raises UserError when another
    process holds the folder, OSError when the file cannot be made.
    """
    # Python opens files so that started processes do not inherit them: workers cannot keep the lock alive.
    file = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _take(file, folder, what)
        # Only so that the other can be told who is there: a full disk is no reason to stop.
        with contextlib.suppress(OSError):
            os.ftruncate(file, 0)
            os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        os.close(file)


def _take(file: int, folder: Path, what: str) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(file, 200, 0).decode(errors="replace") or "which one is not known"
        raise UserError(
            f"{folder}: {what} is at work there already ({holder}); wait for its end, or name another folder"
        ) from None
    except OSError as error:
        # Some network file systems know no locks; there the user must take care alone.
        print(f"warning: {folder}: cannot be locked ({error.strerror}); start only one at a time", file=sys.stderr)
