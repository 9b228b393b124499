"""The paper's pictures of flow, for any video: what is outlined, what is drawn where, and every mistake in one line."""

import shlex

import cv2
import numpy as np
import pytest
from command_line import forbid_devices, refused, run
from conftest import REPOSITORY

from input_pipeline import synthetic
from twostream_jax.drivers import flow_figures as driver
from twostream_jax.preprocess import stack_flow, trajectory_stack
from twostream_jax.report import flow_figures

HEIGHT, WIDTH, SIDE = 60, 90, 12


def square_fields(corner, velocity, count, camera=(0.0, 0.0)):
    """Return fields [count, H, W, 2] of a square of 12 px, at (y, x) first, that moves by (x, y) px a frame."""
    fields = np.zeros((count, HEIGHT, WIDTH, 2), np.float32) + np.float32(camera)
    for k in range(count):
        y, x = corner[0] + k * velocity[1], corner[1] + k * velocity[0]
        fields[k, y : y + SIDE, x : x + SIDE] = velocity
    return fields


def lengths(field):
    return np.linalg.norm(field - field.mean(axis=(0, 1)), axis=-1)


@pytest.mark.parametrize("camera", [(0.0, 0.0), (5.0, -2.0)])
@pytest.mark.parametrize("corner", [(20, 30), (24, 39), (30, 60)])
def test_the_box_stands_around_a_moving_square(corner, camera):
    field = square_fields(corner, (4, 1), 1, camera)[0]
    y, x, h, w = flow_figures.most_moving_box(lengths(field))
    assert (h, w) == (20, 30), "a third of each side"
    # 20 px hold 12 with 4 above and below, 30 px with 9 to each side; what is still pulls by less than a px.
    assert abs(y - (corner[0] - 4)) <= 1 and abs(x - (corner[1] - 9)) <= 1


@pytest.mark.parametrize(("corner", "box"), [((0, 0), (0, 0)), ((48, 78), (40, 60)), ((0, 78), (0, 60))])
def test_the_box_stays_within_the_frame(corner, box):
    field = square_fields(corner, (4, 1), 1)[0]
    assert flow_figures.most_moving_box(lengths(field)) == (*box, 20, 30)


def test_the_box_takes_what_moves_most_and_any_frame():
    motion = np.zeros((HEIGHT, WIDTH))
    motion[5:15, 5:15], motion[40:50, 70:80] = 1.0, 1.5
    y, x, h, w = flow_figures.most_moving_box(motion)
    assert y <= 40 and y + h >= 50 and x <= 70 and x + w >= 80
    for shape in ((1, 1), (2, 300), (41, 41)):
        y, x, h, w = flow_figures.most_moving_box(np.zeros(shape))
        assert 0 <= y <= shape[0] - h and 0 <= x <= shape[1] - w and h * w >= 1


def test_points_lie_apart_and_move():
    motion = np.zeros((HEIGHT, WIDTH))
    motion[20:32, 30:42] = 1.0
    motion[25, 35], motion[25, 37] = 8.0, 7.0  # the second lies nearer than a quarter of 20 px
    motion[40, 60] = 3.0
    box = (16, 21, 30, 45)
    np.testing.assert_array_equal(flow_figures.moving_points(motion, box), [[25, 35], [40, 60]])
    points = flow_figures.moving_points(np.where(motion > 1, 1.0, motion), box)
    apart = np.linalg.norm(points[:, None] - points[None], axis=-1) + 100 * np.eye(len(points))
    assert len(points) == 5 and apart.min() >= 30 / 4
    assert flow_figures.moving_points(np.zeros((HEIGHT, WIDTH)), box).tolist() == [[16, 21]]


