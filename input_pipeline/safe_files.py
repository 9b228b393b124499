"""Files that whoever looks finds whole or not at all."""

from __future__ import annotations

import os
import pathlib


def write_atomically(path: pathlib.Path, text: str) -> None:
    """Write a text file so that whoever looks finds the whole of it or none."""
    aside = path.with_name(f"{path.name}.tmp")
    aside.write_text(text, encoding="utf-8")
    replace_safely(aside, path)


def replace_safely(aside: pathlib.Path, path: pathlib.Path) -> None:
    """Give a finished file its name, once the disk has it: a power cut then leaves the old file or the new one."""
    with aside.open("rb") as file:
        os.fsync(file.fileno())
    aside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
