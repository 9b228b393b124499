"""Pictures of an annotated video, pixel by pixel."""

import numpy as np
import pytest

from twostream_jax.report.annotated import (
    COLUMN,
    GAP,
    LEAST_RIM,
    LINE,
    MARGIN,
    NO_FLOW,
    NUMBERS,
    TITLE,
    Layout,
    label_panel,
    rim_px,
    wheel_legend,
)
from twostream_jax.report.flow_colour import flow_to_colour


def test_the_rim_is_what_one_vector_in_a_hundred_exceeds():
    fields = np.zeros((1, 10, 20, 2))
    fields[0, 0, :10] = (3.0, 4.0)  # 10 of 200 are 5 px long
    assert rim_px(fields, 20.0) == pytest.approx(5.0)
    fields[0, 0, 1:10] = 0  # a single one: below the percentile
    assert rim_px(fields, 20.0) == LEAST_RIM * 20.0 == 2.5


@pytest.mark.parametrize(
    ("height", "width", "factor"), [(64, 80, 4), (240, 320, 1), (256, 342, 1), (100, 70, 4), (41, 41, 6)]
)
def test_sizes_are_even_and_small_frames_are_enlarged(height, width, factor):
    layout = Layout(height, width, True)
    assert layout.factor == factor
    frame, panel = np.zeros((height, width, 3), np.uint8), label_panel([("a", [("b", 1.0)])], layout.panel_width)
    picture = layout.picture(frame, np.zeros((height, width, 2)), 1.0, wheel_legend(1.0, 240), panel)
    assert picture.shape[0] % 2 == picture.shape[1] % 2 == 0
    assert picture.shape[1] in (2 * factor * width + GAP, 2 * factor * width + GAP + 1)


def test_frame_and_flow_stand_side_by_side_in_true_colours():
    frame = np.zeros((60, 80, 3), np.uint8)
    frame[:, :40], frame[:30, 40:], frame[30:, 40:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    flow = np.zeros((60, 80, 2))
    flow[:30, :, 0], flow[30:, :40, 0] = 2.0, -2.0  # right above, left below on the left, nothing else
    layout = Layout(60, 80, True)
    panel = np.full((30, layout.panel_width, 3), 77, np.uint8)
    legend = wheel_legend(2.0, 240)
    picture = layout.picture(frame, flow, 2.0, legend, panel)
    assert picture.shape == (4 * 60 + 30, 2 * 320 + GAP, 3)
    np.testing.assert_array_equal(picture[:240:4, :320:4], frame)
    np.testing.assert_array_equal(picture[3:240:4, 3:320:4], frame)
    assert (picture[:240, 320 : 320 + GAP] == 255).all() and (picture[240:] == 77).all()
    right = picture[:240, 320 + GAP :]
    np.testing.assert_array_equal(right[10, 10], (255, 0, 0))  # right is red
    np.testing.assert_array_equal(right[130, 10], (0, 255, 255))  # left is cyan
    np.testing.assert_array_equal(right[130, 190], (255, 255, 255))
    np.testing.assert_array_equal(right[:120:4, ::4], flow_to_colour(flow, 2.0)[:30])
    # Twice the rim is drawn like the rim, half of it paler.
    np.testing.assert_array_equal(layout.picture(frame, flow, 1.0, legend, panel)[10, 340], (255, 0, 0))
    np.testing.assert_array_equal(layout.picture(frame, flow, 4.0, legend, panel)[10, 340], (255, 128, 128))


def test_without_a_field_there_is_grey_and_without_flow_no_panel():
    frame = np.full((240, 301, 3), 9, np.uint8)
    legend = wheel_legend(2.0, 240)
    layout = Layout(240, 301, True)
    picture = layout.picture(frame, None, 2.0, legend, np.zeros((20, layout.panel_width, 3), np.uint8))
    assert (picture[:100, 301 + GAP : 301 + GAP + 301] == NO_FLOW).all()
    alone = Layout(240, 301, False)
    picture = alone.picture(frame, None, 0.0, legend, np.zeros((21, alone.panel_width, 3), np.uint8))
    assert picture.shape == (262, 302, 3) and (picture[:240, :301] == 9).all() and (picture[:240, 301] == 255).all()


def test_the_legend_is_the_wheel_and_lies_in_the_corner():
    legend = wheel_legend(2.5, 240)
    assert legend.shape[2] == 4 and 36 < legend.shape[0] < 80 and legend.shape[1] == 72
    wheel = legend[4 : 4 + 40, 16:56]
    assert (wheel[20, 20, :3] > 240).all()
    assert wheel[20, 38, 0] == 255 and wheel[20, 38, 1:3].max() < 40  # right is red
    assert wheel[20, 1, 0] < 40 and wheel[20, 1, 1:3].min() > 240  # left is cyan
    assert (legend[46:60, :, :3] < 120).any()  # its caption
    assert not np.array_equal(legend[44:], wheel_legend(9.5, 240)[44:])
    layout = Layout(240, 320, True)
    white = layout.picture(
        np.zeros((240, 320, 3), np.uint8), np.zeros((240, 320, 2)), 2.5, legend, np.zeros((2, 644, 3), np.uint8)
    )
    height, width = legend.shape[:2]
    inside = white[240 - height : 240, -width:]
    np.testing.assert_array_equal(inside[4:44, 16:56][20, 38], wheel[20, 38, :3])
    assert (white[: 240 - height, 330:] == 255).all()


def coloured(panel):
    return (panel.max(axis=2).astype(int) - panel.min(axis=2)) > 30


def test_bars_are_as_long_as_their_probabilities():
    panel = label_panel([("spatial", [("", 1.0), ("", 0.5), ("", 0.0), ("", 0.9)])], 400)
    assert panel.shape == (TITLE + 3 * LINE + 2 * MARGIN, 400, 3) and panel.dtype == np.uint8
    whole = 400 - 2 * MARGIN - NUMBERS
    for row, share in enumerate((1.0, 0.5, 0.0)):
        middle = round(TITLE + (row + 0.5) * LINE)
        assert abs(coloured(panel)[middle].sum() - share * whole) <= 2


def test_columns_stand_beside_each_other_as_far_as_they_fit():
    columns = [(name, [(name, 1.0)]) for name in ("a", "b", "c")]
    block = TITLE + 3 * LINE + MARGIN
    assert label_panel(columns, 3 * COLUMN).shape[0] == block + MARGIN
    assert label_panel(columns, 3 * COLUMN - 1).shape[0] == 2 * block + MARGIN
    assert label_panel(columns, 100).shape[0] == 3 * block + MARGIN
    headed = label_panel(columns, 3 * COLUMN, "0.0 to 2.0 s")
    assert headed.shape[0] == TITLE + block + MARGIN and (headed[:TITLE] < 120).any()
    np.testing.assert_array_equal(headed[TITLE:], label_panel(columns, 3 * COLUMN))


def test_names_of_any_script_are_drawn_and_long_ones_cut():
    def ink(name):
        panel = label_panel([("s", [(name, 0.0)])], 200)
        return (panel[TITLE : TITLE + LINE] < 120).all(axis=2)

    assert not np.array_equal(ink("ходьба"), ink("бег"))  # not boxes alone
    assert ink("$x^2$").any() and ink("走る").any() and ink("مشي").any()
    # Between a long name and the percentage nothing is drawn.
    end = 200 - MARGIN - NUMBERS
    assert ink("m" * 40)[:, end - 20 : end - 6].any() and not ink("m" * 40)[:, end - 3 : end].any()
