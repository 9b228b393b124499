"""Grain's worker processes: they end with their parent, pass Ctrl-C by, and leave no shared memory behind."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from conftest import REPOSITORY, cpu_environment
from test_interruption import alive, children

SCRIPT = """
import contextlib, pathlib, sys
from input_pipeline import pipeline
from twostream_jax.drivers.device_batches import DeviceBatches
from twostream_jax.drivers.setup import Setup
from twostream_jax import cli_config
from twostream_jax import mesh as meshes

def main():
    setup = Setup.of(cli_config.load_stored(pathlib.Path(sys.argv[1]), []))
    draw = pipeline.DrawBatch((setup.only.table("train"),), 16, *setup.span, 41, True, 0)
    reading = pipeline.Reading(num_threads=1, num_workers=2)
    steps = int(sys.argv[2])
    window = setup.window(41)
    batches = pipeline.train_batches([setup.only.records], draw, window, start_step=0, steps=steps, reading=reading)
    if sys.argv[3] == "ahead":
        batches = DeviceBatches(batches, meshes.make_mesh())
    print("begins", flush=True)
    with contextlib.closing(batches):
        for number, batch in enumerate(batches):
            if number == 0:
                print("reads", flush=True)
    print("done", number + 1, flush=True)

if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("stopped", flush=True)
        sys.exit(130)
"""


def start(finished, tmp_path, steps, how="here"):
    (tmp_path / "reads.py").write_text(SCRIPT)
    return subprocess.Popen(
        [sys.executable, tmp_path / "reads.py", finished[1], str(steps), how],
        cwd=REPOSITORY,
        env=cpu_environment() | {"PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_until_gone(processes, seconds=15.0):
    limit = time.monotonic() + seconds
    while any(map(alive, processes)) and time.monotonic() < limit:
        time.sleep(0.05)
    return [process for process in processes if alive(process)]


# In the thread that asks for batches, as evaluation does, or in that which brings them ahead to the device.
@pytest.mark.parametrize("how", [pytest.param("here", marks=pytest.mark.slow), "ahead"])
def test_the_end_leaves_no_shared_memory(finished, tmp_path, how):
    process = start(finished, tmp_path, 6, how)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err) == (0, "begins\nreads\ndone 6\n", "")


@pytest.mark.skipif(not pathlib.Path("/proc/self/stat").is_file(), reason="looks for processes in /proc")
def test_workers_leave_with_a_parent_that_is_killed(finished, tmp_path):
    process = start(finished, tmp_path, 10**9)
    assert [process.stdout.readline() for _ in range(2)] == ["begins\n", "reads\n"]
    begun = children(process.pid)
    process.kill()
    process.wait(timeout=20)
    # Two workers and multiprocessing's own helper, which removes the shared memory.
    assert len(begun) == 3 and wait_until_gone(begun) == []
    process.communicate()


@pytest.mark.skipif(not pathlib.Path("/proc/self/stat").is_file(), reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("after", "how"), [("begins\n", "ahead"), pytest.param("reads\n", "here", marks=pytest.mark.slow)]
)
def test_ctrl_c_is_answered_by_the_parent_alone(finished, tmp_path, after, how):
    """Also while the workers still start, which takes seconds."""
    process = start(finished, tmp_path, 10**9, how)
    while process.stdout.readline() != after:
        pass
    while len(begun := children(process.pid)) < 3:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    try:
        out, err = process.communicate(timeout=120)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130 and out.endswith("stopped\n") and err == "", err
    assert wait_until_gone(begun) == []
