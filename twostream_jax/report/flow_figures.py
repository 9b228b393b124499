"""Pictures of the flow in one video, after Fig. 2 and 3 of the 2014 paper. Flow is px per frame, x right and y down.

Pictures have y down too, so that an arrow drawn in the picture's own coordinates points where the pixel goes.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from twostream_jax.report.lettering import drawable
from twostream_jax.report.pictures import GRID, INK, picture_axes, save

Box = tuple[int, int, int, int]  # y, x, h, w px

CYAN, ARROW = "#00E5FF", "#D55E00"
BOX_SHARE = 1 / 3  # of each side of the frame, about that of the paper's Fig. 2
POINTS = 5  # of a stacking picture, at most
ARROWS_ACROSS = 24  # of the close-up


def most_moving_box(motion: np.ndarray) -> Box:
    """Return (y, x, h, w) px of the box that holds most of the motion, float [H, W], 0 where nothing moves.

    Its sides are a third of the field's. It is moved onto the centre of gravity of what it holds, since a small moving
    thing fits in many boxes alike.
    """
    height, width = motion.shape
    h, w = max(1, round(BOX_SHARE * height)), max(1, round(BOX_SHARE * width))
    sums = np.pad(motion, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    boxes = sums[h:, w:] - sums[:-h, w:] - sums[h:, :-w] + sums[:-h, :-w]
    y, x = (int(i) for i in np.unravel_index(boxes.argmax(), boxes.shape))
    for _ in range(20):  # settles in a few
        inside = motion[y : y + h, x : x + w]
        total = max(float(inside.sum()), 1e-12)
        down = float(inside.sum(axis=1) @ np.arange(h)) / total - (h - 1) / 2
        right = float(inside.sum(axis=0) @ np.arange(w)) / total - (w - 1) / 2
        moved = (min(max(y + round(down), 0), height - h), min(max(x + round(right), 0), width - w))
        if moved == (y, x):
            break
        y, x = moved
    return y, x, h, w


def moving_points(motion: np.ndarray, box: Box, count: int = POINTS) -> np.ndarray:
    """Return int [n, 2] (y, x), 1 <= n <= count: where the motion [H, W] in the box is largest, the largest first.

    Points lie a quarter of the box's shorter side apart, or more, and have a quarter of the first one's motion, or more.
    """
    y, x, h, w = box
    left = motion[y : y + h, x : x + w].astype(np.float64)
    rows, columns = np.mgrid[:h, :w]
    least, points = max(left.max() / 4, 1e-6), []
    while len(points) < count and (not points or left.max() >= least):
        row, column = (int(i) for i in np.unravel_index(left.argmax(), left.shape))
        points.append((y + row, x + column))
        left[np.hypot(rows - row, columns - column) < min(h, w) / 4] = -1
    return np.array(points)


def path_points(values: np.ndarray, start: tuple[int, int]) -> np.ndarray:
    """Return float [L + 1, 2] (x, y) px: p_1 .. p_L of eq. 2 and where d_L leads, of one point's values [2L] along it."""
    vectors = values.reshape(-1, 2)
    return np.concatenate([np.zeros((1, 2)), vectors.cumsum(axis=0)]) + np.array(start[::-1], np.float64)


def optical_flow(path: Path, title: str, frames: np.ndarray, field: np.ndarray, box: Box, first: int) -> None:
    """Write Fig. 2 of a pair of frames: both with the box outlined, its vectors close up, d^x and d^y in grey.

    frames uint8 [2, H, W, 3], field float [H, W, 2] px per frame from the first to the second, `first` the first one's
    number. Greys span the 99.5th percentile of |d|, at least .1 px: one wild vector must not darken the rest.
    """
    height, width = field.shape[:2]
    scale = max(float(np.percentile(np.abs(field), 99.5)), 0.1)
    panel = min(3.0, 3.0 * width / height)  # inches wide
    tall = panel * height / width
    figure = Figure(figsize=(4 * panel + 1.0, 2 * tall + 1.1), layout="constrained")
    grid = figure.add_gridspec(2, 3, width_ratios=[1, 1, 2])
    for column, frame in enumerate(frames):
        axes = picture_axes(figure, grid[0, column], f"({'ab'[column]}) frame {first + column}")
        axes.imshow(frame)
        axes.add_patch(_outline(box))
    for column, name in enumerate(("$d^x$: right is bright", "$d^y$: down is bright")):
        axes = picture_axes(figure, grid[1, column], f"({'de'[column]}) {name}")
        grey = axes.imshow(field[..., column], cmap="gray", vmin=-scale, vmax=scale)
        axes.add_patch(_outline(box))
        bar = figure.colorbar(grey, ax=axes, orientation="horizontal", ticks=[-scale, 0, scale], aspect=30, pad=0.02)
        labels = bar.ax.set_xticklabels([f"−{scale:.2g} px", "0", f"{scale:.2g} px"], fontsize=8)
        labels[0].set_ha("left")
        labels[-1].set_ha("right")  # within the bar, whose neighbour is near
        bar.outline.set_visible(False)
    _close_up(picture_axes(figure, grid[:, 2], ""), frames[0], field, box)
    _title(figure, title)
    save(figure, path)


