"""Pictures of a report, each one PNG: confusion matrix, recall by class, flow, first-layer filters, training curves."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.text import Text

from twostream_jax import metrics
from twostream_jax.report.flow_colour import colour_wheel, flow_to_colour
from twostream_jax.report.lettering import drawable, families, readable
from twostream_jax.report.tables import accuracy_entry, class_recall, percent, setting
from twostream_jax.scores import ScoreFile

DPI = 150
INK, GRID = "#333333", "#dddddd"
# Okabe and Ito's colours, which stay apart for colour-blind readers.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9")
# Up to this many classes a confusion matrix has its counts written into the cells.
CLASSES_WITH_NUMBERS = 25
# Up to this many classes the bars stand in one panel.
CLASSES_IN_PANEL = 51
# Of a title in a line above a frame beside its flow.
TITLE_LETTERS = 31


# A picture of flow spans at least so many steps of the stored levels to each side: .63 px at the default bound of 20 px.
STEPS_SHOWN = 4
# px; the step at a bound of 32 px. A field of few distinct values, as a pan's, would seem to have larger ones.
LARGEST_STEP = 0.25


def confusion_matrix(path: Path, scores: ScoreFile) -> None:
    """Write the confusion matrix: rows are true classes, colour is the share of the row, numbers are videos."""
    counts = metrics.confusion(scores.labels, scores.probs.argmax(axis=1), len(scores.classes))
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    many = len(scores.classes) > CLASSES_WITH_NUMBERS
    side = len(scores.classes) * (0.13 if many else 0.45) + 1.0
    figure = Figure(figsize=(side + 2.6, side + 1.6), layout="constrained")
    axes = figure.add_subplot()
    # Of many classes a single mistake is a pale cell: the square root makes it visible.
    image = axes.imshow(share, cmap="Blues", norm=PowerNorm(0.5 if many else 1.0, 0, 1), interpolation="nearest")
    names = [readable(name) for name in scores.classes]
    turn = {"rotation": 90} if many else {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(len(names)), names, fontsize=6 if many else 9, **turn)
    axes.set_yticks(range(len(names)), names, fontsize=6 if many else 9)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    _lines_between_cells(axes, len(names))
    for row, column in np.argwhere(counts > 0) if not many else ():
        colour = "white" if share[row, column] > 0.55 else INK
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=10)
    bar = figure.colorbar(image, ax=axes, shrink=0.8, aspect=25, pad=0.02, label="share of the true class")
    bar.outline.set_visible(False)
    entry = accuracy_entry(scores)
    axes.set_title(f"{drawable(setting(entry))}, {scores.protocol}\n{percent(entry)}", fontsize=11, loc="left")
    save(figure, path)


def per_class_recall(path: Path, streams: Mapping[str, ScoreFile]) -> None:
    """Write bars of each class's recall, a group a class and a bar a stream, sorted by the stream that is last.

    Classes are matched by name; those without a video in the last stream are left out. Each bar has its number, since
    one of a class that is never right cannot be seen.
    """
    recalls = {name: dict(zip(s.classes, class_recall(s), strict=True)) for name, s in streams.items()}
    last = recalls[list(recalls)[-1]]
    order = sorted((c for c in last if not np.isnan(last[c])), key=lambda c: (-last[c], c))
    panels = -(-len(order) // CLASSES_IN_PANEL)
    rows = -(-len(order) // panels)
    figure = Figure(figsize=(7.5 * panels, rows * 0.10 * (len(streams) + 0.8) + 1.5), layout="constrained")
    for panel in range(panels):
        axes = figure.add_subplot(1, panels, panel + 1)
        _recall_bars(axes, order[panel * rows : (panel + 1) * rows], rows, recalls)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    shown = list(streams.values())[-1]
    measured = f"{drawable(setting(accuracy_entry(shown)))}, {shown.protocol}, {len(shown.names)} videos"
    look = {"ncols": len(labels), "frameon": False, "fontsize": 10, "title_fontsize": 10}
    figure.legend(handles, labels, loc="outside upper center", title=measured, **look)
    save(figure, path)


def frames_beside_flow(path: Path, samples: Sequence[tuple[str, np.ndarray, np.ndarray]]) -> None:
    """Write a row a sample: the frame, d^x and d^y in grey (2014 paper, Fig. 2: brighter is larger), and in colours.

    samples are (title, frame uint8 [H, W, 3], flow float [H, W, 2] px per frame). Each row has its own scale, the 99.5th
    percentile of its |d|, so that a few wild vectors do not darken the rest, but no less than `STEPS_SHOWN` steps of the
    stored levels: what moves less is rounding, and would fill the picture with colours.
    """
    widths = [1, 1, 1, 0.28, 1, 0.42]
    samples = [
        (textwrap.fill(drawable(title), TITLE_LETTERS, break_on_hyphens=False), frame, flow)
        for title, frame, flow in samples
    ]
    # In inches: pictures are 11.5 of the 12 wide; a row's title takes .22 and .16 a line.
    heights = [
        11.5 / sum(widths) * frame.shape[0] / frame.shape[1] + 0.22 + 0.16 * (1 + title.count("\n"))
        for title, frame, _ in samples
    ]
    figure = Figure(figsize=(12, sum(heights) + 0.3), layout="constrained")
    grid = figure.add_gridspec(len(samples), len(widths), width_ratios=widths, height_ratios=heights)
    for row, (title, frame, flow) in enumerate(samples):
        scale = max(float(np.percentile(np.abs(flow), 99.5)), STEPS_SHOWN * _level_step(flow), 0.01)
        fields = {
            title: frame,
            "$d^x$, right is bright": flow[..., 0],
            "$d^y$, down is bright": flow[..., 1],
        }
        for column, (name, field) in enumerate(fields.items()):
            axes = picture_axes(figure, grid[row, column], name)
            grey = axes.imshow(field, cmap="gray", vmin=-scale, vmax=scale)
        # Inside the picture's box, so that it is as tall; out of the layout, which leaves it the fourth column.
        beside = axes.inset_axes([1.03, 0, 0.04, 1])
        beside.set_in_layout(False)
        bar = figure.colorbar(grey, cax=beside, ticks=[-scale, 0, scale])
        bar.ax.set_yticklabels([f"−{scale:.2g}", "0", f"{scale:.2g} px"], fontsize=8)
        bar.outline.set_visible(False)
        picture_axes(figure, grid[row, 4], "direction and length").imshow(flow_to_colour(flow, scale))
        wheel = picture_axes(figure, grid[row, 5], "")
        wheel.imshow(colour_wheel(160))
        wheel.set_xlabel(f"rim: {scale:.2g} px", fontsize=8, color=INK)
    save(figure, path)


def _level_step(flow: np.ndarray) -> float:
    """Return the px between neighbouring stored levels that a decoded field shows, at most `LARGEST_STEP`; 0 for raw flow.

    A still field has a single level, half a step from zero (see `schema.dequantise_flow`).
    """
    levels = np.unique(flow)
    step = np.diff(levels).min() if len(levels) > 1 else 2 * abs(float(levels[0]))
    return min(float(step), LARGEST_STEP)


def filters(path: Path, kernel: np.ndarray, stream: str) -> None:
    """Write first-layer filters, kernel [h, w, C, filters] float, of a net on the stream `rgb` or `flow`.

    C = 3: a colour tile a filter, each stretched over its own range. Otherwise as in the 2014 paper's Fig. 4: a column a
    filter and a row an input channel; grey is zero, black and white the filter's largest weight. Rows are named
    `channel_names`.
    """
    kernel = np.asarray(kernel, np.float64)
    if kernel.shape[2] == 3:
        low, high = kernel.min(axis=(0, 1, 2)), kernel.max(axis=(0, 1, 2))
        tiles = ((kernel - low) / np.maximum(high - low, 1e-12)).transpose(3, 0, 1, 2)
        columns = min(16, len(tiles))
        rows = -(-len(tiles) // columns)
        image = _mosaic(np.concatenate([tiles, np.ones((rows * columns - len(tiles), *tiles.shape[1:]))]), columns)
    else:
        largest = np.maximum(np.abs(kernel).max(axis=(0, 1, 2)), 1e-12)
        tiles = (kernel / largest / 2 + 0.5).transpose(2, 3, 0, 1).reshape(-1, *kernel.shape[:2], 1)
        columns, rows = kernel.shape[3], kernel.shape[2]
        image = np.repeat(_mosaic(tiles, columns), 3, axis=2)
    # Inches a tile: as large as fits 16 x 9 inches, at most 0.6.
    tile = min(16 / columns, 9 / rows, 0.6)
    figure = Figure(figsize=(max(columns * tile + 0.6, 5), rows * tile + 0.7), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(image, interpolation="nearest")
    _clear(axes)
    axes.set_xticks([])
    axes.set_yticks([])
    if kernel.shape[2] == 3:
        axes.set_title(f"{kernel.shape[3]} filters of the first layer", fontsize=11, loc="left")
    else:
        step = kernel.shape[0] + 1
        axes.set_yticks(np.arange(rows) * step + step / 2, channel_names(rows, stream), fontsize=7)
        axes.tick_params(length=0)
        axes.set_title(f"{columns} filters of the first layer, a column each", fontsize=11, loc="left")
    save(figure, path)


def channel_names(count: int, stream: str) -> list[str]:
    """Return what a net's input channels are: d^x and d^y of each field of a stack, or the colours of each frame."""
    if stream == "flow":
        return [f"$d^{'xy'[k % 2]}_{{{k // 2 + 1}}}$" for k in range(count)]
    # Slow fusion has the frames side by side, see `models.slow_fusion`.
    return [f"frame {k // 3 + 1} {('red', 'green', 'blue')[k % 3]}" for k in range(count)]


