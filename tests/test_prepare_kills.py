"""SIGKILL at random moments of prepare, again and again: the records end byte-identical to an undisturbed run's."""

import dataclasses
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest
from tiny_clips import SETTINGS, hashes, listed, run, write_clip

from twostream_jax.drivers.device_flow import device_flow

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent

CLIPS = 12

SCRIPT = """
import dataclasses, pathlib, sys
sys.path.insert(0, {tests!r})
from test_prepare_kills import clips
from tiny_clips import SETTINGS
from input_pipeline import prepare, shards
shards.SHARD_BYTES = 30_000
if __name__ == "__main__":
    from twostream_jax.drivers.device_flow import device_flow
    settings = dataclasses.replace(SETTINGS, processes=2, method=sys.argv[2], codec=sys.argv[3])
    folder = pathlib.Path(sys.argv[1])
    prepare.prepare(clips(pathlib.Path({videos!r})), folder, settings, lambda *progress: None, device_flow=device_flow)
"""


def clips(folder):
    """The list of the clips, which are written where they are not there."""
    names = [f"{'abc'[i % 3]}/clip{i:02}" for i in range(CLIPS)]
    for i, name in enumerate(names):
        if not (folder / f"{name}.avi").is_file():
            write_clip(folder / f"{name}.avi", frames=4 + i, seed=i)
    return listed(folder, names)


@pytest.mark.parametrize(
    ("method", "codec"),
    [
        ("tvl1", "jpeg"),
        pytest.param("tvl1", "dct", marks=pytest.mark.slow),
        pytest.param("jax_tvl1", "jpeg", marks=pytest.mark.slow),
    ],
)
def test_killed_at_random_moments(method, codec, tmp_path, request, monkeypatch):
    wanted = request.config.getoption("--kills")
    monkeypatch.setattr("input_pipeline.shards.SHARD_BYTES", 30_000)
    videos = clips(tmp_path / "v")
    run(videos, tmp_path / "whole", dataclasses.replace(SETTINGS, method=method, codec=codec), device_flow)
    whole = hashes(tmp_path / "whole")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=str(REPOSITORY / "tests"), videos=str(tmp_path / "v")))

    def start(folder):
        # As a user's: one device.
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "XLA_FLAGS": ""}
        command = [sys.executable, str(script), str(folder), method, codec]
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)

    begun = time.monotonic()
    assert start(tmp_path / "timed").wait() == 0
    seconds = time.monotonic() - begun
    rng, kills, finished, seen = np.random.default_rng(wanted), 0, 0, set()
    while kills < wanted:
        folder = tmp_path / f"r{finished}"
        process = start(folder)
        try:
            # An early kill before anything is written tests nothing, so the first fifth is left out.
            _, error = process.communicate(timeout=rng.uniform(0.2, 1.0) * seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
            seen.add(len(list((folder / ".partial").glob("*.json"))))
            continue
        assert process.returncode == 0, error
        assert hashes(folder) == whole
        finished += 1
    while (process := start(tmp_path / f"r{finished}")).wait():
        _, error = process.communicate()
        # Workers of the killed run may still be leaving; nothing else may go wrong.
        raise AssertionError(error)
    assert hashes(tmp_path / f"r{finished}") == whole
    print(
        f"{kills} kills, {finished + 1} runs finished between them, killed with {sorted(seen)} of {CLIPS} clips finished"
    )
