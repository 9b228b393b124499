"""Training killed at random moments, in processes of its own: it ends bit for bit as one that was left alone.

`--kills=N` says how often (the ordinary run kills three times).
"""

import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from conftest import REPOSITORY, cpu_environment
from orbax.checkpoint import v1 as ocp
from trained import TIMES, numbers, scalars

from twostream_jax.checkpoint import Checkpoints

EVERY = 6


def command(config, workdir, steps):
    overrides = [
        f"--config.data.split_file={config.data.split_file}",
        f"--config.data.records={config.data.records}",
        f"--config.train.steps={steps}",
        f"--config.train.checkpoint_every={EVERY}",
        "--config.train.log_every=4",
        "--config.train.batch_size=16",
        "--config.input.stack=3",
        "--config.input.crop=41",
        "--config.data.short_side=48",
        "--config.data.kind=csv",
        # Wide enough that writing a checkpoint takes a while, so that some kills fall into it.
        "--config.model.width=0.25",
        "--config.model.name=cnn_m_temporal",
        "--config.optim.drops=()",
    ]
    return [sys.executable, "run.py", "--mode=train", "--config=configs/demo.py", f"--workdir={workdir}", *overrides]


def start(config, workdir, steps):
    return subprocess.Popen(
        command(config, workdir, steps),
        cwd=REPOSITORY,
        env=cpu_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def arrays(workdir, step):
    """Return the arrays of a checkpoint by name, read without the net."""
    state = ocp.load_checkpointables(workdir / "checkpoints" / str(step), {"state": None})["state"]
    return {str(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)}


def wait_for_unfinished_save(process, workdir) -> None:
    """Return while a save is under way, or when the process has ended."""
    while process.poll() is None and not any((workdir / "checkpoints").glob("*tmp*")):
        time.sleep(0.001)


def wait_for_checkpoint_after(process, workdir) -> None:
    """Return when a checkpoint stands there that was not there before, or when the process has ended."""
    folder = workdir / "checkpoints"
    before = {path.name for path in folder.glob("[0-9]*") if path.name.isdigit()}
    while process.poll() is None:
        if {path.name for path in folder.glob("[0-9]*") if path.name.isdigit()} - before:
            return
        time.sleep(0.01)


@pytest.mark.slow
def test_kills_change_nothing(tiny_config, tmp_path, request):
    kills = request.config.getoption("--kills")
    # A kill after a checkpoint comes within the time of a few more.
    steps = EVERY * (4 + 4 * kills)
    begun = time.monotonic()
    calm = start(tiny_config, tmp_path / "calm", steps)
    wait_for_checkpoint_after(calm, tmp_path / "calm")
    start_up, begun = time.monotonic() - begun, time.monotonic()
    output, _ = calm.communicate(timeout=1200)
    assert calm.returncode == 0, output.decode()
    interval = (time.monotonic() - begun) / (3 + 4 * kills)

    rng = random.Random(11)
    unfinished = 0
    workdir = tmp_path / "killed"
    for kill in range(kills):
        process = start(tiny_config, workdir, steps)
        # The first kill falls into a save, each third one anywhere before training begins, the others anywhere in it.
        if kill == 0:
            wait_for_unfinished_save(process, workdir)
        elif kill % 3 == 1:
            time.sleep(rng.uniform(0.0, start_up))
        else:
            wait_for_checkpoint_after(process, workdir)
            time.sleep(rng.uniform(0.0, 2 * interval))
        process.send_signal(signal.SIGKILL)
        output, _ = process.communicate()
        assert process.returncode == -signal.SIGKILL, f"ended before it could be killed: {output.decode()}"
        assert b"damaged" not in output and b"Traceback" not in output, output.decode()
        unfinished += sum(1 for _ in (workdir / "checkpoints").glob("*tmp*"))
    assert unfinished >= 1
    last = start(tiny_config, workdir, steps)
    output, _ = last.communicate(timeout=1200)
    assert last.returncode == 0 and b"continues at step" in output, output.decode()

    ours, theirs = arrays(workdir, steps), arrays(tmp_path / "calm", steps)
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    with Checkpoints(workdir, read_only=True) as checkpoints:
        assert checkpoints.steps() == [steps - EVERY, steps]
    # Every line stands once and tells the same numbers, whatever the clock said; and so do the event files.
    assert numbers(workdir) == numbers(tmp_path / "calm") and len(numbers(workdir)) >= steps // 4
    ours, theirs = ([s for s in scalars(path) if s[1] not in TIMES] for path in (workdir, tmp_path / "calm"))
    assert ours == theirs
