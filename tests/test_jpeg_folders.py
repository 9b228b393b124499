"""Flow that others computed: every layout gives the batches that the video's own records give; lists; what is refused."""

import pickle
import unicodedata
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jpeg_sets import LAYOUTS, jpeg, put, write_set, write_video
from unreadable import refuse

from input_pipeline import pipeline
from input_pipeline.datasets import list_videos
from input_pipeline.schema import UserError
from input_pipeline.store import Records
from twostream_jax import mesh as meshes
from twostream_jax import steps
from twostream_jax.drivers.prepare import prepare_records
from twostream_jax.drivers.setup import Setup
from twostream_jax.optim import make_optimizer


def section(videos="", **values):
    keys = {
        "spare_field": "",
        "frames": "",
        "splits": "",
        "split_file": "",
        "group_column": "group",
        "classes": (),
        "allow_missing": False,
    }
    return SimpleNamespace(kind="jpeg_folders", videos=str(videos), **(keys | values))


def names(data):
    return [video.name for video in list_videos(data).videos]


@pytest.fixture(scope="module")
def taken_over(tiny_config, tmp_path_factory):
    """{layout: a config whose records were taken over from the JPEGs of `tiny_config`'s records}."""
    original, configs = Records(tiny_config.data.records), {}
    for layout in LAYOUTS:
        folder = tmp_path_factory.mktemp(layout)
        config = configs[layout] = tiny_config.copy_and_resolve_references()
        config.data.kind, config.data.jpeg_bound_px = "jpeg_folders", 8.0
        config.data.videos = str(write_set(folder / "set", original, layout))
        config.data.records = str(folder / "records")
        prepare_records(config)
    return configs


def net_config(config, stream):
    own = config.copy_and_resolve_references()
    own.model.name, own.input.streams = f"cnn_m_{stream}", ("rgb",) if stream == "spatial" else ("flow",)
    return own


