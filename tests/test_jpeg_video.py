"""One video's JPEGs: counts, numbers, damage; the settings; what records say of them."""

import dataclasses
import json

import cv2
import numpy as np
import pytest
from jpeg_sets import jpeg, put, write_video
from tiny_clips import SETTINGS, run

from configs import base
from input_pipeline import codecs
from input_pipeline.datasets import list_videos
from input_pipeline.estimate import estimate
from input_pipeline.schema import UserError, dequantise_flow
from input_pipeline.store import Records
from twostream_jax import cli

GIVEN = dataclasses.replace(
    SETTINGS, given=("rgb", "flow"), method="given", bound_px=20.0, short_side=256, max_bad_fraction=0.9
)


def listing(root, **values):
    config = base.get_config()
    config.data.kind, config.data.videos = "jpeg_folders", str(root)
    config.data.update(values)
    return list_videos(config.data)


def reasons(records):
    lines = (records / "quarantine.jsonl").read_text().splitlines()
    return {line["name"]: line["reason"] for line in map(json.loads, lines)}


def test_every_fault_sets_its_video_aside_by_name(tmp_path):
    root = tmp_path / "s" / "c"
    write_video(root / "good")
    (root / "empty").mkdir()
    for name in ("gap", "twice", "cut", "noise", "small", "big_rgb", "xy", "link", "one_file"):
        write_video(root / name)
    (root / "gap" / "flow_y_00002.jpg").unlink()
    put(root / "twice" / "flow_x_2.JPG", jpeg())
    whole = (root / "cut" / "flow_x_00003.jpg").read_bytes()
    put(root / "cut" / "flow_x_00003.jpg", whole[:-40])
    put(root / "noise" / "img_00001.jpg", b"no picture\xff\xd9")
    put(root / "small" / "flow_y_00002.jpg", jpeg(size=(24, 30)))
    for i in range(1, 5):
        put(root / "big_rgb" / f"img_{i:05d}.jpg", jpeg(size=(48, 64), channels=3))
    (root / "xy" / "flow_y_00003.jpg").unlink()
    (root / "link" / "flow_x_00001.jpg").unlink()
    (root / "link" / "flow_x_00001.jpg").symlink_to(tmp_path / "nowhere")
    write_video(root / "short", frames=5, fields=2)
    write_video(root / "equal", frames=4, fields=4)
    write_video(root / "no_rgb", frames=0, fields=3)
    dataset = run(listing(tmp_path / "s"), tmp_path / "r", GIVEN)
    assert [video.name for video in dataset.videos] == ["c/good", "c/one_file"]
    found, here = reasons(tmp_path / "r"), str(root)
    assert found["c/empty"] == "holds no img_*.jpg"
    assert found["c/gap"] == "frame 2 is missing, flow_y_00003.jpg comes after flow_y_00001.jpg"
    assert found["c/twice"] == "flow_x_00002.jpg and flow_x_2.JPG have the same number"
    assert found["c/cut"] == f"{here}/cut/flow_x_00003.jpg: damaged JPEG: {len(whole) - 40} bytes without an end marker"
    assert found["c/noise"] == f"{here}/noise/img_00001.jpg: damaged JPEG: 12 bytes that cannot be decoded"
    size = f"30x24 px, but {here}/small/img_00001.jpg has 32x24"
    assert found["c/small"] == f"{here}/small/flow_y_00002.jpg: {size}"
    size = f"32x24 px, but {here}/big_rgb/img_00001.jpg has 64x48"
    assert found["c/big_rgb"] == f"{here}/big_rgb/flow_x_00001.jpg: {size}"
    assert found["c/xy"] == "the flow's x has the numbers 1 to 3, its y 1 to 2"
    assert found["c/link"].startswith(f"{here}/link/flow_x_00001.jpg: [Errno 2] No such file")
    cut_short = "one of the two was cut short, or made with another step"
    assert found["c/short"] == f"5 frames and 2 flow fields, but 5 frames have 4 fields: {cut_short}"
    assert found["c/equal"].startswith(
        "4 frames and 4 flow fields, but 4 frames have 3 fields: set data.spare_field=first"
    )
    assert found["c/no_rgb"] == "holds no img_*.jpg"
    assert len(found) == 12


@pytest.mark.parametrize(("spare", "kept"), [("first", (1, 2, 3)), ("last", (0, 1, 2))])
def test_the_spare_field_is_left_out(tmp_path, spare, kept):
    folder = write_video(tmp_path / "s" / "c" / "equal", frames=4, fields=4)
    write_video(tmp_path / "s" / "c" / "right", frames=4)
    dataset = run(listing(tmp_path / "s", spare_field=spare), tmp_path / "r", GIVEN)
    records = Records(tmp_path / "r")
    assert [(video.frames, video.pairs) for video in dataset.videos] == [(4, 3), (4, 3)]
    files = sorted(folder.glob("flow_x_*"))
    assert [x for x, _, _ in records.field_jpegs(0, range(3))] == [files[i].read_bytes() for i in kept]
    # A video whose counts fit loses nothing.
    assert records.field_jpegs(1, [0])[0][0] == (tmp_path / "s/c/right/flow_x_00001.jpg").read_bytes()


