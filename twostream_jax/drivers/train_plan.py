"""What mode=train says before it begins."""

from __future__ import annotations

from pathlib import Path

from twostream_jax.drivers.setup import Setup
from twostream_jax.drivers.start_weights import Start


def print_plan(setup: Setup, mesh, start: int) -> None:
    """Print the net, the videos of each task, the devices, and at which step it begins."""
    config, shares = setup.config, sum(task.share for task in setup.tasks)
    for task in setup.tasks:
        videos = task.positions
        split = f"split {task.settings.split}" if task.settings.split else "all splits together"
        part = f", {task.share / shares:.0%} of each batch" if len(setup.tasks) > 1 else ""
        print(
            f"{config.model.name}, width {config.model.width:g}, on {task.name} {split}: {len(videos['train'])} training "
            f"videos, {len(videos['validation'])} held out, {len(task.classes)} classes{part}"
        )
        if task.name != task.facts["name"]:
            print(
                f"note: {task.section} is of the data set {task.facts['name']}, with whose scores its own do not fuse"
            )
    begins = f"continues at step {start}" if start else "starts"
    print(f"{mesh.devices.size} x {mesh.devices.flat[0].device_kind}; {begins} of {config.train.steps}")


def print_start(begin: Start | None, frozen: tuple[str, ...], start: int, workdir: Path) -> None:
    """Say where the layers come from, where the run begins, and which of them stay as they are."""
    for line in begin.lines() if begin else ():
        print(f"{workdir}: {line}")
    if frozen:
        print(f"{workdir}: frozen: {', '.join(frozen)}")
        if begin is None and start == 0:
            print("note: init.from is empty, so the frozen layers stay as they were drawn")