def train_batches(config, process=0, count=1):
    setup = Setup.of(config)
    crop = config.input.crop
    draw = pipeline.DrawBatch((setup.only.table("train"),), config.train.batch_size, *setup.span, crop, True, 5)
    reading = pipeline.Reading(2, 0, process, count)
    return list(
        pipeline.train_batches([setup.only.records], draw, setup.window(crop), start_step=0, steps=3, reading=reading)
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_records_hold_the_files_bytes(taken_over, tiny_config, layout):
    ours, theirs = (Records(config.data.records) for config in (tiny_config, taken_over[layout]))
    assert theirs.dataset.streams == ("rgb", "flow") and theirs.dataset.kind == "jpeg_folders"
    assert ours.dataset.files == theirs.dataset.files  # their SHA-256, too
    assert (theirs.dataset.flow.method, theirs.dataset.flow.bound_px) == ("given", 8.0)
    assert (theirs.dataset.flow.opencv_version, theirs.dataset.short_side, theirs.dataset.jpeg_quality) == ("", 48, 0)
    for position, (one, other) in enumerate(zip(ours.videos, theirs.videos, strict=True)):
        assert (one.name, one.label, one.group, one.subsets) == (other.name, other.label, other.group, other.subsets)
        assert (one.frames, one.height, one.width, one.bound_px) == (10, other.height, other.width, other.bound_px)
        assert ours.frame_jpegs(position, range(10)) == theirs.frame_jpegs(position, range(10))
        for own, taken in zip(*(r.field_jpegs(position, range(9)) for r in (ours, theirs)), strict=True):
            assert own[:2] == taken[:2] and np.array_equal(own[2], taken[2])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("stream", ["temporal", "spatial"])
def test_batches_are_those_of_the_videos_own_records(taken_over, tiny_config, layout, stream):
    ours, theirs = (net_config(config, stream) for config in (tiny_config, taken_over[layout]))
    for process, count in ((0, 1), (0, 2), (1, 2)):
        for one, other in zip(*(train_batches(config, process, count) for config in (ours, theirs)), strict=True):
            assert one.keys() == other.keys() and len(one["label"]) == 16 // count
            assert all(one[key].tobytes() == other[key].tobytes() for key in one)


def test_the_loss_of_a_step_is_the_same_to_the_last_bit(taken_over, tiny_config):
    setup, mesh = Setup.of(tiny_config), meshes.make_mesh(jax.devices()[:1])
    model, optimizer = setup.model({"t": 9}), make_optimizer(tiny_config.optim)
    init = steps.jit_init(mesh, model=model, optimizer=optimizer, inputs=setup.inputs)
    step = steps.jit_train_step(mesh, model=model, optimizer=optimizer, inputs=setup.inputs, tasks=("t",))
    losses = set()
    for config in (tiny_config, *taken_over.values()):
        batch = meshes.put_batch(train_batches(config)[0], mesh)
        losses.add(step(init(jax.random.key(0)), batch, jax.random.key(1))[1].compute()["loss"])
    assert len(losses) == 1 and np.isfinite(losses.pop())


# --- lists --------------------------------------------------------------------------------------------------------


def test_official_names_in_gpu_flows_layout(tmp_path):
    lists = tmp_path / "lists"
    put(lists / "classInd.txt", b"1 Biking\n2 HandstandPushups\n")
    put(
        lists / "trainlist01.txt", b"Biking/v_Biking_g08_c01.avi 1\nHandstandPushups/v_HandStandPushups_g09_c01.avi 2\n"
    )
    put(lists / "testlist01.txt", b"Biking/v_Biking_g01_c01.avi\n")
    # Downloads spell a class otherwise than the lists, and the flow otherwise than the frames.
    for name in ("v_Biking_g08_c01", "v_Biking_g01_c01", "v_HandstandPushups_g09_c01"):
        for half in "uv":
            put(tmp_path / "ucf" / "tvl1_flow" / half / name / "frame000001.jpg", jpeg())
        put(tmp_path / "ucf" / "tvl1_flow" / "u" / f"{name}.bin", b"")
        frames = name.replace("Handstand", "HandStand")
        put(tmp_path / "ucf" / "jpegs_256" / frames / "frame000001.jpg", jpeg(channels=3))
    listed = list_videos(section(tmp_path / "ucf", splits=str(lists)))
    assert (listed.name, listed.kind, listed.given) == ("ucf101", "jpeg_folders", ("rgb", "flow"))
    found = {video.name: (video.source, video.group, video.subsets["1"]) for video in listed.videos}
    source, group, subset = found["HandstandPushups/v_HandStandPushups_g09_c01"]
    assert (group, subset, len(found)) == ("g09", "train", 3)
    assert source.rgb.folder == tmp_path / "ucf/jpegs_256/v_HandStandPushups_g09_c01"
    assert source.y.folder == tmp_path / "ucf/tvl1_flow/v/v_HandstandPushups_g09_c01"
    # The same with the flow's folder itself and the frames named apart.
    named = section(tmp_path / "ucf/tvl1_flow", splits=str(lists), frames=str(tmp_path / "ucf/jpegs_256"))
    assert [video.source for video in list_videos(named).videos] == [video.source for video in listed.videos]
    assert list_videos(section(tmp_path / "ucf/tvl1_flow", splits=str(lists))).given == ("flow",)


def test_official_hmdb_names_and_absent_videos(tmp_path, caplog):
    lists, root = tmp_path / "lists", tmp_path / "hmdb"
    put(
        lists / "wave_test_split1.txt",
        b"A.1_wave_f_0.avi 1\n#b_(x)_wave_u_1.avi 2\nc_wave_u_1.avi 0\nd_wave_u_2.avi 1\n",
    )
    for name in ("wave/a.1_wave_f_0", "wave/#b_(x)_wave_u_1"):  # in class folders; a dot is part of the name
        put(root / name / "flow_x_00001.jpg", jpeg())
    with pytest.raises(
        UserError, match=r"data\.videos=.*hmdb: 1 of 3 listed videos are absent, such as wave/d_wave_u_2"
    ):
        list_videos(section(root, splits=str(lists)))
    listed = list_videos(section(root, splits=str(lists), allow_missing=True))
    assert [(v.name, v.group, v.path.name) for v in listed.videos] == [
        ("wave/#b_(x)_wave_u_1", "#b_(x)", "#b_(x)_wave_u_1"),
        ("wave/A.1_wave_f_0", "A.1", "a.1_wave_f_0"),
    ]


def test_a_csv_names_folders(tmp_path):
    write_video(tmp_path / "s" / "jump" / "a1")
    write_video(tmp_path / "elsewhere" / "b.mp4")
    (tmp_path / "s" / "link.mp4").symlink_to(tmp_path / "elsewhere" / "b.mp4")
    file = tmp_path / "s" / "split.csv"
    file.write_text("path,label,split\njump/a1.avi,jump,train\nlink.mp4,fall,test\n")
    listed = list_videos(section(split_file=str(file)))
    assert [(v.name, v.label, v.subsets["1"]) for v in listed.videos] == [("jump/a1", 1, "train"), ("link", 0, "test")]
    assert [v.source.x.folder for v in listed.videos] == [tmp_path / "s/jump/a1", tmp_path / "s/link.mp4"]
    assert listed.videos[1].exists() and listed.videos[1].source.count_frames() == 4
    assert listed.name == "s" and pickle.loads(pickle.dumps(listed.videos)) == listed.videos
    # With classes chosen the sources stay.
    assert list_videos(section(split_file=str(file), classes=("fall",))).videos[0].source.x
    file.write_text("path,label,split\n../elsewhere/b.mp4,jump,train\n")
    with pytest.raises(UserError, match=r"line 2: \.\./elsewhere/b\.mp4 lies outside the videos folder"):
        list_videos(section(split_file=str(file)))


def test_class_folders(tmp_path):
    for name in ("train/run/v_g01_c1", "train/walk/v.1_g02_c1", "test/run/v_g03_c1"):
        write_video(tmp_path / "Set" / name, frames=0, fields=1, x="x_")
        put(tmp_path / "Set" / "rgb" / Path(name).name / "00001.jpg", jpeg(channels=3))
    listed = list_videos(section(tmp_path / "Set"))
    assert (listed.name, listed.classes, listed.given) == ("set", ("run", "walk"), ("rgb", "flow"))
    assert [(v.name, v.label, v.group, v.subsets["1"]) for v in listed.videos] == [
        ("test/run/v_g03_c1", 0, "g03", "test"),
        ("train/run/v_g01_c1", 0, "g01", "train"),
        ("train/walk/v.1_g02_c1", 1, "g02", "train"),
    ]
    assert listed.videos[2].source.rgb.folder == tmp_path / "Set" / "rgb" / "v.1_g02_c1"


@pytest.mark.parametrize("where", ["run/a", "jpegs_256/run/a"])
def test_frames_without_flow(tmp_path, where):
    put(tmp_path / where / "frame_0001.jpg", jpeg(channels=3))
    listed = list_videos(section(tmp_path))
    assert (listed.given, listed.videos[0].name, listed.classes) == (("rgb",), "run/a", ("run",))
    assert listed.videos[0].source.count_frames() == 1


def test_a_set_is_known_by_a_spread_of_its_folders(tmp_path):
    for i in range(120):
        (tmp_path / "a" / f"{i:03d}").mkdir(parents=True)
    write_video(tmp_path / "b" / "x")
    assert list_videos(section(tmp_path)).given == ("rgb", "flow")


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        (
            ["a/b/notes.txt"],
            {},
            r"data\.videos=.*: no folders of JPEGs are recognised; known are <video>/flow_x_00001\.jpg",
        ),
        (["a/b/flow_x_1.png"], {}, r"data\.videos=.*: .*a/b/flow_x_1\.png is a PNG; only JPEGs are taken over"),
        (["a/b/flow_x_1.png", "a/b/img_1.jpg"], {}, r"flow_x_1\.png is a PNG"),
        (["a/b/flow_x_1.jpg", "a/c/x_1.jpg"], {}, r"holds both flow_x_\*\.jpg and x_\*\.jpg"),
        (["a/b/img_1.jpg", "a/c/frame1.jpg"], {}, r"holds both img_\*\.jpg and frame\*\.jpg"),
        (["u/a/b/frame1.jpg"], {}, r"/v holds no <video>/frame000001\.jpg, but the flow's two halves lie in u/ and v/"),
        (["u/a/b/frame1.jpg", "v/a/b/other1.jpg"], {}, r"/v holds no <video>/frame000001\.jpg"),
        (["u/a/b/frame1.jpg", "v/a/b/frame1.jpg"], {"videos": "u"}, r"data\.videos=.*/u is one half of the flow"),
        (
            ["b/flow_x_1.jpg"],
            {},
            r"data\.videos: .*/b lies in no class folder: set data\.splits .* or data\.split_file",
        ),
        (["a/b/flow_x_1.jpg", "f/n.txt"], {"frames": "f"}, r"/f: holds no <video>/frame000001\.jpg or img_00001\.jpg"),
        (["a/b/img_1.jpg", "f/b/img_1.jpg"], {"frames": "f"}, r"data\.frames=.*/f: goes with flow, but data\.videos="),
        (["a/b/x_1.jpg"], {"frames": "none"}, r"data\.frames=.*none is not a folder"),
        (["a/b/x_1.jpg", "c/b/x_1.jpg", "rgb/b/img_1.jpg"], {}, r"a/b and c/b would both take .*rgb/b: keep"),
        (["a/b/x_1.jpg", "a/b.avi/x_1.jpg"], {}, r"a/b and .*a/b.avi would share the name 'a/b'"),
    ],
)
def test_sets_that_are_refused(tmp_path, files, options, message):
    for name in files:
        put(tmp_path / name, jpeg())
    paths = {key: str(tmp_path / value) for key, value in options.items()}
    with pytest.raises(UserError, match=message) as caught:
        list_videos(section(**({"videos": tmp_path} | paths)))
    assert "\n" not in str(caught.value)


