"""Training killed at random moments, in processes of its own: it ends bit for bit as one that was left alone."""

import json
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

from twostream_jax.checkpoint import Checkpoints
from twostream_jax.run_log import read_metrics

STEPS, EVERY = 60, 10


def command(config, workdir):
    overrides = [
        f"--config.data.split_file={config.data.split_file}",
        f"--config.data.records={config.data.records}",
        f"--config.train.steps={STEPS}",
        f"--config.train.checkpoint_every={EVERY}",
        "--config.train.log_every=5",
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


def start(config, workdir):
    return subprocess.Popen(
        command(config, workdir),
        cwd=REPOSITORY,
        env=cpu_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def arrays(workdir, step):
    """Return the arrays of a checkpoint by name, read without the net."""
    state = ocp.load_checkpointables(workdir / "checkpoints" / str(step), {"state": None})["state"]
    return {str(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)}


def wait_for_unfinished_save(process, workdir) -> bool:
    """Return whether a save under way was seen before the process ended; returns while it is under way."""
    while process.poll() is None:
        if any((workdir / "checkpoints").glob("*tmp*")):
            return True
        time.sleep(0.001)
    return False


def wait_for_checkpoint_after(process, workdir) -> None:
    """Return when a checkpoint stands there that was not there before."""
    folder = workdir / "checkpoints"
    before = {path.name for path in folder.glob("[0-9]*") if path.name.isdigit()}
    while process.poll() is None:
        if {path.name for path in folder.glob("[0-9]*") if path.name.isdigit()} - before:
            return
        time.sleep(0.01)


@pytest.mark.slow
def test_three_kills_change_nothing(tiny_config, tmp_path):
    calm = start(tiny_config, tmp_path / "calm")
    output, _ = calm.communicate(timeout=300)
    assert calm.returncode == 0, output.decode()

    rng = random.Random(11)
    unfinished, kills = 0, 0
    workdir = tmp_path / "killed"
    while kills < 3:
        process = start(tiny_config, workdir)
        if kills == 0:
            # The first kill falls into a save, the others anywhere.
            assert wait_for_unfinished_save(process, workdir)
        else:
            wait_for_checkpoint_after(process, workdir)
            time.sleep(rng.uniform(0.0, 0.7))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it ended before it could be killed; lengthen the run"
        unfinished += sum(1 for _ in (workdir / "checkpoints").glob("*tmp*"))
        kills += 1
    assert unfinished >= 1
    last = start(tiny_config, workdir)
    output, _ = last.communicate(timeout=300)
    assert last.returncode == 0 and b"continues at step" in output, output.decode()

    ours, theirs = arrays(workdir, STEPS), arrays(tmp_path / "calm", STEPS)
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    with Checkpoints(workdir, read_only=True) as checkpoints:
        assert checkpoints.steps() == [STEPS - EVERY, STEPS]
    # Every line stands once and tells the same numbers, whatever the clock said.
    lines = [
        [{key: line[key] for key in ("step", "loss", "clip_accuracy", "learning_rate")} for line in read_metrics(path)]
        for path in (workdir, tmp_path / "calm")
    ]
    assert lines[0] == lines[1], json.dumps(lines[0][:3])
