"""The records folder as a place of work: held by one command, its refusals in one line, its leftovers known."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

from input_pipeline.changes import shown_settings
from input_pipeline.dataset_file import DATASET_FILE
from input_pipeline.folder_lock import LOCK_FILE, folder_lock
from input_pipeline.safe_files import write_atomically
from input_pipeline.schema import UserError
from input_pipeline.stages import PrepareSettings
from input_pipeline.video_list import VideoList

PARTIAL_FOLDER = ".partial"
_SETTINGS_FILE = "settings"  # in there: what its finished videos were made with


@contextlib.contextmanager
def refusals_named(records: Path) -> Iterator[None]:
    """Turn what the disk refuses inside into one line that names `data.records`."""
    try:
        yield
    except BrokenPipeError:
        raise  # whoever read what is said has seen enough
    except OSError as error:
        remedy = "finished videos are kept: make room or mend the folder, and run again"
        raise UserError(f"data.records: cannot write {records} ({error}); {remedy}") from error


@contextlib.contextmanager
def held_alone(records: Path) -> Iterator[Path]:
    """Hold the records folder; yield the folder of finished videos in it, which goes when all went well."""
    partial = records / PARTIAL_FOLDER
    _check_nothing_else(records)
    records.mkdir(parents=True, exist_ok=True)
    with folder_lock(records, "another --mode=prepare"), _terminate_cleanly():
        partial.mkdir(exist_ok=True)
        yield partial
        shutil.rmtree(partial, ignore_errors=True)


def check_before(records: Path, video_list: VideoList, settings: PrepareSettings) -> None:
    """Refuse, before anything that takes time, what `held_alone` and `check_interrupted` refuse of this folder."""
    with refusals_named(records):
        _check_nothing_else(records)
        if (records / LOCK_FILE).is_file():
            with folder_lock(records, "another --mode=prepare"):
                pass
        _check_continues(records / PARTIAL_FOLDER, _wanted(video_list, settings))


def interrupted_method(records: Path) -> str | None:
    """Return the `flow.method` of an interrupted run that has finished videos in this folder; None where there is none."""
    partial = records / PARTIAL_FOLDER
    return _interrupted(partial).get("flow.method") if any(partial.glob("*.json")) else None


def _check_nothing_else(records: Path) -> None:
    found = {path.name for path in records.iterdir()} if records.is_dir() else set()
    if found - {LOCK_FILE} and not found & {PARTIAL_FOLDER, DATASET_FILE}:
        raise UserError(
            f"data.records={records}: holds other files and no records; name a folder that is empty or does not exist"
        )


def clear_leftovers(records: Path) -> None:
    """Remove the folder of finished videos that a run left which was killed at its very end."""
    # Not where another command works there, nor on a read-only disk.
    if (records / PARTIAL_FOLDER).is_dir():
        with contextlib.suppress(UserError, OSError), folder_lock(records, "another --mode=prepare"):
            shutil.rmtree(records / PARTIAL_FOLDER, ignore_errors=True)


def check_interrupted(partial: Path, video_list: VideoList, settings: PrepareSettings) -> None:
    """Refuse to go on with an interrupted run of another data set or other settings, whose finished videos would go."""
    wanted = _wanted(video_list, settings)
    _check_continues(partial, wanted)
    write_atomically(partial / _SETTINGS_FILE, json.dumps(wanted))


def _wanted(video_list: VideoList, settings: PrepareSettings) -> dict[str, str]:
    return {"the data set": video_list.name} | shown_settings(settings)


def _interrupted(partial: Path) -> dict[str, str]:
    """Return what the finished videos in this folder were made with; {} where that is not known."""
    try:
        return dict(json.loads((partial / _SETTINGS_FILE).read_bytes()))
    except (OSError, ValueError, TypeError):
        return {}


def _check_continues(partial: Path, wanted: dict[str, str]) -> None:
    found = _interrupted(partial)
    differing = next((key for key in wanted | found if found and found.get(key) != wanted.get(key)), None)
    if differing and any(partial.glob("*.json")):
        raise UserError(
            f"data.records={partial.parent}: holds an interrupted run with {differing} {found.get(differing)}, now "
            f"{wanted.get(differing)}; finish it as it was, choose another data.records, or delete the folder"
        )


@contextlib.contextmanager
def _terminate_cleanly() -> Iterator[None]:
    """Let SIGTERM leave through every `finally`, exit status 128 + 15, so that worker processes are stopped too.

    Where somebody answers it otherwise already, as prediction does of hop after hop, that stays.
    """

    def leave(signum, frame):
        raise SystemExit(128 + signum)

    # Only the main thread may set handlers.
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