def test_what_may_be_rgb_under_another_name_is_said(tmp_path):
    write_video(tmp_path / "c" / "v", rgb="v_")
    videos = list_videos(section(tmp_path))
    (note, *_) = videos.notes
    assert videos.given == ("flow",)
    assert "only flow is taken over; " in note and "/c/v/v_*.jpg is not known for RGB" in note
    write_video(tmp_path / "c" / "v")
    videos = list_videos(section(tmp_path))
    assert videos.given == ("rgb", "flow") and not any("only flow" in note for note in videos.notes)


def test_two_frame_folders_of_one_name_are_not_guessed(tmp_path):
    write_video(tmp_path / "s" / "c" / "v", frames=0, fields=1)
    for other in ("a", "b"):
        put(tmp_path / "f" / other / "v" / "img_1.jpg", jpeg())
    (video,) = list_videos(section(tmp_path / "s", frames=str(tmp_path / "f"))).videos
    assert video.source.rgb.folder == tmp_path / "f" / "c" / "v"
    assert names(section(tmp_path / "s")) == ["c/v"]


def test_accents_are_one_spelling(tmp_path):
    nfc, nfd = (unicodedata.normalize(form, "Café") for form in ("NFC", "NFD"))
    root = write_video(tmp_path / "s" / "train" / nfd / f"x{nfd}", frames=0, fields=1).parents[2]
    write_video(root / "test" / nfc / "y", frames=0, fields=1)
    put(tmp_path / "f" / f"x{nfc}" / "img_1.jpg", jpeg())
    put(tmp_path / "f" / "y" / "img_1.jpg", jpeg())
    listed = list_videos(section(root, frames=str(tmp_path / "f")))
    assert listed.classes == (nfc,) and [v.name for v in listed.videos] == [f"test/{nfc}/y", f"train/{nfc}/x{nfc}"]
    assert [v.source.rgb.folder for v in listed.videos] == [tmp_path / "f" / "y", tmp_path / "f" / f"x{nfc}"]
    assert all(video.exists() for video in listed.videos)


def test_loops_and_folders_that_cannot_be_read_do_not_stop_the_list(tmp_path, monkeypatch):
    for name in ("run/a", "run/b", "walk/c"):
        write_video(tmp_path / name)
    for loop in (tmp_path / "loop", tmp_path / "run" / "loop", tmp_path / "run" / "a" / "img_00009.jpg"):
        loop.symlink_to(loop)
    refuse(monkeypatch, tmp_path / "walk", tmp_path / "run" / "b")
    listed = list_videos(section(tmp_path))
    assert [video.name for video in listed.videos] == ["run/a", "run/b"]
    assert f"data.videos={tmp_path}: left out 1 folder that cannot be read (such as walk/)" in listed.notes
    first, second = (video.source for video in listed.videos)
    assert first.rgb.sizes()[-1] == 0 and first.rgb.sizes()[0] > 0 and second.size_bytes() == 0
    # Prepare sets it aside with this reason.
    with pytest.raises(UserError, match=r"run/b: cannot be read \(Permission denied\)$"):
        second.rgb.checked()
