"""Files that appear only when whole."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Write a text file aside and rename it, so that a reader, or a crash, never meets half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, indented, as `write_text`; ValueError for NaN, which strict readers would refuse."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
