from __future__ import annotations

import csv
import hashlib
import itertools
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from input_pipeline import synthetic
from input_pipeline.datasets import list_videos
from input_pipeline.schema import UserError

NUM_FRAMES = 24


@pytest.fixture(scope="module")
def listing(tmp_path_factory):
    return synthetic.render(tmp_path_factory.mktemp("synthetic"), seed=3, num_frames=NUM_FRAMES)


def read(path) -> np.ndarray:
    """Return the RGB frames [F, H, W, 3] of a file."""
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        ok, frame = capture.read()
        if not ok:
            return np.stack(frames)[..., ::-1]
        frames.append(frame)


@pytest.fixture(scope="module")
def videos(listing):
    """Return per subset the frames [N, F, H, W, 3], colours [N] and motions [N] of all videos."""
    rows = list(csv.DictReader(listing.open()))
    result = {}
    for subset in ("train", "test"):
        chosen = [row for row in rows if row["split"] == subset]
        frames = np.stack([read(listing.parent / row["path"]) for row in chosen])
        labels = np.array([synthetic.CLASSES.index(row["label"]) for row in chosen])
        result[subset] = (frames, labels // 3, labels % 3)
    return result


def test_listing_groups_and_frame_counts(listing, videos):
    rows = list(csv.DictReader(listing.open()))
    assert len(rows) == 9 * 20 and len(synthetic.CLASSES) == 9
    for subset, count in (("train", 14), ("test", 6)):
        chosen = [row for row in rows if row["split"] == subset]
        labels_of: dict[str, list[str]] = {}
        for row in chosen:
            labels_of.setdefault(row["group"], []).append(row["label"])
        # Every group holds each class once, so nothing that a group shares can tell the class.
        assert len(labels_of) == count
        assert all(sorted(labels) == sorted(synthetic.CLASSES) for labels in labels_of.values())
        assert videos[subset][0].shape == (9 * count, NUM_FRAMES, 64, 80, 3)
    assert not {r["group"] for r in rows if r["split"] == "train"} & {r["group"] for r in rows if r["split"] == "test"}


def test_listing_is_a_csv_data_set(listing):
    data = SimpleNamespace(kind="csv", videos="", split_file=str(listing), group_column="group", classes=())
    listed = list_videos(data)
    assert listed.classes == tuple(sorted(synthetic.CLASSES)) and len(listed.videos) == 180
    assert {video.name.split("_")[-1] for video in listed.videos} == {video.group for video in listed.videos}


def test_same_arguments_write_the_same_bytes_and_other_seeds_others(tmp_path):
    settings = {"videos_per_class": (1, 1), "num_frames": 3}
    digests = []
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        listing = synthetic.render(tmp_path / folder, seed=seed, **settings)
        files = sorted(listing.parent.rglob("*.avi"))
        digests.append([hashlib.sha256(file.read_bytes()).hexdigest() for file in files])
    assert digests[0] == digests[1]
    assert not set(digests[0]) & set(digests[2])


def test_renders_only_what_is_not_there(tmp_path):
    settings = {"videos_per_class": (1, 1), "num_frames": 3}
    listing = synthetic.render(tmp_path, seed=0, **settings)
    video = tmp_path / "red-bob" / "red-bob_g01.avi"
    video.write_bytes(b"kept")
    assert synthetic.render(tmp_path, seed=0, **settings) == listing
    assert video.read_bytes() == b"kept"
    synthetic.render(tmp_path, seed=1, **settings)  # other settings
    assert len(read(video)) == 3
    video.write_bytes(b"half")
    listing.unlink()  # an interrupted run has no split.csv
    synthetic.render(tmp_path, seed=1, **settings)
    assert len(read(video)) == 3 and listing.exists()


def test_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write the synthetic videos to .*file"):
        synthetic.render(tmp_path / "file", seed=0)


def test_writer_that_opens_nothing_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic.cv2.VideoWriter, "isOpened", lambda writer: False)
    with pytest.raises(UserError, match=r"cannot write the synthetic videos .*OpenCV cannot open .*red-swing_g01"):
        synthetic.render(tmp_path, seed=0)


