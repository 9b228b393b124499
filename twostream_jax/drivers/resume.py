"""From which of its checkpoints a run goes on, and whether it may."""

from __future__ import annotations

from pathlib import Path

from input_pipeline.schema import UserError
from twostream_jax import validate_run
from twostream_jax.checkpoint import Checkpoints, Damaged
from twostream_jax.drivers.setup import Setup


def resumable_steps(checkpoints: Checkpoints, setup: Setup, workdir: Path) -> list[int]:
    """Return the saved steps, the newest first; UserError when the run there is another one."""
    saved = []
    for step in reversed(checkpoints.steps()):
        try:
            stored = checkpoints.config(step)
        except Damaged as error:
            say_damaged(step, error)
            continue
        if not saved:
            for line in validate_run.check_resume(stored["config"], setup.config.to_dict(), workdir):
                print(line)
            # By place: of one task, the name is that of records that may have been changed since.
            for task, facts, classes in zip(
                setup.tasks, *(stored[k].values() for k in ("records", "tasks")), strict=True
            ):
                where = (task.section, task.settings.records)
                validate_run.check_same_records(facts, task.facts, workdir, *where)
                validate_run.check_same_classes(classes, task.classes, workdir, *where)
        saved.append(step)
    if checkpoints.steps() and not saved:
        raise nothing_left(checkpoints.folder)
    return saved


def say_damaged(step: int, error: Damaged) -> None:
    """Print that a checkpoint is passed over, and why."""
    print(f"checkpoint {step} is damaged and passed over ({error.reason})")


def nothing_left(folder: Path) -> UserError:
    """Return the error of a run none of whose checkpoints can be read."""
    return UserError(f"{folder}: no checkpoint can be read; bring back a copy, or delete the folder to start afresh")
