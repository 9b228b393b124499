"""Folders that the disk refuses to list; simulated, since tests may run as root, who may read everything."""

import os
from pathlib import Path


def refuse(monkeypatch, *folders) -> None:
    """Let listing any of these folders fail."""
    scandir, listdir = os.scandir, os.listdir

    def guarded(call, path):
        if Path(path) in folders:
            raise PermissionError(13, "Permission denied", str(path))
        return call(path)

    monkeypatch.setattr(os, "scandir", lambda path=".": guarded(scandir, path))
    monkeypatch.setattr(os, "listdir", lambda path=".": guarded(listdir, path))