def test_colours_have_no_luma():
    for offset in synthetic.COLOURS.values():
        assert abs(offset @ [0.299, 0.587, 0.114]) < 1e-12


def test_colours_share_the_grey_level_after_mjpg(tmp_path):
    # Three videos that differ in colour alone: same scene, same track, same noise.
    scene = synthetic._scene(np.random.default_rng(0), (64, 80))
    greys = []
    for colour in synthetic.COLOURS:
        path = tmp_path / f"{colour}.avi"
        synthetic._write_video(path, synthetic._frames(np.random.default_rng(1), scene, f"{colour}-swing", 8))
        greys.append([cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in read(path)])
    greys = np.array(greys, float)  # [3, 8, 64, 80]
    # One level for the disc as a whole; single pixels also carry rounding of three channels twice and JPEG's own.
    assert np.ptp(greys.mean(axis=(1, 2, 3))) < 0.25
    assert np.abs(greys[1:] - greys[:1]).mean() < 1.0


def nearest_centroid(train, labels, test) -> np.ndarray:
    centroids = np.stack([train[labels == k].mean(axis=0) for k in range(3)])
    return np.argmin(((test[:, None] - centroids) ** 2).sum(axis=2), axis=1)


# 54 test videos; guessing one in three is right 1/3 +- .064 of the time, and .56 is 3.5 deviations above.
CHANCE = 0.56


def accuracies(features, videos) -> tuple[float, float]:
    """Return the test accuracies of nearest centroids for the colour and for the motion."""
    (_, *train_labels), (_, *test_labels) = videos["train"], videos["test"]
    train, test = features["train"], features["test"]
    return tuple(
        float((nearest_centroid(train, seen, test) == held).mean())
        for seen, held in zip(train_labels, test_labels, strict=True)
    )


def test_colour_statistics_tell_the_colour_and_not_the_motion(videos):
    features = {}
    for subset, (frames, _, _) in videos.items():
        grey = frames.mean(axis=-1, keepdims=True)
        features[subset] = (frames - grey).mean(axis=(1, 2, 3))
    colour, motion = accuracies(features, videos)
    assert colour == 1.0
    assert motion < CHANCE


def flow_stacks(frames: np.ndarray) -> np.ndarray:
    """Return mean-subtracted DIS flow [F - 1, H, W, 2] of one video."""
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    grey = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in frames]
    flow = np.stack([dis.calc(one, other, None) for one, other in itertools.pairwise(grey)])
    return flow - flow.mean(axis=(1, 2), keepdims=True)


def test_flow_of_any_five_fields_tells_the_motion_and_not_the_colour(videos):
    crop = (slice(None), slice(0, 56), slice(0, 56))  # a corner, as augmentation may take it
    for start in (0, 7, NUM_FRAMES - 6):
        features = {}
        for subset, (frames, _, _) in videos.items():
            stacks = [flow_stacks(video[start : start + 6])[crop] for video in frames]
            energy = np.array([(stack**2).mean(axis=(0, 1, 2)) for stack in stacks])
            features[subset] = np.arctan2(*np.sqrt(energy.T[::-1]))[:, None]  # 0: along x, pi/2: along y
        colour, motion = accuracies(features, videos)
        assert motion >= 0.95
        assert colour < CHANCE


@pytest.mark.parametrize("frame", [0, 11])
def test_one_frame_does_not_tell_the_motion(videos, frame):
    from sklearn.linear_model import LogisticRegression

    def features(subset):
        # Colours taken out: what is left is where the disc is, the background and the disc's texture.
        frames = videos[subset][0][:, frame].astype(np.float32)
        saturation = frames.max(axis=-1) - frames.min(axis=-1)
        small = [cv2.resize(image, (10, 8), interpolation=cv2.INTER_AREA).ravel() for image in saturation]
        return np.array(small) / 30

    model = LogisticRegression(max_iter=200).fit(features("train"), videos["train"][2])
    assert model.score(features("test"), videos["test"][2]) < CHANCE