def test_motion_needs_a_change_that_the_flow_explains():
    """A textured square goes 3 px right; the flow of the bare wall beside it says the same and explains nothing."""
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 256, (SIDE, SIDE), np.uint8)
    pair = np.full((2, HEIGHT, WIDTH), 100, np.uint8)
    pair[0, 20 : 20 + SIDE, 30 : 30 + SIDE] = texture
    pair[1, 20 : 20 + SIDE, 33 : 33 + SIDE] = texture
    field = square_fields((20, 30), (3, 0), 1)[0]
    field[40:52, 60:72] = (3, 0)
    seen = driver.motion(pair, field)
    assert (seen[40:52, 60:72] == 0).all() and (np.delete(seen, np.s_[20:32], axis=0) == 0).all()
    # |d - mean d| = 3 - 3 * 288 / 5400; in the square, d explains all of the change.
    change = np.abs(pair[1].astype(float) - pair[0])[20:32, 30:42]
    np.testing.assert_allclose(seen[20:32, 30:42], (3 - 3 * 288 / 5400) * change, rtol=1e-5)


def test_the_liveliest_moment_by_hand():
    # Stacks of 3 begin at fields 0 to 4; medians 1 1 2 2 2, first fields 1 1 0 9 2, the lesser 1 1 0 2 2.
    assert driver.liveliest(np.array([1.0, 1, 0, 9, 2, 2, 2]), 3) == 3
    # A cut is one wild field: neither its stack's median nor the field before it is large.
    assert driver.liveliest(np.array([1.0, 1, 50, 1, 1, 2, 2, 2]), 3) == 5
    assert driver.liveliest(np.array([1.0, 3, 2]), 1) == 1


def drawn(monkeypatch, tmp_path, fields, points, box=(16, 21, 20, 30)):
    """Return the figure that is saved of these fields, stacked by the functions that training uses."""
    figures = []
    save = flow_figures.save
    monkeypatch.setattr(flow_figures, "save", lambda figure, path: figures.append(figure) or save(figure, path))
    fixed, along = np.asarray(stack_flow(fields)), np.asarray(trajectory_stack(fields))
    frame = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    flow_figures.stackings(tmp_path / "s.png", "title", frame, fixed, along, box, np.array(points), 7)
    assert cv2.imread(str(tmp_path / "s.png")).std() > 5
    return figures[0]


def curves(figure):
    """Return {(component, stacking): values} of what stands under the two panels."""
    found = {}
    for axes in (axes for axes in figure.axes if axes.get_legend()):
        labels = [text.get_text() for text in axes.get_legend().get_texts()]
        for label, dots in zip(labels, axes.collections, strict=True):
            found[axes.get_title(loc="left")[3], label] = dots.get_offsets()[:, 1].tolist()
    return found


def test_a_square_leaves_its_pixel_and_not_its_path(monkeypatch, tmp_path):
    """Moving by (4, 1) px, the 12 px square is at (24, 39) until 4 * k > 9: k = 1, 2, 3 see it, the pixel then is still."""
    fields = square_fields((20, 30), (4, 1), 8)
    figure = drawn(monkeypatch, tmp_path, fields, [(24, 39)])
    assert curves(figure) == {
        ("x", "flow stacking"): [4, 4, 4, 0, 0, 0, 0, 0],
        ("y", "flow stacking"): [1, 1, 1, 0, 0, 0, 0, 0],
        ("x", "trajectory stacking"): [4] * 8,
        ("y", "trajectory stacking"): [1] * 8,
    }
    left, right = figure.axes[:2]
    assert "eq. 1" in left.get_title(loc="left") and "eq. 2" in right.get_title(loc="left")
    gain = 2 if "arrows 2 times" in left.get_title(loc="left") else 1
    for k in range(8):
        fan, step = left.collections[k], right.collections[k]
        # Left: every field's vector from the same pixel. Right: from where the square has gone, in true size.
        assert (fan.XY.tolist(), step.XY.tolist()) == ([[39, 24]], [[39 + 4 * k, 24 + k]])
        assert (fan.U[0], fan.V[0]) == ((4 * gain, gain) if k < 3 else (0, 0))
        assert (step.U[0], step.V[0]) == (4, 1)
        np.testing.assert_array_equal(fan.get_facecolor(), step.get_facecolor())
        assert fan.angles == step.angles == "xy" and fan.scale_units == step.scale_units == "xy" and step.scale == 1
    colours = {tuple(left.collections[k].get_facecolor()[0]) for k in range(8)}
    assert len(colours) == 8, "a colour a field"
    for axes in (left, right):
        (bottom, top), (from_x, to_x) = axes.get_ylim(), axes.get_xlim()
        assert bottom > top, "y is down, so that a vector of positive d^y points down"
        assert to_x > 39 + 4 * 8 and bottom > 24 + 8 and from_x < 21, "the path is not cut off"