def test_many_videos_with_a_spare_field_end_in_one_line_that_names_the_key(tmp_path):
    for i in range(7):
        write_video(tmp_path / "s" / "c" / f"v{i}", frames=3 + i, fields=3 + i if i else 2)
    (tmp_path / "s" / "c" / "v1" / "img_00001.jpg").unlink()
    with pytest.raises(UserError) as caught:
        run(listing(tmp_path / "s"), tmp_path / "r", GIVEN, max_bad_fraction=0.5)
    # All with a spare field are one cause, whatever their numbers.
    assert str(caught.value).startswith(
        "data.max_bad_fraction: 6 of 7 videos were set aside, more than 0.5; 5 as c/v2: 5 frames and 5 flow "
        "fields, but 5 frames have 4 fields: set data.spare_field=first if the tool writes no frame 0, as TSN's dense_flow "
        "does, or data.spare_field=last if it repeats the last field; see "
    )
    dataset = run(listing(tmp_path / "s", spare_field="last"), tmp_path / "r", GIVEN)
    assert dataset.counts["videos"] == 6 and dataset.counts["pairs"] == 2 + 4 + 5 + 6 + 7 + 8


def test_videos_set_aside_for_a_spare_field_are_taken_up_once_it_is_named(tmp_path):
    write_video(tmp_path / "s" / "c" / "equal", frames=3, fields=3)
    write_video(tmp_path / "s" / "c" / "right", frames=3)
    assert run(listing(tmp_path / "s"), tmp_path / "r", GIVEN).counts["videos"] == 1
    dataset = run(listing(tmp_path / "s", spare_field="first"), tmp_path / "r", GIVEN)
    assert [video.name for video in dataset.videos] == ["c/equal", "c/right"]
    assert dataset == run(listing(tmp_path / "s", spare_field="first"), tmp_path / "fresh", GIVEN)


def test_a_change_of_the_spare_field_is_noticed_in_unfinished_work(tmp_path):
    write_video(tmp_path / "s" / "c" / "v", frames=3, fields=3)
    (tmp_path / "s" / "c" / "bad").mkdir()
    for spare in ("first", "last"):
        with pytest.raises(UserError, match="1 of 2 videos were set aside"):
            run(listing(tmp_path / "s", spare_field=spare), tmp_path / "r", GIVEN, max_bad_fraction=0.1)
    run(listing(tmp_path / "s", spare_field="last"), tmp_path / "r", GIVEN)
    jpegs = Records(tmp_path / "r").field_jpegs(0, range(2))
    assert jpegs[0][0] == (tmp_path / "s/c/v/flow_x_00001.jpg").read_bytes()


def test_a_three_channel_field_keeps_its_bytes_and_reads_as_its_grey_plane(tmp_path):
    folder = write_video(tmp_path / "s" / "c" / "v", frames=3)
    for half in "xy":
        for i in (1, 2):
            put(folder / f"flow_{half}_{i:05d}.jpg", jpeg(i, size=(25, 31), channels=3))
    for i in (1, 2, 3):
        put(folder / f"img_{i:05d}.jpg", jpeg(i, size=(25, 31), channels=3))
    run(listing(tmp_path / "s"), tmp_path / "r", GIVEN)
    records = Records(tmp_path / "r")
    (x, _, mean), _ = records.field_jpegs(0, [0, 1])
    assert x == (folder / "flow_x_00001.jpg").read_bytes()
    assert cv2.imdecode(np.frombuffer(x, np.uint8), cv2.IMREAD_UNCHANGED).shape == (25, 31, 3)
    grey = codecs.decode_grey(jpeg(1, size=(25, 31)))
    levels, _, _ = records.flow(0, 0, 1)
    assert np.array_equal(levels[0, ..., 0], grey)
    np.testing.assert_allclose(mean[0], dequantise_flow(grey, 20.0).mean(dtype=np.float64), atol=4e-6)


def test_bytes_after_the_end_marker_are_kept(tmp_path):
    folder = write_video(tmp_path / "s" / "c" / "v", frames=3)
    trailed = {name: (folder / name).read_bytes() + b"\0\0tail" for name in ("flow_x_00001.jpg", "img_00002.jpg")}
    for name, content in trailed.items():
        put(folder / name, content)
    run(listing(tmp_path / "s"), tmp_path / "r", GIVEN)
    records = Records(tmp_path / "r")
    assert records.field_jpegs(0, [0])[0][0] == trailed["flow_x_00001.jpg"]
    assert records.frame_jpegs(0, [1]) == [trailed["img_00002.jpg"]]
    plain = codecs.decode_grey(trailed["flow_x_00001.jpg"][:-6])
    assert np.array_equal(records.flow(0, 0, 1)[0][0, ..., 0], plain)


def test_the_end_marker_of_a_thumbnail_is_not_the_pictures():
    whole = jpeg(channels=3)
    thumbnail = b"\xff\xe1" + (2 + len(whole)).to_bytes(2) + whole
    outer = whole[:2] + thumbnail + whole[2:]
    assert np.array_equal(codecs.decode_frame(outer + b"tail"), codecs.decode_frame(whole))
    with pytest.raises(ValueError, match="without an end marker"):
        codecs.decode_frame(outer[:-30])