def test_the_disc_is_everywhere_in_the_box_for_every_motion():
    """At each frame the place is uniform in the box: mean 0 and variance h^2 / 3 in both axes, whatever the motion."""
    h, draws = synthetic.HALF_BOX_PX, 4000
    for motion in synthetic.MOTIONS:
        rng = np.random.default_rng(0)
        tracks = np.stack([synthetic.positions(rng, motion, (0.0, 0.0), NUM_FRAMES)[0] for _ in range(draws)])
        assert np.abs(tracks).max() <= h
        # Five standard errors: h / sqrt(3 n) of the mean, h^2 sqrt(4 / 45 n) of the variance.
        assert np.abs(tracks.mean(axis=0)).max() < 5 * h / np.sqrt(3 * draws)
        assert np.abs(tracks.var(axis=0) - h * h / 3).max() < 5 * h * h * np.sqrt(4 / (45 * draws))


def test_tracks_move_along_their_axis_at_the_drawn_speed():
    moves = {}
    for motion in synthetic.MOTIONS:
        rng = np.random.default_rng(5)
        track, velocity = synthetic.positions(rng, motion, (40.0, 32.0), 50)
        steps = np.abs(np.diff(track, axis=0))
        assert 2.5 <= np.hypot(*velocity) <= 3.5
        # Between walls each step is the velocity; a step that bounces is shorter.
        assert np.allclose(np.median(steps, axis=0), np.abs(velocity)) and (steps <= np.abs(velocity) + 1e-9).all()
        moves[motion] = np.abs(velocity) > 0
    assert [moves[m].tolist() for m in ("swing", "bob", "slant")] == [[True, False], [False, True], [True, True]]


