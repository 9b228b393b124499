"""CSV files of videos: label, group and splits of each, as a user writes them."""

from __future__ import annotations

import csv
import os
import re
from pathlib import Path

from input_pipeline.schema import UserError
from input_pipeline.video_list import FILES, Entries, Video, VideoList, clean_name, existing_folder, inside


def list_csv(data, root: Path | None = None, entries: Entries = FILES) -> VideoList:
    """Return the rows of data.split_file: columns path, label, split (or split1, split2, ...) and a group column.

    A split's value is train, test or empty (no part in it); a single `split` is split "1". Classes are the labels in
    alphabetical order. Paths are relative to `root`, by default to the `csv_root`; the data set is named after the CSV's
    folder. Without a column `group` each clip is its own group.
    """
    if not data.split_file:
        raise UserError("data.split_file is empty: give the CSV with columns path, label, split")
    file, root = _csv_file(data), root or csv_root(data)
    columns, rows = _read_csv(file)
    splits = _split_columns(columns, file)
    if data.group_column not in columns and data.group_column != "group":
        raise UserError(
            f"data.group_column={data.group_column!r} is no column of {file}, which has {', '.join(columns)}: "
            "name one of them, or 'group' where there is none"
        )
    # A row without any part is not listed, nor is a class that only such rows name.
    rows = [(number, row) for number, row in rows if any(row[column] for column in splits.values())]
    if not rows:
        raise UserError(f"data.split_file={file}: no row has a split: write train or test")
    classes = tuple(sorted({row["label"] for _, row in rows}))
    videos = []
    for number, row in rows:
        where = f"{file} line {number}"
        subsets = {split: row[column] for split, column in splits.items() if row[column]}
        wrong = [value for value in subsets.values() if value not in ("train", "test")]
        if wrong:
            raise UserError(
                f"{where}: split {wrong[0]!r} is not train, test or empty (data.validation_fraction holds out "
                "validation groups)"
            )
        path = inside(root, row["path"], where)
        name = entries.bare(path).relative_to(root).as_posix()
        group = row.get(data.group_column, name)
        if not group:
            raise UserError(f"{where}: column {data.group_column!r} (data.group_column) is empty")
        videos.append(Video(name, path, classes.index(row["label"]), group, subsets))
    return VideoList(clean_name(file.parent.name), "csv", classes, tuple(splits), tuple(videos))


def csv_root(data) -> Path:
    """Return the folder that a CSV's paths are relative to: data.videos or, when that is empty, the CSV's own."""
    return existing_folder("data.videos", data.videos) if data.videos else _csv_file(data).parent


def _csv_file(data) -> Path:
    return Path(os.path.abspath(os.path.expanduser(data.split_file)))


def _read_csv(file: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Return the column names and the rows with their line numbers, values without outer blanks."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, restval="", skipinitialspace=True)
            columns = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = columns
            # A row with more values than columns holds the rest under the key None.
            rows = [(reader.line_num, {key: value.strip() for key, value in row.items() if key}) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"data.split_file={file} cannot be read: {error}") from error
    for needed in ("path", "label"):
        if needed not in columns:
            raise UserError(f"data.split_file={file} has no column {needed!r}: it has {', '.join(columns) or 'none'}")
        for number, row in rows:
            if not row[needed]:
                raise UserError(f"{file} line {number}: the column {needed!r} is empty")
    if not rows:
        raise UserError(f"data.split_file={file} lists no videos")
    return columns, rows


def _split_columns(columns: list[str], file: Path) -> dict[str, str]:
    """Return split -> column, in the order of the splits' numbers."""
    numbered = {column[5:]: column for column in columns if re.fullmatch(r"split[1-9]\d*", column)}
    if "split" in columns and numbered:
        raise UserError(f"data.split_file={file} has the column 'split' and {min(numbered.values())!r}: keep one kind")
    if "split" in columns:
        return {"1": "split"}
    if not numbered:
        raise UserError(
            f"data.split_file={file} has no column 'split' (or split1, split2, ...): it has {', '.join(columns)}"
        )
    return {split: numbered[split] for split in sorted(numbered, key=int)}