def stackings(
    path: Path,
    title: str,
    frame: np.ndarray,
    fixed: np.ndarray,
    along: np.ndarray,
    box: Box,
    points: np.ndarray,
    first: int,
) -> None:
    """Write Fig. 3: the vectors that flow stacking (eq. 1) and trajectory stacking (eq. 2) read, for a few points.

    frame uint8 [H, W, 3] is number `first`, where both stacks [H, W, 2L] px per frame begin: `fixed` of `stack_flow`,
    `along` of `trajectory_stack`. points int [n, 2] (y, x). Below, the values of the point at which the two differ most.
    """
    fields = fixed.shape[-1] // 2
    colours = matplotlib.colormaps["plasma"](np.linspace(0, 0.88, fields))  # its yellow end is lost on pale frames
    at_pixel, on_path = (stack[points[:, 0], points[:, 1]].astype(np.float64) for stack in (fixed, along))
    paths = np.stack([path_points(values, point) for values, point in zip(on_path, points, strict=True)])
    chosen = int(np.abs(at_pixel - on_path).sum(axis=1).argmax())
    view = _view(box, paths)
    gain = _gain(at_pixel, (view[1] - view[0]) / 5)

    wide = min(5.6, 5.6 * (view[1] - view[0]) / (view[3] - view[2]))
    tall = wide * (view[3] - view[2]) / (view[1] - view[0])
    figure = Figure(figsize=(max(2 * wide, 9) + 1.0, tall + 3.9), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=[tall, 2.6])
    times = "" if gain == 1 else f", arrows {gain:g} times as long"
    left = picture_axes(figure, grid[0, 0], f"flow stacking (eq. 1): each field at the same pixel{times}")
    right = picture_axes(figure, grid[0, 1], "trajectory stacking (eq. 2): each field where the path has come to")
    _fans(left, points, gain * at_pixel, colours)
    _paths(right, paths, colours)
    for axes in (left, right):
        axes.imshow(_pale(frame))
        axes.set_xlim(view[:2])
        axes.set_ylim(view[3], view[2])  # y is down
        _numbers(axes, paths)
    _colour_key(figure, [left, right], colours, first)
    for column in range(2):
        axes = figure.add_subplot(grid[1, column])
        name = f"$d^{'xy'[column]}_k$ of point {chosen + 1}, px per frame ({('right', 'down')[column]} is above 0)"
        _curves(axes, name, at_pixel[chosen, column::2], on_path[chosen, column::2], colours)
    _title(figure, title)
    save(figure, path)