def test_a_folder_of_other_things_is_left_alone(tmp_path):
    (tmp_path / "holiday.avi").write_bytes(b"x")
    with pytest.raises(UserError, match=r"^data\.videos=.*: holds other files; name an empty folder for the synthetic"):
        synthetic.render(tmp_path, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.avi"]


LONG = synthetic.LONG_MOTIONS
# (frame, y, x, channel) of a video of the embedded set, and the values that were there before there were variants.
SAMPLED = ((0, 0, 0, 0), (0, 32, 40, 1), (11, 20, 33, 2), (11, 63, 79, 1), (23, 40, 44, 0), (23, 5, 70, 2))
PIXELS = [118, 154, 107, 101, 61, 104]


def long_tracks(motion: str, draws: int, num_frames: int) -> np.ndarray:
    """Return tracks [draws, num_frames, 2] in px from the box's centre."""
    rng = np.random.default_rng(7)
    return np.stack([synthetic.long_positions(rng, motion, (0.0, 0.0), num_frames) for _ in range(draws)])


@pytest.mark.parametrize("motion", LONG)
def test_one_step_of_a_long_motion_tells_nothing(motion):
    """Away from walls and turning points a step has a uniform direction and the speed that all motions have."""
    tracks = long_tracks(motion, 3000, 12)
    assert np.abs(tracks).max() <= synthetic.HALF_BOX_PX + 1e-9
    steps = np.diff(tracks, axis=1)[:, 4]
    speed = np.hypot(*steps.T)
    whole = speed > 2.45  # 2.5 px of arc on a circle of 8 px is a chord of 2.49
    assert whole.mean() > 0.4 and speed.max() <= 3.5 + 1e-9
    angle = np.arctan2(*steps[whole].T[::-1])
    for harmonic in (1, 2):
        # The mean of n unit vectors of uniform direction has length 1 / sqrt(n); four times that is rarer than 1e-6.
        assert abs(np.exp(1j * harmonic * angle).mean()) < 4 / np.sqrt(whole.sum())


def test_ten_steps_of_a_long_motion_tell_it():
    tracks = {motion: long_tracks(motion, 200, 11) for motion in LONG}
    turns = {}
    for motion, track in tracks.items():
        steps = np.diff(track, axis=1)
        one, other = steps[:, :-1], steps[:, 1:]
        cross = one[..., 0] * other[..., 1] - one[..., 1] * other[..., 0]
        turns[motion] = (cross, (one * other).sum(axis=-1))
    # A loop turns the same way at every step, by speed / radius: 0.31 to 0.44.
    angles = np.abs(np.arctan2(*turns["loop"]))
    assert angles.min() > 0.3 and angles.max() < 0.45
    assert (np.ptp(np.sign(turns["loop"][0]), axis=1) == 0).all()
    # A shake never leaves its line and turns back at least twice in ten steps.
    assert np.abs(turns["shake"][0]).max() < 1e-9
    assert ((np.diff(np.sign((np.diff(tracks["shake"], axis=1))[..., 0]), axis=1) != 0).sum(axis=1) >= 2).all()
    # A drift goes straight on for most of its steps.
    assert np.median(np.abs(turns["drift"][0])) < 1e-9


def test_the_camera_pans_each_video_by_a_velocity_of_its_own(tmp_path):
    settings = {"seed": 0, "videos_per_class": (1, 1), "num_frames": 6, "motions": ("swing", "loop")}
    still = synthetic.render(tmp_path / "still", **settings)
    listing = synthetic.render(tmp_path / "pan", **settings, camera_pan_px=4.0)
    rows = list(csv.DictReader(listing.open()))
    assert {row["label"] for row in rows} == {f"{c}-{m}" for c in synthetic.COLOURS for m in ("swing", "loop")}
    pans = []
    for row in rows:
        flow = np.median(own_flow(read(listing.parent / row["path"])), axis=(1, 2))  # [F - 1, 2], of the background
        assert np.abs(flow).max() < 4.3 and np.ptp(flow, axis=0).max() < 0.5  # constant in time
        pans.append(flow.mean(axis=0))
        standing = np.median(own_flow(read(still.parent / row["path"])), axis=(1, 2))
        assert np.abs(standing).max() < 0.2
    assert np.std(pans, axis=0).min() > 1.0  # uniform within +-4 px has 2.3


def own_flow(frames: np.ndarray) -> np.ndarray:
    """Return DIS flow [F - 1, H, W, 2] of one video, means kept."""
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in frames]
    return np.stack([dis.calc(one, other, None) for one, other in itertools.pairwise(grey)])


def test_a_pan_moves_whole_pixels_round_and_fractions_between():
    picture = np.arange(24, dtype=float).reshape(4, 6, 1)
    assert np.array_equal(synthetic._panned(picture, np.array([2.0, -1.0])), np.roll(picture, (-1, 2), axis=(0, 1)))
    halfway = synthetic._panned(picture, np.array([0.5, 0.0]))
    assert np.allclose(halfway, (picture + np.roll(picture, 1, axis=1)) / 2)


def test_the_embedded_set_is_what_it_was():
    """Pixels before MJPG of one video, which the demo's numbers in README.md hang on."""
    scene = synthetic._scene(np.random.default_rng([0, 0]), (64, 80))
    frames = synthetic._frames(np.random.default_rng([0, 0, 4]), scene, "green-bob", 24)
    again = synthetic._frames(np.random.default_rng([0, 0, 4]), scene, "green-bob", 24, 0.0)
    assert np.array_equal(frames, again)
    assert [int(frames[f][y, x, c]) for f, y, x, c in SAMPLED] == PIXELS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"motions": ("swing", "fly")}, r"data\.motions=swing,fly: choose of swing, bob, slant, drift"),
        ({"motions": ()}, r"data\.motions=: choose of"),
        ({"motions": ("bob", "bob")}, r"data\.motions=bob,bob: choose of .* each once"),
        ({"camera_pan_px": -1.0}, r"data\.camera_pan_px=-1.0: must be px per frame, at least 0"),
    ],
)
def test_unknown_variants_are_refused(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        synthetic.render(tmp_path, seed=0, **change)
    assert not list(tmp_path.iterdir())
