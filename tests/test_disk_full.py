"""A disk that is full or may not be written, in a mount of its own: one line, status 2, and what was saved is kept."""

import subprocess
import sys

import pytest
from conftest import REPOSITORY, cpu_environment
from trained import numbers

from twostream_jax.checkpoint import Checkpoints

# Runs in a mount namespace of its own, where even a user without rights may mount a tmpfs.
SCRIPT = """
import contextlib, io, json, pathlib, shutil, subprocess, sys
from input_pipeline.schema import UserError
from twostream_jax import cli
from twostream_jax.checkpoint import Checkpoints
from twostream_jax.files import write_json
from twostream_jax.run_log import MetricsLog

finished, disk, out = map(pathlib.Path, sys.argv[1:])

def mount(options):
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], check=True)

def command(*arguments):
    said, status = io.StringIO(), 0
    with contextlib.redirect_stderr(said):
        try:
            cli.main([f"--workdir={disk}/run", *arguments])
        except SystemExit as stop:
            status = stop.code
    lines = [line for line in said.getvalue().splitlines() if not line.startswith("train ")]
    print("LINE", json.dumps([status, lines]), flush=True)
    return status, lines

def refused(work):
    try:
        work()
    except UserError as error:
        return str(error)
    raise AssertionError("there was room")

mount("size=1000k")
(disk / "run").mkdir()
shutil.copy(finished / "config.json", disk / "run")
# The first checkpoint fits, the second does not.
status, (line,) = command()
full = f"error: {disk}/run/checkpoints: cannot be written (No space left on device); make room there, then give"
assert status == 2 and line.startswith(full), line
with Checkpoints(disk / "run", read_only=True) as checkpoints:
    assert checkpoints.steps() == [3], checkpoints.steps()
mount("remount,ro")
status, (line,) = command()
shut = f"error: --workdir={disk}/run: cannot be written (Read-only file system); make that place writable"
assert status == 2 and line.startswith(shut), line
mount("remount,rw,size=8000k")
assert command() == (0, [])
shutil.copytree(disk / "run", out)

# The other files that a run writes, each filled to the last byte.
mount("size=40k")
for kept, other in (("metrics.jsonl", "_board"), ("tensorboard", "_file")):
    log = MetricsLog(disk / kept, 0)
    getattr(log, other).close()
    setattr(log, other, open("/dev/null", "wb" if other == "_board" else "w"))
    said = refused(lambda: [log.write(step, {"x" * 99: 0.0}) for step in range(1000)])
    assert said.startswith(f"{disk}/{kept}/{kept}: cannot be written (No space left on device); make room"), said
    log.close()
    shutil.rmtree(disk / kept)
said = refused(lambda: write_json(disk / "a.json", list(range(50_000))))
assert said.startswith(f"{disk}/a.json: cannot be written (No space left on device); make room there, then give"), said
assert not list(disk.glob("a.json*"))
"""


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_run_goes_on_once_there_is_room(finished, tmp_path):
    _, workdir, _ = finished
    alone = ["unshare", "--user", "--map-root-user", "--mount"]
    (tmp_path / "disk").mkdir()
    probe = ["mount", "-t", "tmpfs", "tmpfs", tmp_path / "disk"]
    try:
        subprocess.run([*alone, *probe], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no mount of our own can be made here: {error}")
    arguments = [sys.executable, "-c", SCRIPT, workdir, tmp_path / "disk", tmp_path / "out"]
    done = subprocess.run(
        [*alone, *arguments], cwd=REPOSITORY, env=cpu_environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # None of orbax's threads has a word to say.
    assert done.stderr == "" and done.stdout.count("LINE") == 3
    assert numbers(tmp_path / "out") == numbers(workdir)
    with Checkpoints(tmp_path / "out", read_only=True) as ours, Checkpoints(workdir, read_only=True) as theirs:
        assert ours.steps() == [3, 6]
        assert ours._document(6)["checksums"] == theirs._document(6)["checksums"]
