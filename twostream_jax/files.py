"""Files that appear only when whole."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from pathlib import Path
from typing import Any

from input_pipeline.schema import UserError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def cannot_write(path: Path, error: OSError) -> UserError:
    """Return the line that says why a file or folder cannot be written, and what to do about it."""
    remedy = "make room there" if error.errno in NO_ROOM else "make that place writable, or name another"
    return UserError(f"{path}: cannot be written ({error.strerror or error}); {remedy}, then give the command again")


def write_text(path: Path, text: str) -> None:
    """Write a text file aside and rename it, so that a reader, or a crash, never meets half of it.

    UserError naming the file where it cannot be written; what stood there before is kept.
    """
    aside = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise cannot_write(path, error) from error


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, indented, as `write_text`; ValueError for NaN, which strict readers would refuse."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
