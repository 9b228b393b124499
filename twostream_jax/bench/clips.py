"""What the benches read: records of real clips, and the files that other projects keep of the same flow."""

from __future__ import annotations

import os
from pathlib import Path

from input_pipeline.safe_files import write_atomically
from input_pipeline.schema import UserError
from input_pipeline.store import Records
from twostream_jax.drivers.prepare import prepare_records

# Three short UCF-101 clips, 186 flow fields in all, under the folder that holds the real clips.
CLIPS = (
    "ucf101/BlowDryHair/v_BlowDryHair_g07_c02.avi",
    "ucf101/JavelinThrow/v_JavelinThrow_g21_c03.avi",
    "ucf101/JavelinThrow/v_JavelinThrow_g22_c01.avi",
)


def bench_records(config, workdir: Path, codec: str = "jpeg", planes: int = 64) -> Path:
    """Return the folder of records of flow coded so: `data.records`, or what is prepared under `workdir` and kept there.

    Without `data.records` the videos are those that the config names, or three real clips where it names none.
    UserError where records that are given hold flow of another kind, or where there are no clips.
    """
    if config.data.records:
        stored = Records(config.data.records).dataset.flow
        if stored is None or stored.codec != codec or (codec == "dct" and stored.dct_planes != planes):
            raise UserError(f"data.records={config.data.records}: holds no flow of codec {codec} with {planes} planes")
        return Path(config.data.records)
    folder = workdir / ("records" if codec == "jpeg" else f"records_dct{planes}")
    own = _with_clips(config, workdir)
    own.data.records, own.data.codec = str(folder), codec
    own.data.dct_planes = planes if codec == "dct" else 64
    prepare_records(own)
    return folder


def transcoded_records(config, workdir: Path, source: Path) -> Path:
    """Return the folder, under `workdir`, of DCT records with the coefficients of the JPEG records in `source`."""
    own = config.copy_and_resolve_references()
    own.data.records, own.data.codec, own.data.dct_planes = str(workdir / "records_transcoded"), "dct", 64
    own.data.kind, own.data.videos = "records", str(source)
    prepare_records(own)
    return Path(own.data.records)


def jpeg_files(records: Records, folder: Path) -> Path:
    """Return `folder`, filled with the records' flow JPEGs as other projects keep them.

    Field i of a video is CLASS/VIDEO/flow_x_0000i.jpg and flow_y_0000i.jpg, from 1; the bytes are those in the records.
    """
    for position, video in enumerate(records.videos):
        own = video_folder(records, position, folder)
        done = own / "complete"
        if done.exists():
            continue
        own.mkdir(parents=True, exist_ok=True)
        for i, (x, y, _) in enumerate(records.field_jpegs(position, range(video.pairs)), start=1):
            (own / f"flow_x_{i:05d}.jpg").write_bytes(x)
            (own / f"flow_y_{i:05d}.jpg").write_bytes(y)
        done.touch()
    return folder


def video_folder(records: Records, position: int, folder: Path) -> Path:
    """Return where `jpeg_files` puts a video's flow."""
    video = records.videos[position]
    return folder / records.dataset.classes[video.label] / video.name.replace("/", "_")


def _with_clips(config, workdir: Path):
    """Return the config with videos: its own, or the real clips through a list that is written to the workdir."""
    own = config.copy_and_resolve_references()
    if own.data.videos or own.data.split_file or own.data.kind == "synthetic":
        return own
    root = Path(os.environ.get("TWOSTREAM_TEST_DATA", "../shared/data")).resolve()
    absent = next((clip for clip in CLIPS if not (root / clip).is_file()), None)
    if absent:
        raise UserError(
            f"data.records is empty, and there is no {root / absent} to make some of: name your records "
            "(--config.data.records=DIR), your videos (--config.data.kind and --config.data.videos), or the folder of the "
            "clips (TWOSTREAM_TEST_DATA)"
        )
    workdir.mkdir(parents=True, exist_ok=True)
    own.data.kind, own.data.videos, own.data.split_file = "csv", str(root), str(workdir / "clips.csv")
    rows = [f"{clip},{Path(clip).parent.name},train" for clip in CLIPS]
    write_atomically(workdir / "clips.csv", "\n".join(["path,label,split", *rows, ""]))
    return own
