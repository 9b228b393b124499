"""Pictures of an annotated video: a frame, its flow in colours, and the top classes with bars. Arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.transforms import Bbox, IdentityTransform

from twostream_jax.report.flow_colour import colour_wheel, flow_to_colour
from twostream_jax.report.lettering import drawable, families, readable
from twostream_jax.report.pictures import COLOURS, INK

# px. Frames smaller than that are shown at a whole multiple of their size, each pixel as a square.
SMALLEST_SIDE = 240
GAP, MARGIN = 4, 6
COLUMN, TITLE, LINE = 150, 20, 22  # least width of a column of classes; heights of its title and of a class
NUMBERS = 48  # of a column's width, for the percentages
TOP = 3  # classes
# A grey frame stands where there is no flow.
NO_FLOW = 200
# The rim of the wheel is the length that one vector in a hundred exceeds, or this share of the bound where that is less:
# 2.5 px at the default bound of 20 px, 16 steps of the stored levels, below which a still scene's noise would look like
# motion.
RIM_PERCENTILE, LEAST_RIM = 99.0, 1 / 8
_DPI = 100

# A stream's name, and its classes with their probabilities, the best first.
Column = tuple[str, Sequence[tuple[str, float]]]


def rim_px(fields: np.ndarray, bound_px: float) -> float:
    """Return the px per frame at the rim of the colour wheel for fields float [n, H, W, 2]; see `RIM_PERCENTILE`."""
    lengths = np.hypot(fields[..., 0], fields[..., 1])
    return max(float(np.percentile(lengths, RIM_PERCENTILE)), LEAST_RIM * bound_px)


@dataclass(frozen=True)
class Layout:
    """Where things stand in the pictures of a video of `height` x `width` px, whose net or nets take flow or do not."""

    height: int
    width: int
    with_flow: bool

    @property
    def factor(self) -> int:
        """How many times as large as it is stored a frame is shown."""
        return -(-SMALLEST_SIDE // min(self.height, self.width))

    @property
    def panel_width(self) -> int:
        """Width of the whole picture, even: the frame and, where there is flow, a gap and the flow."""
        one = self.factor * self.width
        return _even(2 * one + GAP if self.with_flow else one)

    def picture(
        self, frame: np.ndarray, flow: np.ndarray | None, rim: float, legend: np.ndarray, panel: np.ndarray
    ) -> np.ndarray:
        """Return a picture uint8 RGB [2h, 2w, 3]: frame and flow side by side above the `label_panel`.

        frame uint8 RGB [H, W, 3], flow float [H, W, 2] px per frame (None: grey), `rim` in px, `legend` of `wheel_legend`.
        """
        shown = self._enlarged(frame)
        top = np.full((shown.shape[0], self.panel_width, 3), 255, np.uint8)
        top[:, : shown.shape[1]] = shown
        if self.with_flow:
            left = shown.shape[1] + GAP
            field = np.full_like(frame, NO_FLOW) if flow is None else flow_to_colour(flow, rim)
            top[:, left : left + shown.shape[1]] = self._enlarged(field)
            _blend(top[: shown.shape[0], left : left + shown.shape[1]], legend)
        whole = np.concatenate([top, panel])
        return np.pad(whole, ((0, whole.shape[0] % 2), (0, 0), (0, 0)), constant_values=255)

    def _enlarged(self, image: np.ndarray) -> np.ndarray:
        return image.repeat(self.factor, axis=0).repeat(self.factor, axis=1)


def wheel_legend(rim: float, side: int) -> np.ndarray:
    """Return the colour wheel with the px of its rim below, uint8 RGBA [h, w, 4], for a panel of `side` px height."""
    wheel = colour_wheel(max(36, side // 6))
    caption = 16
    figure = _figure(max(len(wheel), 64) + 8, len(wheel) + caption + 8)
    figure.patch.set_alpha(0.75)
    _text(figure, figure.bbox.width / 2, 4 + caption / 2, f"rim {rim:.2g} px", 11, ha="center")
    drawn = _drawn(figure)
    left = (drawn.shape[1] - len(wheel)) // 2
    inside = wheel[..., 3:] > 0
    area = drawn[4 : 4 + len(wheel), left : left + len(wheel)]
    area[:] = np.where(inside, wheel, area)
    return drawn


def label_panel(columns: Sequence[Column], width: int, heading: str = "") -> np.ndarray:
    """Return the columns of the top classes side by side, uint8 RGB [h, width, 3]: as many in a row as fit.

    Each class has a bar as long as its probability. Names of any script are drawn in fonts that have their letters and
    cut where the column ends; `heading` stands above all.
    """
    across = max(1, min(len(columns), width // COLUMN))
    down = -(-len(columns) // across)
    block = TITLE + TOP * LINE + MARGIN
    above = TITLE if heading else 0
    height = above + down * block + MARGIN
    figure = _figure(width, height)
    if heading:
        _text(figure, MARGIN, height - above / 2, drawable(heading), 11)
    wide = width // across
    for number, (column, colour) in enumerate(zip(columns, COLOURS * len(columns), strict=False)):
        row, place = divmod(number, across)
        _column(figure, place * wide + MARGIN, height - above - row * block, wide - 2 * MARGIN, column, colour)
    return _drawn(figure)[..., :3]


def _column(figure: Figure, left: int, top: int, width: int, column: Column, colour: str) -> None:
    """Draw a column below `top`, px from the lower left corner as matplotlib counts; axes would take four times as long."""
    title, classes = column
    _text(figure, left, top - TITLE / 2, drawable(title), 12, weight="bold", within=width)
    bars = width - NUMBERS
    for row, (name, probability) in enumerate(classes[:TOP]):
        middle = top - TITLE - (row + 0.5) * LINE
        corner, size = (left, middle - LINE / 2 + 2), (bars * probability, LINE - 4)
        bar = Rectangle(corner, *size, color=colour, alpha=0.45, linewidth=0, transform=IdentityTransform())
        figure.add_artist(bar)
        _text(figure, left + 4, middle, readable(name), 12, within=bars - 8)
        _text(figure, left + width, middle, f"{100 * probability:.0f} %", 12, ha="right")


def _text(figure: Figure, x: float, y: float, text: str, px: float, *, within: float | None = None, **look) -> None:
    """Write a text around the height y, cut after `within` px."""
    written = figure.text(
        x, y, text, transform=IdentityTransform(), fontsize=_points(px), color=INK, va="center", **look
    )
    if within is not None:
        written.set_clip_on(True)
        written.set_clip_box(Bbox.from_bounds(x, y - LINE, within, 2 * LINE))


def _figure(width: int, height: int) -> Figure:
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _points(px: float) -> float:
    return 72 * px / _DPI


def _drawn(figure: Figure) -> np.ndarray:
    """Return a figure's pixels, uint8 RGBA, in fonts that have the letters of its texts."""
    texts = figure.findobj(Text)
    fonts = families(text.get_text() for text in texts)
    for text in texts if len(fonts) > 1 else ():
        text.set_fontfamily(fonts)
    figure.canvas.draw()
    return np.array(figure.canvas.buffer_rgba())


def _blend(panel: np.ndarray, legend: np.ndarray) -> None:
    """Lay a legend RGBA over the lower right corner of a panel RGB, as far as it fits."""
    height, width = (min(of_panel, own) for of_panel, own in zip(panel.shape, legend.shape[:2], strict=False))
    corner, over = panel[-height:, -width:], legend[-height:, -width:]
    opacity = over[..., 3:] / np.float32(255)
    corner[:] = np.rint(opacity * over[..., :3] + (1 - opacity) * corner).astype(np.uint8)


def _even(px: int) -> int:
    return px + px % 2
