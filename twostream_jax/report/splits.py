"""The report over several splits or folds: every split's accuracy, and their mean and spread."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from twostream_jax.files import write_json, write_text
from twostream_jax.metrics import wilson_interval
from twostream_jax.report.tables import markdown_table


def write_splits_report(workdir: Path, *, title: str, reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the summary of the splits' reports (`tables.write_report`), written as report.json and report.md.

    An accuracy is the mean over splits (the official protocol of UCF-101 and HMDB-51), `spread` the standard deviation
    over splits with n - 1, `by_split` what it was made of. `correct`, `videos` and `interval95` pool all splits, whose
    test videos may overlap: then the interval is too narrow.
    """
    streams = [name for name in ("spatial", "temporal") if name in reports[0]]
    # A split whose training videos could not teach an SVM has none, and then neither has the mean.
    fused = [name for name in reports[0]["fusion"] if all(name in report["fusion"] for report in reports)]
    entries = {name: [report[name] for report in reports] for name in streams}
    entries |= {f"fused, {name}": [report["fusion_detail"][name] for report in reports] for name in fused}
    summary = {name: _summary(of_splits) for name, of_splits in entries.items()}
    result: dict[str, Any] = {
        "title": title,
        "splits": len(reports),
        "chance": reports[0]["chance"],
        "largest_class": statistics.fmean(report["largest_class"] for report in reports),
        **{name: summary[name] for name in streams},
        "fusion": {name: summary[f"fused, {name}"]["accuracy"] for name in fused},
        "fusion_detail": {name: summary[f"fused, {name}"] for name in fused},
    }
    rows = [_row(name, summary[name], entries[name]) for name in entries]
    text = "\n\n".join([
        f"# {title}",
        f"Accuracy in % over whole {entries[next(iter(entries))][0]['subset']} videos of {reports[0]['data']['name']} by "
        "split (n videos); mean and standard deviation over the splits; all splits' videos pooled with Wilson's interval.",
        markdown_table(rows),
        f"Chance is {100 * result['chance']:.1f} %; always naming a split's largest class gives "
        f"{100 * result['largest_class']:.1f} % on average.",
        "\n".join(f"- [split {k}](split{k}/report.md)" for k in range(1, len(reports) + 1)),
    ])  # fmt: skip
    write_text(workdir / "report.md", text + "\n")
    write_json(workdir / "report.json", result)
    return result


def _summary(of_splits: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    shares = [entry["accuracy"] for entry in of_splits]
    correct, videos = (sum(entry[key] for entry in of_splits) for key in ("correct", "videos"))
    return {
        "accuracy": statistics.fmean(shares),
        "spread": statistics.stdev(shares) if len(shares) > 1 else 0.0,
        **{key: of_splits[0][key] for key in ("protocol", "task", "folds", "subset")},
        "splits": len(of_splits),
        "correct": correct,
        "videos": videos,
        "interval95": list(wilson_interval(correct, videos)),
        "by_split": shares,
    }


def _row(name: str, summary: Mapping[str, Any], of_splits: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    return {
        "net": name,
        "measured on": f"{summary['task']} {len(of_splits)} {_parts(summary)} {summary['subset']}",
        "protocol": f"`{summary['protocol']}`",
        "mean": f"**{100 * summary['accuracy']:.1f}**",
        "spread": f"{100 * summary['spread']:.1f}",
        "pooled, 95 %": f"{summary['correct']}/{summary['videos']}, "
        + " to ".join(f"{100 * bound:.1f}" for bound in summary["interval95"]),
        **{
            f"{_parts(summary)[:-1]} {entry['split']} (n)": f"{100 * entry['accuracy']:.1f} ({entry['videos']})"
            for entry in of_splits
        },
    }


def _parts(summary: Mapping[str, Any]) -> str:
    return "folds" if summary["folds"] else "splits"