def test_settings_that_make_no_sense(tmp_path, capsys):
    write_video(tmp_path / "s" / "c" / "v")
    arguments = ["--mode=prepare", "--config=configs/temporal.py", "--config.data.kind=jpeg_folders"]
    arguments += [f"--config.data.videos={tmp_path / 's'}", f"--config.data.records={tmp_path / 'r'}"]
    arguments += ["--config.data.splits="]
    for extra, line in (
        ([], "data.jpeg_bound_px=0.0: flow JPEGs do not say it, so state the px that the extractor clipped at: 20 in"),
        (["--config.data.jpeg_bound_px=-1"], "data.jpeg_bound_px=-1.0: must be at least 0"),
        (["--config.data.spare_field=second"], "data.spare_field='second': choose one of , first, last"),
        (["--config.flow.backward=true"], "flow.backward=True: data.kind=jpeg_folders takes over flow that is there"),
    ):
        with pytest.raises(SystemExit):
            cli.main([*arguments, *extra])
        error = capsys.readouterr().err
        assert error.startswith(f"error: {line}") and error.count("\n") == 1
    # A dry run says what was found and what it takes.
    cli.main([*arguments, "--config.data.jpeg_bound_px=20", "--dry_run"])
    found, cost = capsys.readouterr().out.splitlines()
    assert found == "s: takes over " + ", ".join(f"{tmp_path}/s/c/v/{p}*.jpg" for p in ("flow_x_", "flow_y_", "img_"))
    assert cost.startswith("s: 1 videos, 3 flow pairs, about ") and not (tmp_path / "r").exists()


def test_the_estimate_is_of_the_files(tmp_path):
    for i in range(3):
        write_video(tmp_path / "s" / "c" / f"v{i}", frames=5)
    videos = listing(tmp_path / "s")
    cost = estimate(videos, GIVEN)
    assert (cost.videos, cost.frames, cost.pairs) == (3, 15, 12)
    # A record holds its JPEGs and some hundred bytes around them.
    assert sum(video.size_bytes() for video in videos.videos) < cost.gigabytes * 1e9
    assert cost.gigabytes * 1e9 < sum(video.size_bytes() for video in videos.videos) + 27 * 150


def test_a_fault_of_every_video_is_named_before_the_work(tmp_path):
    write_video(tmp_path / "s" / "c" / "v", frames=3, fields=3)
    with pytest.raises(
        UserError, match=r"none of 1 videos can be read; one of them: .*: set data\.spare_field=first if"
    ):
        estimate(listing(tmp_path / "s"), GIVEN)


def test_the_short_side_is_the_commonest(tmp_path):
    for i, side in enumerate((20, 24, 24)):
        folder = tmp_path / "s" / "c" / f"v{i}"
        for name in ("flow_x_1", "flow_y_1"):
            put(folder / f"{name}.jpg", jpeg(size=(32, side)))
    dataset = run(listing(tmp_path / "s"), tmp_path / "r", GIVEN, given=("flow",))
    assert (dataset.short_side, dataset.streams) == (24, ("flow",))
    assert [(v.frames, v.rgb, v.width) for v in dataset.videos] == [(2, None, 20), (2, None, 24), (2, None, 24)]
    assert not (tmp_path / "r" / "rgb").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bound_px": 15.0}, "data.jpeg_bound_px is 20.0 there and 15.0 now"),
        ({"given": ("flow",)}, "what it holds is rgb, flow there and flow now"),
        ({"short_side": 10}, None),  # not applied
    ],
)
def test_finished_records_of_other_jpegs_are_refused(tmp_path, change, words):
    write_video(tmp_path / "s" / "c" / "v")
    videos = listing(tmp_path / "s")
    dataset = run(videos, tmp_path / "r", GIVEN)
    if words is None:
        assert run(videos, tmp_path / "r", GIVEN, **change) == dataset
        return
    with pytest.raises(UserError) as caught:
        run(videos, tmp_path / "r", GIVEN, **change)
    assert f"was prepared otherwise: {words}; choose" in str(caught.value)


def test_records_of_rgb_alone_and_of_videos_are_told_apart(tmp_path):
    write_video(tmp_path / "s" / "c" / "v", fields=0)
    videos = listing(tmp_path / "s")
    settings = dataclasses.replace(GIVEN, given=("rgb",), method="none", bound_px=0.0)
    dataset = run(videos, tmp_path / "r", settings)
    assert (dataset.streams, dataset.flow, dataset.counts["pairs"], dataset.videos[0].frames) == (("rgb",), None, 0, 4)
    with pytest.raises(UserError, match=r"flow\.method is none there and given now"):
        run(videos, tmp_path / "r", GIVEN)


def test_processes_change_nothing(tmp_path):
    for i in range(3):
        write_video(tmp_path / "s" / "c" / f"v{i}")
    one, two = (run(listing(tmp_path / "s"), tmp_path / f"r{n}", GIVEN, processes=n) for n in (1, 2))
    assert one == two and one.counts["videos"] == 3
