import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from tiny_clips import SETTINGS, hashes, listed, run, tiny_list, write_clip

from input_pipeline import prepare, stages

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


def interrupted_list(folder):
    names = [f"{'ab'[i % 2]}/clip{i}" for i in range(8)]
    for i, name in enumerate(names):
        if not (folder / f"{name}.avi").is_file():
            write_clip(folder / f"{name}.avi", frames=4 + i, seed=i)
    return listed(folder, names)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The hashes of a run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    run(interrupted_list(folder / "v"), folder / "r", method="tvl1")
    return hashes(folder / "r")


INTERRUPTED = """
import pathlib, sys
sys.path.insert(0, {tests!r})
from test_interruption import interrupted_list
from tiny_clips import SETTINGS
import dataclasses
from input_pipeline import prepare
if __name__ == "__main__":
    folder = pathlib.Path({folder!r})
    settings = dataclasses.replace(SETTINGS, method="tvl1", processes={processes})
    def say(done, total, text):
        print(done, flush=True)
    prepare.prepare(interrupted_list(folder / "v"), folder / "r", settings, say)
"""


def start_run(folder, processes):
    """Start a slow (TV-L1) run in a process of its own; return it once two videos are finished."""
    script = folder / "script.py"
    script.write_text(INTERRUPTED.format(tests=str(REPOSITORY / "tests"), folder=str(folder), processes=processes))
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, env=environment, text=True)
    for line in process.stdout:
        if int(line) >= 2:
            break
    return process


def children(pid):
    """Processes whose parent is `pid`."""
    found = []
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not pathlib.Path("/proc/self/stat").is_file(), reason="looks for processes in /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_leaves_no_process_and_resumes_to_the_same_bytes(tmp_path, uninterrupted, how):
    process = start_run(tmp_path, processes=2)
    begun = children(process.pid)
    process.send_signal(how)
    process.stdout.close()
    status = process.wait(timeout=20)
    assert status == (143 if how == signal.SIGTERM else -how)
    limit = time.monotonic() + 10
    while any(map(alive, begun)) and time.monotonic() < limit:
        time.sleep(0.05)
    assert len(begun) >= 2 and not any(map(alive, begun))
    assert not (tmp_path / "r" / "dataset.json").exists()

    told, said, settings = [], [], dataclasses.replace(SETTINGS, method="tvl1")
    videos = interrupted_list(tmp_path / "v")
    prepare.prepare(videos, tmp_path / "r", settings, lambda *progress: told.append(progress), said.append)
    kept = told[0][0]
    assert 2 <= kept < 8 and said == [f"{kept} of 8 videos were finished before and are kept"]
    # Each other video is worked on once; then the merge begins.
    assert [done for done, _, text in told if not text.startswith("merging")] == list(range(kept, 9))
    assert hashes(tmp_path / "r") == uninterrupted


def test_an_interruption_while_merging_resumes(tmp_path, monkeypatch):
    videos = tiny_list(tmp_path / "v")
    run(videos, tmp_path / "whole")

    def stop(done, total, text):
        if text.startswith("merging flow"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare.prepare(videos, tmp_path / "r", SETTINGS, stop)
    (tmp_path / "r" / "rgb" / "rgb-all.array_record-00007-of-00009").write_text("left by a run with other shards")
    monkeypatch.setattr(stages, "iterate_frames", None)
    run(videos, tmp_path / "r")
    assert hashes(tmp_path / "r") == hashes(tmp_path / "whole")