def _colour_key(figure: Figure, axes: list[Axes], colours: np.ndarray, first: int) -> None:
    edges = np.arange(len(colours) + 1) + 0.5
    steps = ScalarMappable(BoundaryNorm(edges, len(colours)), ListedColormap(colours))
    shown = np.arange(1, len(colours) + 1, -(-len(colours) // 12))
    bar = figure.colorbar(steps, ax=axes, ticks=shown, orientation="horizontal", aspect=60, pad=0.02, shrink=0.6)
    bar.set_label(f"k, the field from frame {first} + k − 1 to the next", fontsize=9)
    bar.outline.set_visible(False)


def _title(figure: Figure, title: str) -> None:
    lines = textwrap.fill(drawable(title), int(12 * figure.get_figwidth()))  # letters an inch at this size, at least
    figure.suptitle(lines, fontsize=10, color=INK, x=0.01, ha="left")


def _outline(box: Box) -> Rectangle:
    y, x, h, w = box
    return Rectangle((x - 0.5, y - 0.5), w, h, fill=False, edgecolor=CYAN, linewidth=1.6)


def _pale(frame: np.ndarray) -> np.ndarray:
    """Return the frame in pale grey, before which arrows of any colour stand out."""
    grey = frame @ np.array([0.299, 0.587, 0.114])
    return np.repeat((0.45 * grey + 0.55 * 255)[..., None], 3, axis=-1).astype(np.uint8)


def _gain(vectors: np.ndarray, longest_px: float) -> float:
    """Return 1, 2 or 5 times a power of ten: how often vectors [..., 2n] can be drawn as long, within `longest_px`.

    The longest hundredth of them is not asked; what moves less than .1 px is drawn as if it moved that far.
    """
    lengths = np.hypot(vectors[..., ::2], vectors[..., 1::2])
    most = longest_px / max(float(np.percentile(lengths, 99)), 0.1)
    power = 10.0 ** np.floor(np.log10(most))
    return float(power * max(step for step in (1, 2, 5) if step * power <= most * (1 + 1e-9)))


def _arrows(axes: Axes, places: np.ndarray, vectors: np.ndarray, colour, width_points: float) -> None:
    """Draw vectors [n, 2] from places [n, 2], both (x, y) in the picture's px."""
    true_size = {"angles": "xy", "scale_units": "xy", "scale": 1, "units": "dots", "minlength": 0}
    width = width_points * axes.figure.dpi / 72
    axes.quiver(*places.T, *vectors.T, color=[colour], width=width, headwidth=4, headlength=5, zorder=3, **true_size)


def _close_up(axes: Axes, frame: np.ndarray, field: np.ndarray, box: Box) -> None:
    y, x, h, w = box
    # Wider apart where arrows of true length would cross their neighbours.
    longest = float(np.percentile(np.hypot(*field[y : y + h, x : x + w].reshape(-1, 2).T), 99))
    step = max(1, round(w / ARROWS_ACROSS), min(round(longest / 1.2), w // 8))
    rows, columns = np.mgrid[y + step // 2 : y + h : step, x + step // 2 : x + w : step]
    vectors = field[rows, columns].reshape(-1, 2).astype(np.float64)
    gain = _gain(vectors, 1.6 * step)
    axes.imshow(_pale(frame))
    _arrows(axes, np.stack([columns.ravel(), rows.ravel()], axis=1), gain * vectors, ARROW, 1.2)
    axes.set_xlim(x - 0.5, x + w - 0.5)
    axes.set_ylim(y + h - 0.5, y - 0.5)  # y is down
    times = "" if gain == 1 else f", {gain:g} times as long"
    axes.set_title(
        f"(c) $d$ in the outlined area{times}; longest {np.hypot(*vectors.T).max():.2g} px", fontsize=9, loc="left"
    )
    for spine in axes.spines.values():
        spine.set(visible=True, edgecolor=CYAN, linewidth=1.6)


def _view(box: Box, paths: np.ndarray) -> tuple[float, float, float, float]:
    """Return x from, x to, y from, y to: the box and all paths, with a margin."""
    y, x, h, w = box
    corners = np.concatenate([paths.reshape(-1, 2), [[x - 0.5, y - 0.5], [x + w - 0.5, y + h - 0.5]]])
    low, high = corners.min(axis=0), corners.max(axis=0)
    margin = 0.04 * float((high - low).max())
    return low[0] - margin, high[0] + margin, low[1] - margin, high[1] + margin


def _fans(axes: Axes, points: np.ndarray, vectors: np.ndarray, colours: np.ndarray) -> None:
    """Draw each point's L vectors from itself, later ones thinner, so that equal ones are seen inside each other."""
    for k, colour in enumerate(colours):
        width = np.interp(k, [0, max(len(colours) - 1, 1)], [3.4, 1.0])
        _arrows(axes, points[:, ::-1], vectors[:, 2 * k : 2 * k + 2], colour, width)
    _starts(axes, points)


def _paths(axes: Axes, paths: np.ndarray, colours: np.ndarray) -> None:
    for k, colour in enumerate(colours):
        _arrows(axes, paths[:, k], paths[:, k + 1] - paths[:, k], colour, 2.2)
    _starts(axes, paths[:, 0, ::-1])


def _starts(axes: Axes, points: np.ndarray) -> None:
    axes.plot(points[:, 1], points[:, 0], "o", color="white", markeredgecolor=INK, markersize=4, zorder=4)


def _numbers(axes: Axes, paths: np.ndarray) -> None:
    """Write each point's number on the side that it moves away from."""
    for number, path in enumerate(paths, 1):
        x, y = path[0] - path[-1]
        behind = 11 * np.array([x, -y]) / max(np.hypot(x, y), 1e-6)  # offsets have y up
        look = {"fontsize": 10, "weight": "bold", "color": INK, "ha": "center", "va": "center", "zorder": 5}
        text = axes.annotate(str(number), path[0], behind, textcoords="offset points", **look)
        text.set_path_effects([withStroke(linewidth=2, foreground="white")])


def _curves(axes: Axes, name: str, fixed: np.ndarray, along: np.ndarray, colours: np.ndarray) -> None:
    k = np.arange(1, len(fixed) + 1)
    axes.axhline(0, color=GRID, linewidth=1)
    for values, line, marker, label in ((fixed, "--", "s", "flow stacking"), (along, "-", "o", "trajectory stacking")):
        axes.plot(k, values, line, color=INK, linewidth=1.2, marker=marker, markersize=0, zorder=2)
        axes.scatter(k, values, c=colours, marker=marker, s=36, zorder=3)
        axes.plot([], [], line, color=INK, marker=marker, label=label)
    axes.set_title(name, fontsize=9, loc="left", color=INK)
    axes.set_xlabel("k", fontsize=9)
    axes.set_xticks(k[:: -(-len(k) // 12)])
    axes.tick_params(labelsize=8)
    axes.margins(y=0.12)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