def test_the_curves_are_of_the_point_where_the_stackings_differ(monkeypatch, tmp_path):
    fields = square_fields((20, 30), (4, 1), 5)
    fields[:, 50:55, 5:10] = (2, 0)  # in every field, so that only the path from (52, 6) leaves it, by x = 6, 8, 10
    for points, number in (([(52, 6), (24, 39)], 2), ([(24, 39), (52, 6)], 1)):
        figure = drawn(monkeypatch, tmp_path, fields, points)
        # The square's: (4 + 1) px apart for k = 4, 5; the other's: 2 px apart for k = 3, 4, 5.
        assert f" of point {number}, px per frame (down is above 0)" in figure.axes[-1].get_title(loc="left")
        assert curves(figure)["x", "flow stacking"] == [4, 4, 4, 0, 0]
    figure = drawn(monkeypatch, tmp_path, fields, [(52, 6)])
    assert curves(figure)["x", "flow stacking"] == [2] * 5
    assert curves(figure)["x", "trajectory stacking"] == [2, 2, 0, 0, 0]


def test_one_field_and_many_are_drawn(monkeypatch, tmp_path):
    for count in (1, 17):
        figure = drawn(monkeypatch, tmp_path, square_fields((20, 10), (4, 1), count), [(24, 15), (28, 18)])
        assert len(curves(figure)["y", "trajectory stacking"]) == count


def test_optical_flow_has_its_five_parts(monkeypatch, tmp_path):
    figures = []
    save = flow_figures.save
    monkeypatch.setattr(flow_figures, "save", lambda figure, path: figures.append(figure) or save(figure, path))
    field = square_fields((20, 30), (4, -1), 1)[0]
    frames = np.random.default_rng(0).integers(0, 256, (2, HEIGHT, WIDTH, 3), dtype=np.uint8)
    flow_figures.optical_flow(tmp_path / "f.png", "v_$a_$ 漢.avi", frames, field, (16, 21, 20, 30), 12)
    a, b, d, e, c = (axes for axes in figures[0].axes if axes.images)
    titles = [axes.get_title(loc="left")[:14] for axes in (a, b, c, d, e)]
    assert titles == ["(a) frame 12", "(b) frame 13", "(c) $d$ in the", "(d) $d^x$: rig", "(e) $d^y$: dow"]
    for axes in (a, b, d, e):
        (outline,) = axes.patches
        # A pixel's centre is at its number, so its edge half a px before.
        assert (*outline.get_xy(), outline.get_width(), outline.get_height()) == (20.5, 15.5, 30, 20)
    assert d.images[0].get_clim() == e.images[0].get_clim() == (-4, 4)
    np.testing.assert_array_equal(e.images[0].get_array(), field[..., 1])
    (arrows,) = c.collections
    inside = (np.abs(arrows.XY[:, 0] - 35.5) < 6) & (np.abs(arrows.XY[:, 1] - 25.5) < 6)
    assert inside.any() and (arrows.V[inside] == arrows.U[inside] / -4).all() and (arrows.U[~inside] == 0).all()
    assert c.get_xlim() == (20.5, 50.5) and c.get_ylim() == (35.5, 15.5) and arrows.angles == "xy"


@pytest.mark.parametrize(
    ("most", "gain"), [(2.0, 5.0), (3.5, 2.0), (10.0, 1.0), (10.1, 0.5), (0.0, 100.0), (0.05, 100.0), (300.0, 0.02)]
)
def test_arrows_are_lengthened_by_a_round_number(most, gain):
    assert flow_figures._gain(np.array([[most, 0.0]]), 10.0) == pytest.approx(gain)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    split = synthetic.render(folder / "videos", seed=0, videos_per_class=(1, 0), num_frames=12)
    moving = split.parent / "red-swing" / "red-swing_g01.avi"
    (folder / "clip.avi").write_bytes(moving.read_bytes())
    (folder / "text.avi").write_text("no video")
    (folder / "empty.avi").write_text("")
    return folder


