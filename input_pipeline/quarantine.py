"""Videos set aside: which, why, and what their files were, so that a mended one is noticed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass

from input_pipeline.safe_files import write_atomically
from input_pipeline.schema import UserError, first_line
from input_pipeline.still_images import StillImage
from input_pipeline.video_list import Video

QUARANTINE_FILE = "quarantine.jsonl"


@dataclass(frozen=True)
class SetAside:
    """Why a video cannot be used, and what it was: "" where it may be usable as it is, on another machine say."""

    reason: str
    content: str


def write_quarantine(records: pathlib.Path, videos: Sequence[Video], aside: dict[str, SetAside]) -> None:
    """Write quarantine.jsonl: a line for each of the `videos` that is set aside, in their order."""
    lines = [
        {"name": video.name, "path": str(video.path), **dataclasses.asdict(aside[video.name])}
        for video in videos
        if video.name in aside
    ]
    write_atomically(records / QUARANTINE_FILE, "".join(f"{json.dumps(line)}\n" for line in lines))


def read_quarantine(records: pathlib.Path) -> dict[str, SetAside]:
    """Return {name: why} of quarantine.jsonl; UserError where it is damaged."""
    file = records / QUARANTINE_FILE
    if not file.is_file():
        return {}
    try:
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        return {str(line["name"]): SetAside(str(line["reason"]), str(line["content"])) for line in lines}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        why = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"{file}: cannot be read ({why}); delete the file and run --mode=prepare again") from error


def content_of(video: Video) -> str:
    """Return what changes when a video is mended: its file's SHA-256, since a mended copy may have the same size.

    Only videos set aside are read for it. What is not one file is told by its size; what is absent gives "".
    """
    if not video.exists():
        return ""
    if video.source and not isinstance(video.source, StillImage):
        return f"bytes:{video.size_bytes()}"
    try:
        with video.path.open("rb") as stream:
            return "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        return f"unreadable:{error.errno}"
