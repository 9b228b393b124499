"""Reads damaged files one by one in a process of its own: `kind<TAB>path` on stdin, an outcome a line on stdout.

Run as a script. Address space is limited, so that a header which claims too much fails here and not on the machine.
"""

from __future__ import annotations

import dataclasses
import os
import resource
import sys
import traceback
from pathlib import Path
from types import SimpleNamespace

MEMORY_BYTES = 4 * 2**30


def video(path: Path) -> None:
    from input_pipeline import stages
    from input_pipeline.datasets import Video
    from input_pipeline.videos import probe_video

    frames, rate, width, height = probe_video(path)
    assert min(frames, width, height) >= 0 and isinstance(rate, float)
    settings = stages.PrepareSettings(32, "dis", 8.0, False, 0.5, 1)
    result = stages.prepare_video(Video("a", path, 0, "g", {"1": "train"}), path.parent, settings)
    if isinstance(result, str):
        raise stages.UserError(result)


def jpeg(path: Path) -> None:
    from input_pipeline import codecs

    data = path.read_bytes()
    assert codecs.decode_frame(data).ndim == 3
    assert codecs.decode_grey(data).ndim == 2


def record(path: Path) -> None:
    from input_pipeline import codecs

    parse = codecs.parse_frame if path.name == "frame.record" else codecs.parse_field
    assert isinstance(parse(path.read_bytes())[0], str)


def records_folder(path: Path) -> None:
    """Read all of a records folder as training and evaluation do."""
    from input_pipeline.sampling import VideoTable, eval_chunks
    from input_pipeline.store import Records
    from input_pipeline.subsets import select

    records = Records(path)
    chosen = select(records.videos, split=1, folds=2, validation_fraction=0.0, seed=0)
    table = VideoTable.of(records.videos, chosen["train"])
    eval_chunks(table, 8, before=0, after=3, count=4)
    assert all(isinstance(records.dataset.classes[label], str) for label in table.label)
    for position, stored in enumerate(records.videos):
        records.frames(position, range(min(stored.frames, 100)))
        if stored.flow:
            records.flow(position, 0, min(stored.pairs, 100))


def prepared_folder(path: Path) -> None:
    """Ask prepare for what the folder holds already, or the finished videos of an interrupted run."""
    from tiny_clips import SETTINGS, listed

    from input_pipeline import prepare
    from input_pipeline.dataset_file import read_dataset

    names = ["a/clip0", "a/clip2", "b/bad", "b/clip1"]
    prepare.prepare(listed(path.parent / "clips", names), path, dataclasses.replace(SETTINGS), lambda *_: None)
    # Whatever was taken over must be what a run without damage makes.
    assert read_dataset(path).checksum == read_dataset(path.parent / "records").checksum


def ucf101(path: Path) -> None:
    from input_pipeline.official_lists import read_ucf101

    read_ucf101(path)


def hmdb51(path: Path) -> None:
    from input_pipeline.official_lists import read_hmdb51

    read_hmdb51(path)


def csv(path: Path) -> None:
    from input_pipeline.datasets import list_videos

    section = {"kind": "csv", "split_file": str(path), "videos": "", "group_column": "group", "classes": ()}
    list_videos(SimpleNamespace(**section, allow_missing=True))


def scores(path: Path) -> None:
    from twostream_jax.scores import ScoreFile

    ScoreFile.read(path)


def config(path: Path) -> None:
    from twostream_jax import validate
    from twostream_jax.cli_config import load_stored

    nets = {"cnn_m_temporal": ("flow",), "cnn_m_spatial": ("rgb",)}
    validate.check_config(load_stored(path.parent, []), nets)


KINDS = {
    **{f.__name__: f for f in (video, jpeg, record, ucf101, hmdb51, csv, scores, config)},
    **dict.fromkeys(("record_file", "dataset"), records_folder),
    **dict.fromkeys(("quarantine", "partial"), prepared_folder),
}
# codecs raise ValueError, which the store turns into a UserError that names the file.
REFUSALS = {"jpeg": ValueError, "record": ValueError}


def _peak_bytes() -> int:
    # Not ru_maxrss, which a process takes over from whoever started it.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def main() -> None:
    from input_pipeline.schema import UserError

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    out = os.fdopen(os.dup(1), "w", buffering=1)
    for line in sys.stdin:
        kind, path = line.rstrip("\n").split("\t")
        try:
            KINDS[kind](Path(path))
            outcome = "read"
        except REFUSALS.get(kind, UserError) as error:
            # Other control characters, in names, the command line escapes.
            one_line = str(error) and "\n" not in str(error) and len(str(error)) < 1000
            outcome = f"refused {error}" if one_line else f"fault: message of several lines or none: {error!r:.300}"
        except BaseException:
            outcome = "fault: " + " | ".join(traceback.format_exc().splitlines()[-6:])
        out.write(f"{_peak_bytes()}\t{outcome!a}\n")


if __name__ == "__main__":
    main()
