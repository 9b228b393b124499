"""A disk of a few hundred kB that tests can fill."""

import contextlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Callable[[int], None]]:
    """Mount a disk of that size at `folder`; yield a function that resizes it. Skips where that is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    if shutil.which("mount") is None or _mount(folder, kilobytes).returncode:
        pytest.skip("only root may mount the small disk that this test fills")
    try:
        yield lambda size: _mount(folder, size, "remount,").check_returncode()
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _mount(folder: Path, kilobytes: int, how: str = "") -> subprocess.CompletedProcess:
    options = f"{how}size={kilobytes}k"
    return subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True)
