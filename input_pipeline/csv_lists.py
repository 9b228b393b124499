"""CSV files of videos or images: label, group and splits of each, as a user writes them."""

from __future__ import annotations

import csv
import os
import re
from pathlib import Path

from input_pipeline.schema import UserError, first_line, shown_name
from input_pipeline.still_images import IMAGE_SUFFIXES, StillImage
from input_pipeline.video_list import (
    FILES,
    Entries,
    Video,
    VideoList,
    check_spellings,
    clean_name,
    existing_folder,
    inside,
    on_disk,
    one_spelling,
    unfit,
)

_DELIMITERS = (",", ";", "\t")

# A path may have 4096 bytes on Linux; longer values are no names.
_LONGEST_VALUE = 4096

_Rows = list[tuple[int, dict[str, str]]]


def list_csv(data, root: Path | None = None, entries: Entries = FILES) -> VideoList:
    """Return the rows of data.split_file: columns path, label, split (or split1, split2, ...) and a group column.

    Columns are told apart by commas, semicolons or tabs; the header and the splits' values are read whatever their
    case. A split's value is train, test or empty (no part in it); a single `split` is split "1". Classes are the labels
    in alphabetical order, numbers too. Paths are relative to `root`, by default the `csv_root`; the data set is named
    after the CSV's folder. Without a column `group` each clip is its own group. Rows that name images are videos of one
    frame; a list holds either.

    Raises UserError, naming the file and the line, for what cannot be read or contradicts itself.
    """
    if not data.split_file:
        raise UserError("data.split_file is empty: give the CSV with columns path, label, split")
    file, root = _csv_file(data), root or csv_root(data)
    columns, rows = _read_csv(file)
    splits = _split_columns(columns, file)
    group_column = data.group_column.strip().lower()
    if group_column not in columns and group_column != "group":
        raise UserError(
            f"data.group_column={data.group_column!r} is no column of {file}, which has {', '.join(columns)}: "
            "name one of them, or 'group' where there is none"
        )
    # A row without any part is not listed, nor is a class that only such rows name.
    rows = [(number, row) for number, row in rows if any(row[column] for column in splits.values())]
    if not rows:
        raise UserError(f"data.split_file={file}: no row has a split: write train or test")
    classes = sorted({one_spelling(row["label"]) for _, row in rows})
    check_spellings(classes, f"data.split_file={file}")
    still = entries is FILES and _is_still(rows, file)
    label_of = {name: label for label, name in enumerate(classes)}
    videos, lines = [], {}
    for number, row in rows:
        path = inside(root, row["path"], f"{file} line {number}")
        name = one_spelling(entries.bare(path).relative_to(root).as_posix())
        video = _video(row, f"{file} line {number}", name, on_disk(root, path), label_of, splits, group_column, still)
        if video.path in lines:
            raise UserError(
                f"{file} lines {lines[video.path]} and {number} both list {shown_name(row['path'])}: keep one"
            )
        lines[video.path] = number
        videos.append(video)
    name = clean_name(file.parent.name)
    return VideoList(name, "csv", tuple(classes), tuple(splits), tuple(videos), still=still)


def csv_root(data) -> Path:
    """Return the folder that a CSV's paths are relative to: data.videos or, when that is empty, the CSV's own."""
    return existing_folder("data.videos", data.videos) if data.videos else _csv_file(data).parent


def _csv_file(data) -> Path:
    return Path(os.path.abspath(os.path.expanduser(data.split_file)))


def _video(
    row: dict, where: str, name: str, path: Path, label_of: dict, splits: dict, group_column: str, still: bool
) -> Video:
    """Return the video of one row; `where` names file and line."""
    subsets = {split: row[column].lower() for split, column in splits.items() if row[column]}
    wrong = [row[splits[split]] for split, value in subsets.items() if value not in ("train", "test")]
    if wrong:
        raise UserError(
            f"{where}: split {wrong[0]!r} is not train, test or empty (data.validation_fraction holds out "
            "validation groups)"
        )
    group = row.get(group_column, name)
    if not group:
        raise UserError(f"{where}: column {group_column!r} (data.group_column) is empty")
    label = label_of[one_spelling(row["label"])]
    return Video(name, path, label, group, subsets, StillImage(path) if still else None)


def _is_still(rows: _Rows, file: Path) -> bool:
    """Return whether the rows name images; raise UserError when some do and some do not."""
    first: dict[bool, int] = {}
    for number, row in rows:
        first.setdefault(os.path.splitext(row["path"])[1].lower() in IMAGE_SUFFIXES, number)
    if len(first) == 2:
        raise UserError(
            f"{file} line {first[False]} names a video and line {first[True]} an image: a set holds either, list them "
            "in two files"
        )
    return True in first


def _read_csv(file: Path) -> tuple[list[str], _Rows]:
    """Return the column names in lower case and the rows with their line numbers, values without outer blanks."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            header = stream.readline()
            delimiter = _delimiter(header)
            columns = [
                name.strip().lower()
                for name in next(csv.reader([header], delimiter=delimiter, skipinitialspace=True), [])
            ]
            rows = _read_rows(csv.reader(stream, delimiter=delimiter, skipinitialspace=True), columns, file)
    except UnicodeDecodeError as error:
        raise UserError(f"data.split_file={file} cannot be read, save it as UTF-8 ({error})") from error
    except (OSError, csv.Error) as error:
        raise UserError(f"data.split_file={file} cannot be read: {first_line(error)}") from error
    for needed in ("path", "label"):
        if needed not in columns:
            has = shown_name(", ".join(columns)) if any(columns) else "none"
            raise UserError(f"data.split_file={file} has no column {needed!r}: it has {has}")
    twice = [name for name in columns if name and columns.count(name) > 1]
    if twice:
        raise UserError(f"data.split_file={file} has two columns {twice[0]!r}: rename one")
    for number, row in rows:
        _check_row(row, f"{file} line {number}")
    if not rows:
        raise UserError(f"data.split_file={file} lists no videos")
    return columns, rows


def _delimiter(header: str) -> str:
    """Return what parts the columns: that of `,`, `;` and tab which finds most of the names needed."""
    names = [{name.strip().strip('"').lower() for name in header.split(delimiter)} for delimiter in _DELIMITERS]
    found = [len({"path", "label"} & each) for each in names]
    return _DELIMITERS[found.index(max(found))]


def _read_rows(reader, columns: list[str], file: Path) -> _Rows:
    rows = []
    for values in reader:
        number = reader.line_num + 1  # the header is line 1
        values = [value.strip() for value in values]
        if len(values) > len(columns) and any(values[len(columns) :]):
            raise UserError(f"{file} line {number}: has more values than columns; put a value with commas in quotes")
        # An empty line is no row; values that are missing at the end are empty.
        if any(values):
            rows.append((number, dict(zip(columns, values + [""] * len(columns), strict=False))))
    return rows


def _check_row(row: dict[str, str], where: str) -> None:
    for column, value in row.items():
        if len(value) > _LONGEST_VALUE:
            raise UserError(f"{where}: the column {column!r} has {len(value)} characters: quotes are not closed?")
        # A line break or NUL in a name would break messages, records and score files.
        if unfit(value):
            raise UserError(f"{where}: the column {column!r} holds a control character: {shown_name(value)}")
    for needed in ("path", "label"):
        if not row[needed]:
            raise UserError(f"{where}: the column {needed!r} is empty")


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
