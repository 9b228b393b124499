"""Two processes train and evaluate as one: the same losses, one set of files."""

import socket
import subprocess
import sys

import numpy as np
import pytest
from conftest import REPOSITORY, cpu_environment

from twostream_jax.run_log import read_metrics
from twostream_jax.scores import ScoreFile


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run(config, workdir, mode, processes):
    """Run a mode in this many processes, each with 2 / processes CPU devices."""
    port = free_port()
    arguments = [
        sys.executable, "run.py", f"--mode={mode}", f"--workdir={workdir}", "--config=configs/demo.py",
        f"--config.data.split_file={config.data.split_file}", f"--config.data.records={config.data.records}",
        "--config.data.kind=csv", "--config.data.short_side=48", "--config.input.crop=41", "--config.input.stack=3",
        "--config.model.name=cnn_m_temporal", "--config.model.width=0.0625", "--config.train.steps=4",
        "--config.train.batch_size=16", "--config.train.checkpoint_every=2", "--config.train.log_every=1",
        "--config.optim.drops=()", "--config.eval.frames=3",
    ]  # fmt: skip
    if processes > 1:
        arguments += [f"--coordinator=127.0.0.1:{port}", f"--num_processes={processes}"]
    flags = f"--xla_force_host_platform_device_count={2 // processes}"
    started = [
        subprocess.Popen(
            arguments + ([f"--process_id={i}"] if processes > 1 else []),
            cwd=REPOSITORY,
            env=cpu_environment() | {"XLA_FLAGS": flags},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for i in range(processes)
    ]
    for process in started:
        output, _ = process.communicate(timeout=200)
        assert process.returncode == 0, output.decode()


@pytest.mark.slow
def test_two_processes_equal_one(tiny_config, tmp_path):
    for processes in (1, 2):
        workdir = tmp_path / str(processes)
        run(tiny_config, workdir, "train", processes)
        run(tiny_config, workdir, "eval", processes)
    one, two = ([line["loss"] for line in read_metrics(tmp_path / str(n))] for n in (1, 2))
    assert len(one) == 4
    # The same rows on the same number of devices; only the all-reduce runs elsewhere.
    np.testing.assert_allclose(two, one, rtol=1e-6)
    scores = [ScoreFile.read(tmp_path / str(n) / "scores_videos_split1_test.npz") for n in (1, 2)]
    np.testing.assert_allclose(scores[1].probs, scores[0].probs, atol=1e-6)
    assert scores[0].names == scores[1].names
