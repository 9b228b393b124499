"""A folder is written by one command at a time."""

import errno
import fcntl
import os
import subprocess
import sys

import pytest
from conftest import REPOSITORY

from input_pipeline.folder_lock import folder_lock
from input_pipeline.schema import UserError

HOLDER = """
import pathlib, sys, time
from input_pipeline.folder_lock import folder_lock
with folder_lock(pathlib.Path(sys.argv[1]), "a training"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_another_process_is_refused_until_the_holder_dies(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], cwd=REPOSITORY, stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UserError) as refused, folder_lock(tmp_path, "a training"):
            pass
        said = f"{tmp_path}: a training is at work there already (process {holder.pid} on {os.uname().nodename}); "
        assert str(refused.value) == said + "wait for its end, or name another folder"
    finally:
        holder.kill()
        holder.communicate()
    with folder_lock(tmp_path, "a training"), pytest.raises(UserError), folder_lock(tmp_path, "a training"):
        pass
    # Given back at the end, and after an error inside.
    with pytest.raises(ZeroDivisionError), folder_lock(tmp_path, "a training"):
        _ = 1 / 0
    with folder_lock(tmp_path, "a training"):
        pass


def test_a_started_process_does_not_keep_the_folder(tmp_path):
    code = "import time; print('here', flush=True); time.sleep(60)"
    with folder_lock(tmp_path, "a training"):
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, close_fds=False)
        assert child.stdout.readline() == b"here\n"
    try:
        with folder_lock(tmp_path, "a training"):
            assert child.poll() is None
    finally:
        child.kill()
        child.communicate()


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch, capsys):
    def unsupported(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with folder_lock(tmp_path, "a training"):
        pass
    said = f"warning: {tmp_path}: cannot be locked (Operation not supported); start only one at a time\n"
    assert capsys.readouterr().err == said


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError), folder_lock(tmp_path / "none", "a training"):
        pass