def readme_command() -> list[str]:
    """Return the arguments of README.md's line that draws the pictures."""
    text = (REPOSITORY / "README.md").read_text().replace("\\\n", " ")
    (line,) = (line for line in text.splitlines() if "--figures=" in line and line.startswith("python run.py"))
    return shlex.split(line, comments=True)[2:]


def test_readmes_command_draws_both_pictures(clips, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(clips)
    arguments = readme_command()
    assert any(a.startswith("--video=clip.avi") for a in arguments)
    (folder,) = (a.removeprefix("--figures=") for a in arguments if a.startswith("--figures="))
    status, out, err = run(capsys, *arguments)
    assert status == 0, err
    assert out.splitlines() == [f"{folder}/flow.png", f"{folder}/stacking.png"]
    for name in ("flow", "stacking"):
        assert min(cv2.imread(str(clips / folder / f"{name}.png")).shape[:2]) > 400


def test_a_moment_may_be_chosen_and_titles_say_which(clips, tmp_path, capsys, monkeypatch):
    titles = []
    for name in ("optical_flow", "stackings"):
        monkeypatch.setattr(driver, name, lambda path, title, *rest: titles.append((title, rest)))
    arguments = ["--mode=inspect", f"--video={clips}/clip.avi", f"--figures={tmp_path}/new"]
    # 12 frames have 11 fields, so the last stack of demo.py's L = 5 begins at frame 6.
    for frame in (0, 6):
        assert run(capsys, *arguments, f"--frame={frame}")[0] == 0
    assert [title for title, _ in titles] == [
        "Optical flow from frame 0 to frame 1 of 12 (counted from 0) of clip.avi, dis flow",
        "L = 5: flow from frame 0 to frame 5 of 12 (counted from 0) of clip.avi, dis flow",
        "Optical flow from frame 6 to frame 7 of 12 (counted from 0) of clip.avi, dis flow",
        "L = 5: flow from frame 6 to frame 11 of 12 (counted from 0) of clip.avi, dis flow",
    ]
    (frames, field, box, first), (frame, fixed, along, same_box, points, begin) = (rest for _, rest in titles[2:])
    assert frames.shape == (2, 64, 80, 3) and fixed.shape == along.shape == (64, 80, 10) and (first, begin) == (6, 6)
    np.testing.assert_array_equal(frames[0], frame)
    np.testing.assert_array_equal(fixed[..., :2], field)
    assert box == same_box and 1 <= len(points) <= 5
    assert (along[..., 2:] != fixed[..., 2:]).any() and (along[..., :2] == fixed[..., :2]).all()
    # Left to itself it takes the moment that moves most, and one field asks for one pair only.
    assert run(capsys, *arguments, "--config.input.stack=1", "--config.flow.method=farneback")[0] == 0
    assert titles[-1][0].startswith("L = 1: flow from frame ") and titles[-1][0].endswith("clip.avi, farneback flow")


def test_the_outlined_square_is_the_disc(clips, tmp_path, capsys, monkeypatch):
    """The disc of the embedded videos has a radius of 13 px; the box around it holds most of what is red."""
    seen = []
    monkeypatch.setattr(driver, "optical_flow", lambda path, title, *rest: seen.append(rest))
    assert run(capsys, "--mode=inspect", f"--video={clips}/clip.avi", f"--figures={tmp_path}")[0] == 0
    (frames, _, (y, x, h, w), _) = seen[0]
    red = frames[0][..., 0].astype(int) - frames[0][..., 1] > 40
    rows, columns = np.nonzero(red)
    assert abs(rows.mean() - (y + h / 2)) < 8 and abs(columns.mean() - (x + w / 2)) < 8


CLIP, OUT = "--video={clips}/clip.avi", "--figures={out}/new"
TOGETHER = "draws the flow of a video with --video=FILE and --figures=DIR together"
MISTAKES = [
    ([OUT], TOGETHER),
    ([CLIP], TOGETHER),
    (["--frame=3"], TOGETHER),
    (["--video=", OUT], TOGETHER),
    ([CLIP, OUT, "--workdir={out}"], "--workdir: not with --figures, whose settings come from --config"),
    ([CLIP, OUT, "--json"], "--json: not with --figures"),
    ([CLIP, OUT, "--filters=a.png"], "--filters: not with --figures"),
    (["--video={clips}/none.avi", OUT], "--video={clips}/none.avi: no such file"),
    (["--video={clips}", OUT], "--video={clips}: is a folder; give one file"),
    (["--video={clips}/text.avi", OUT], "--video={clips}/text.avi: cannot be opened as a video"),
    (["--video={clips}/empty.avi", OUT], "--video={clips}/empty.avi: the file is empty"),
    ([CLIP, "--figures={clips}/text.avi"], "--figures={clips}/text.avi: is a file; name a folder for flow.png"),
    ([CLIP, "--figures={out}/no/new"], "--figures={out}/no/new: there is no folder {out}/no to make it in"),
    (
        [CLIP, OUT, "--config.input.stack=12"],
        "clip.avi: has 12 frames, and a stack of 12 fields takes 13; give a longer",
    ),
    ([CLIP, OUT, "--frame=7"], "--frame=7: must be 0 to 6, where a stack of 5 fields begins and ends within the 12"),
    ([CLIP, OUT, "--frame=-1"], "--frame=-1: must be 0 to 6"),
    ([CLIP, OUT, "--frame=first"], "frame"),
    ([CLIP, OUT, "--config.flow.method=none"], "flow.method=none: names no flow; set --config.flow.method=dis"),
    ([CLIP, OUT, "--config.flow.method=lk"], "flow.method='lk': choose one of auto, tvl1"),
    ([CLIP, OUT, "--config.input.stak=3"], "input has no key 'stak'; did you mean stack?"),
    ([CLIP, OUT, "--config=configs/none.py"], "--config=configs/none.py: no such file"),
]


@pytest.mark.parametrize(("arguments", "line"), MISTAKES, ids=[" ".join(a) for a, _ in MISTAKES])
def test_a_mistake_is_one_line_and_leaves_nothing(arguments, line, capsys, clips, tmp_path, monkeypatch):
    forbid_devices(monkeypatch)
    *filled, line = (text.replace("{clips}", str(clips)).replace("{out}", str(tmp_path)) for text in (*arguments, line))
    refused(capsys, ["--mode=inspect", *filled], line)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mode", ["train", "predict"])
def test_other_modes_do_not_take_the_flag(capsys, mode):
    refused(capsys, [f"--mode={mode}", "--figures=x"], f"--figures: mode {mode} does not take it, only inspect")


@pytest.mark.parametrize(
    ("clip", "config"),
    [("weizmann4/wave1/actor1_wave1.avi", "weizmann4"), ("ucf101/TennisSwing/v_TennisSwing_g14_c03.avi", "temporal")],
)
def test_real_clips(data_dir, tmp_path, capsys, monkeypatch, clip, config):
    """Found without help: a waving arm at 64 px, and a serve before a bare wall, on which DIS has the longest vectors."""
    seen = []
    monkeypatch.setattr(driver, "optical_flow", lambda path, title, *rest: seen.append(rest))
    arguments = [f"--config=configs/{config}.py", "--config.flow.method=dis"]
    status, _, err = run(
        capsys, "--mode=inspect", f"--video={data_dir / clip}", f"--figures={tmp_path / 'f'}", *arguments
    )
    assert status == 0, err
    (frames, field, (y, x, h, w), _) = seen[0]
    inside = lengths(field)[y : y + h, x : x + w]
    assert inside.mean() > 1.5 * lengths(field).mean()
    # The two frames differ there more than elsewhere.
    change = np.abs(frames[1].astype(int) - frames[0]).mean(axis=-1)
    assert change[y : y + h, x : x + w].mean() > 2 * change.mean()
    assert (tmp_path / "f" / "stacking.png").stat().st_size > 20_000