def training_curves(path: Path, runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Write loss and clip accuracy by step; runs maps a stream to the lines of its metrics.jsonl.

    Pale lines are what was logged (`loss`, `clip_accuracy`, both of training batches), strong ones their running mean over
    a twentieth of the run; dots are `validation_accuracy`, of whole held-out videos (protocol `center`), where there is one.
    """
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    for (name, lines), colour in zip(runs.items(), COLOURS, strict=False):
        _curve(loss, lines, "loss", colour, name)
        _curve(accuracy, lines, "clip_accuracy", colour, name)
        held = [(line["step"], line["validation_accuracy"]) for line in lines if "validation_accuracy" in line]
        if held:
            accuracy.plot(
                *zip(*held, strict=True), "o", color=colour, markersize=4, label=f"{name}, held-out videos, center"
            )
    loss.set_ylabel("loss")
    loss.set_ylim(0, 1.05 * loss.dataLim.y1 if loss.lines else 1)
    accuracy.set_ylabel("clip accuracy on training batches")
    accuracy.set_ylim(0, 1.02)
    for axes in (loss, accuracy):
        _clear(axes, ("left", "bottom"))
        axes.set_xlabel("step")
        axes.grid(color=GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        if axes.lines:
            axes.legend(frameon=False, fontsize=9)
    save(figure, path)


def _curve(axes: Axes, lines: Sequence[Mapping[str, Any]], key: str, colour: str, name: str) -> None:
    points = [(line["step"], line[key]) for line in lines if line.get(key) is not None]
    if not points:
        return
    steps, values = (np.array(column, np.float64) for column in zip(*points, strict=True))
    axes.plot(steps, values, color=colour, alpha=0.3, linewidth=1)
    half = len(values) // 40
    smooth = [values[max(0, i - half) : i + half + 1].mean() for i in range(len(values))]
    # A line through a single point is nothing.
    axes.plot(steps, smooth, color=colour, linewidth=2, label=name, marker="o" if len(steps) == 1 else None)


def _recall_bars(axes: Axes, classes: Sequence[str], rows: int, recalls: Mapping[str, Mapping[str, float]]) -> None:
    """Draw one panel of grouped bars; `rows` groups fit, so that panels with fewer keep the same bar height."""
    height = 0.82 / len(recalls)
    for index, ((name, recall), colour) in enumerate(zip(recalls.items(), COLOURS, strict=False)):
        offsets = np.arange(len(classes)) + (index - (len(recalls) - 1) / 2) * height
        bars = axes.barh(offsets, [100 * recall[c] for c in classes], height=height * 0.92, color=colour, label=name)
        for number in axes.bar_label(bars, fmt="%.0f", padding=2, fontsize=6, color=INK):
            number.set_in_layout(False)  # they stand inside the axes; measuring each takes seconds
    axes.set_ylim(rows - 0.4, -0.6)
    axes.set_xlim(0, 107)  # room for the numbers
    axes.set_xticks(range(0, 101, 20))
    axes.set_yticks(range(len(classes)), [readable(name) for name in classes], fontsize=9 if rows <= 30 else 7.5)
    axes.set_xlabel("recall, % of the class's videos")
    axes.grid(axis="x", color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    _clear(axes, ("bottom",))
    axes.tick_params(axis="y", length=0)


def _lines_between_cells(axes: Axes, count: int) -> None:
    axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(count + 1) - 0.5, minor=True)
    axes.grid(which="minor", color=GRID, linewidth=0.6)
    axes.tick_params(which="both", length=0)
    _clear(axes)


def picture_axes(figure: Figure, place: Any, title: str) -> Axes:
    """Return axes at a place of a grid for a picture: no ticks, no frame, a small title."""
    axes = figure.add_subplot(place)
    axes.set_xticks([])
    axes.set_yticks([])
    _clear(axes)
    axes.set_title(title, fontsize=9, loc="left", color=INK)
    return axes


def _mosaic(tiles: np.ndarray, columns: int) -> np.ndarray:
    """Return tiles [rows * columns, h, w, c] side by side, one white pixel between, as [rows (h+1) + 1, .., c]."""
    padded = np.pad(tiles, ((0, 0), (1, 0), (1, 0), (0, 0)), constant_values=1.0)
    _, height, width, depth = padded.shape
    joined = padded.reshape(-1, columns, height, width, depth).transpose(0, 2, 1, 3, 4)
    joined = joined.reshape(-1, columns * width, depth)
    return np.pad(joined, ((0, 1), (0, 1), (0, 0)), constant_values=1.0)


def _clear(axes: Axes, keep: Sequence[str] = ()) -> None:
    for side, spine in axes.spines.items():
        spine.set_visible(side in keep)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, in fonts that have the letters of its texts; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = figure.findobj(Text)
    fonts = families(text.get_text() for text in texts)
    for text in texts if len(fonts) > 1 else ():
        text.set_fontfamily(fonts)
    # Tight: what the layout left empty is cut off.
    figure.savefig(path, dpi=DPI, facecolor="white", bbox_inches="tight", pad_inches=0.12)
