"""Accuracies with all that they need to be understood, and the report that gathers them: report.json, report.md."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from twostream_jax import metrics
from twostream_jax.files import write_json, write_text
from twostream_jax.scores import ScoreFile

# Videos that the report lists among the most confidently wrong.
WORST_SHOWN = 10

Entry = dict[str, Any]


def accuracy_entry(scores: ScoreFile) -> Entry:
    """Return the accuracy of a score file with protocol, task, split, subset, number of videos and 95 % interval.

    Accuracy and interval (Wilson's) are shares from 0 to 1. Ties go to the lower class index.
    """
    accuracy = metrics.accuracy(scores.probs, scores.labels)
    correct = round(accuracy * len(scores.names))
    low, high = metrics.wilson_interval(correct, len(scores.names))
    return {
        "accuracy": accuracy,
        "correct": correct,
        "videos": len(scores.names),
        "interval95": [float(low), float(high)],
        "protocol": scores.protocol,
        "task": scores.task,
        "split": scores.split,
        "folds": scores.folds,
        "subset": scores.subset,
    }


def stream_summary(scores: ScoreFile) -> Entry:
    """Return the accuracy entry with `mean_class_accuracy`, and `top5` where there are more than five classes."""
    summary = accuracy_entry(scores)
    summary["mean_class_accuracy"] = float(metrics.mean_class_accuracy(scores.probs, scores.labels))
    if len(scores.classes) > 5:
        summary["top5"] = float(metrics.top_k(scores.probs, scores.labels, 5))
    return summary


def class_recall(scores: ScoreFile) -> np.ndarray:
    """Return the share of each class's videos that are classified right, float64 [C]; NaN where there are none."""
    table = metrics.confusion(scores.labels, scores.probs.argmax(axis=1), len(scores.classes))
    videos = table.sum(axis=1)
    return np.where(videos > 0, np.diag(table) / np.maximum(videos, 1), np.nan)


def most_confidently_wrong(scores: ScoreFile, count: int = WORST_SHOWN) -> list[Entry]:
    """Return the wrongly classified videos with the highest probability of the wrong class, at most `count`."""
    predicted = scores.probs.argmax(axis=1)
    wrong = np.flatnonzero(predicted != scores.labels)
    confidence = scores.probs.max(axis=1)
    return [
        {
            "video": scores.names[i],
            "true": scores.classes[scores.labels[i]],
            "predicted": scores.classes[predicted[i]],
            "probability": float(confidence[i]),
            "probability_of_true": float(scores.probs[i, scores.labels[i]]),
        }
        for i in wrong[np.argsort(-confidence[wrong], kind="stable")][:count]
    ]


def percent(entry: Entry) -> str:
    """Return an accuracy with its counts and interval, such as `96.3 % (52/54)  95 %: [87.5, 99.0]`.

    Of a clip accuracy `correct` is the sum of the videos' shares, one decimal of it.
    """
    low, high = (100 * bound for bound in entry["interval95"])
    counts = f"{round(entry['correct'], 1):g}/{entry['videos']}"
    return f"{100 * entry['accuracy']:.1f} % ({counts})  95 %: [{low:.1f}, {high:.1f}]"


def setting(entry: Entry) -> str:
    """Return what an accuracy was measured on, such as `demo split 1 test` or `fight fold 2 of 5 test`."""
    split = f"fold {entry['split']} of {entry['folds']}" if entry["folds"] else f"split {entry['split']}"
    return f"{entry['task']} {split} {entry['subset']}"


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a Markdown table whose header is the keys of the first row; all rows have the same keys."""
    header = list(rows[0])
    lines = [header, ["---"] * len(header)] + [[str(row[key]).replace("|", "\\|") for key in header] for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def write_report(
    workdir: Path,
    *,
    title: str,
    streams: Mapping[str, ScoreFile],
    stream_evals: Mapping[str, Mapping[str, Any]],
    fused: Mapping[str, ScoreFile],
    facts: Mapping[str, Mapping[str, Any]],
    pictures: Sequence[tuple[Path, str]],
) -> Entry:
    """Return the report, and write it as `report.json` and `report.md` into `workdir`.

    `streams` maps `spatial`, `temporal` to their scores and `fused` maps `average`, `svm` to theirs; either may lack
    one. `stream_evals` maps a stream to its eval.json: every accuracy entry in it is listed. `facts` are sections,
    each a mapping (data set counts, settings). `pictures` are files with their captions; report.md names them relative
    to `workdir`.
    """
    assert streams, "a report wants at least one stream"
    best = fused.get("average", list(streams.values())[-1])
    videos_by_class = np.bincount(best.labels, minlength=len(best.classes))
    report = {
        "title": title,
        "chance": 1 / len(best.classes),
        "largest_class": float(videos_by_class.max() / len(best.names)),
        "fusion": {name: accuracy_entry(scores)["accuracy"] for name, scores in fused.items()},
        "fusion_detail": {name: stream_summary(scores) for name, scores in fused.items()},
        "most_confidently_wrong": most_confidently_wrong(best),
        "per_class_recall": _recall_by_class(streams, fused),
        "pictures": [{"file": _relative(file, workdir), "caption": caption} for file, caption in pictures],
    }
    for name, scores in streams.items():
        report[name] = stream_summary(scores) | {"evals": _entries(stream_evals.get(name, {}))}
    clash = set(report) & set(facts)
    assert not clash, f"facts would overwrite {clash}"
    report |= facts
    write_json(workdir / "report.json", report)
    write_text(workdir / "report.md", _markdown(report, list(streams), list(fused), list(facts), best))
    return report


def _entries(content: Mapping[str, Any]) -> list[Entry]:
    """Return every accuracy entry in an eval.json, at its top or within, in order."""
    if "accuracy" in content and "protocol" in content:
        return [dict(content)]
    return [entry for value in content.values() if isinstance(value, Mapping) for entry in _entries(value)]


def _recall_by_class(streams: Mapping[str, ScoreFile], fused: Mapping[str, ScoreFile]) -> dict[str, Entry]:
    """Return {class: {"videos": n, stream or fusion: recall, or None without videos}}."""
    recalls: dict[str, Entry] = {}
    for name, scores in {**streams, **fused}.items():
        videos = np.bincount(scores.labels, minlength=len(scores.classes))
        for label, recall, count in zip(scores.classes, class_recall(scores), videos, strict=True):
            row = recalls.setdefault(label, {"videos": int(count)})
            row[name] = None if np.isnan(recall) else float(recall)
    return recalls


def _markdown(report: Entry, streams: list[str], fused: list[str], facts: list[str], best: ScoreFile) -> str:
    """Return the text of report.md."""
    rows = []
    for name in streams:
        others = [entry for entry in report[name]["evals"] if entry["protocol"] != report[name]["protocol"]]
        rows += [_accuracy_row(name, entry) for entry in (*others, report[name])]
    rows += [_accuracy_row(f"fused, {name}", report["fusion_detail"][name]) for name in fused]
    classes = len(report["per_class_recall"])
    parts = [
        f"# {report['title']}",
        "Accuracy over whole videos, except for the protocol `clip`. The interval is Wilson's at 95 %, over videos.",
        markdown_table(rows),
        f"Chance is {100 * report['chance']:.1f} % ({classes} classes); always naming the largest class gives "
        f"{100 * report['largest_class']:.1f} %.",
    ]
    for picture in report["pictures"]:
        parts += [f"![{picture['caption']}]({picture['file']})", f"*{picture['caption']}*"]
    parts += ["## Most confidently wrong", _wrong_table(report["most_confidently_wrong"], best)]
    measured = f"by protocol `{best.protocol}` on {setting(accuracy_entry(best))}"
    caption = f"Share of each class's videos that are right, {measured}."
    parts += ["## Recall by class", caption, _recall_table(report["per_class_recall"], [*streams, *fused])]
    for name in facts:
        rows = [{"what": key, "value": value} for key, value in report[name].items()]
        parts += [f"## {name.replace('_', ' ').capitalize()}", markdown_table(rows)]
    return "\n\n".join(parts) + "\n"


def _accuracy_row(name: str, entry: Entry) -> Entry:
    low, high = (f"{100 * bound:.1f}" for bound in entry["interval95"])
    return {
        "net": name,
        "protocol": f"`{entry['protocol']}`",
        "accuracy, %": f"**{100 * entry['accuracy']:.1f}**",
        "95 % interval": f"{low} to {high}",
        "right / all": f"{round(entry['correct'], 1):g} / {entry['videos']}",
        "mean of classes, %": _percent_or_dash(entry.get("mean_class_accuracy")),
        "top 5, %": _percent_or_dash(entry.get("top5")),
        "measured on": setting(entry),
    }


def _wrong_table(wrong: Sequence[Entry], scores: ScoreFile) -> str:
    if not wrong:
        return f"None: all {len(scores.names)} videos are classified right."
    return markdown_table(
        [
            {
                "video": f"`{row['video']}`",
                "is": row["true"],
                "taken for": row["predicted"],
                "with probability": f"{row['probability']:.2f}",
                "probability of the true class": f"{row['probability_of_true']:.2f}",
            }
            for row in wrong
        ]
    )


def _recall_table(recalls: Mapping[str, Entry], columns: Sequence[str]) -> str:
    return markdown_table(
        [
            {"class": label, "videos": row["videos"]} | {f"{name}, %": _percent_or_dash(row[name]) for name in columns}
            for label, row in recalls.items()
        ]
    )


def _percent_or_dash(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def _relative(file: Path, workdir: Path) -> str:
    return Path(os.path.relpath(file, workdir)).as_posix()
