"""Our numbers beside a paper's: table.md and table.json."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from twostream_jax.files import write_json, write_text
from twostream_jax.metrics import wilson_interval
from twostream_jax.report.tables import markdown_table


def summarise(entries: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Return one row's accuracy from its accuracy entries, [splits][seeds] of them.

    `accuracy` is the mean over splits of the mean over seeds, a share; `spread` the standard deviation (n - 1) over
    splits or, of one split, over seeds; None of one run. `correct` (a mean over seeds) and `videos` pool the splits, and
    `interval95` is Wilson's of these: with several seeds it is as wide as with one, for the test videos are the same.
    """
    means = [statistics.fmean(entry["accuracy"] for entry in of_seeds) for of_seeds in entries]
    seeds, first = len(entries[0]), entries[0][0]
    videos = sum(of_seeds[0]["videos"] for of_seeds in entries)
    correct = sum(statistics.fmean(entry["correct"] for entry in of_seeds) for of_seeds in entries)
    parted = means if len(means) > 1 else [entry["accuracy"] for entry in entries[0]]
    return {
        "accuracy": statistics.fmean(means),
        "spread": statistics.stdev(parted) if len(parted) > 1 else None,
        "spread_over": "splits" if len(means) > 1 else "seeds",
        "values": [[entry["accuracy"] for entry in of_seeds] for of_seeds in entries],
        "splits": [of_seeds[0]["split"] for of_seeds in entries],
        "seeds": seeds,
        "correct": correct,
        "videos": videos,
        "interval95": list(wilson_interval(correct, videos)),
        **{key: first[key] for key in ("protocol", "task", "folds", "subset")},
    }


def write_paper_table(
    workdir: Path, *, name: str, caption: str, rows: Sequence[Mapping[str, Any]], notes: Sequence[str]
) -> str:
    """Return the Markdown table, after writing it with caption and notes as table.md, and all as table.json.

    Each row has `setting`, `paper` (%), `runs` (folders in `workdir`), and either what `summarise` returns or `missing`,
    a line that says why there is no number. Copies go to table_<name>.md and .json: table.md is the last one's.
    """
    text = markdown_table([_row(row) for row in rows])
    missing = [f"- {row['setting']}: missing, {row['missing']}" for row in rows if "missing" in row]
    body = "\n\n".join([
        f"# {caption}",
        "Accuracy in % over whole videos, ours beside the paper's. The interval is Wilson's at 95 %, over videos; n counts "
        "test videos, those of all splits where there are several.",
        text,
        "\n".join(missing) or "No row is missing.",
        "\n".join(f"- {note}" for note in notes),
    ])  # fmt: skip
    content = {"table": name, "caption": caption, "rows": list(rows), "notes": list(notes)}
    for stem in (f"table_{name}", "table"):
        write_text(workdir / f"{stem}.md", body + "\n")
        write_json(workdir / f"{stem}.json", content)
    return text


def _row(row: Mapping[str, Any]) -> dict[str, str]:
    cells = {"setting": row["setting"], "paper": f"{row['paper']:.1f}"}
    runs = ", ".join(f"`{name}`" for name in row["runs"])
    if "missing" in row:
        blank = dict.fromkeys(("95 % interval", "spread", "right / n", "protocol", "measured on"), "–")
        return cells | {"ours": "missing"} | blank | {"runs": runs}
    low, high = (100 * bound for bound in row["interval95"])
    spread = "–"
    if row["spread"] is not None:
        count = len(row["splits"]) if row["spread_over"] == "splits" else row["seeds"]
        spread = f"{100 * row['spread']:.1f} over {count} {row['spread_over']}"
    part = "fold" if row["folds"] else "split"
    splits = ", ".join(map(str, row["splits"]))
    return cells | {
        "ours": f"**{100 * row['accuracy']:.1f}**",
        "95 % interval": f"{low:.1f} to {high:.1f}",
        "spread": spread,
        "right / n": f"{row['correct']:.4g} / {row['videos']}",
        "protocol": f"`{row['protocol']}`",
        "measured on": f"{row['task']} {part} {splits} {row['subset']}",
        "runs": runs,
    }
