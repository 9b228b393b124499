"""One program at a time in a folder that it writes."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from input_pipeline.schema import UserError

try:
    import fcntl
except ImportError:  # Windows has none; there nothing is locked
    fcntl = None

# What file systems without locks answer, some NFS mounts for one: then nothing is locked.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@contextlib.contextmanager
def folder_lock(folder: Path, what: str) -> Iterator[None]:
    """Hold the folder's lock, the file `.lock` in it; UserError when another process holds it, named by `what` it does.

    The system lets go when the process ends, however it ends; the file itself means nothing.
    """
    with (folder / ".lock").open("a+") as file:
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise UserError(
                f"{folder}: another {what} is at work in it (process {file.read().strip() or 'unknown'}); "
                "wait for it, stop it, or name another folder"
            ) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
