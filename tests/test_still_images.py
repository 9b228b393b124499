"""Pictures of every kind as 8-bit RGB frames, compared with Pillow's reading of the same files."""

from __future__ import annotations

import dataclasses
import io
import os

import cv2
import numpy as np
import pytest
from test_datasets import section, touch
from tiny_clips import SETTINGS, hashes, run, write_clip

from input_pipeline import codecs
from input_pipeline.datasets import list_videos
from input_pipeline.estimate import estimate
from input_pipeline.schema import UserError
from input_pipeline.still_images import StillImage, stored_pictures
from input_pipeline.store import Records
from input_pipeline.video_list import check_still

pillow = pytest.importorskip("PIL.Image", reason="Pillow writes the pictures")
STILL = dataclasses.replace(SETTINGS, method="none")


def picture(height=60, width=80, seed=0) -> np.ndarray:
    """A smooth picture in which every channel differs, uint8 RGB."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def encoded(image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def frame(content: bytes, short_side=60) -> np.ndarray:
    (only,) = stored_pictures([content], short_side, "x.jpg")
    assert only.dtype == np.uint8
    return only


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "L", "P", "1"])
def test_png_modes_are_rgb(mode):
    image = pillow.fromarray(picture()).convert(mode)
    # Pillow drops the alpha channel too; grey and palette colours are exact.
    np.testing.assert_array_equal(frame(encoded(image, "PNG")), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(("kind", "options"), [("BMP", {}), ("PPM", {}), ("WEBP", {"lossless": True})])
def test_other_formats_are_exact(kind, options):
    np.testing.assert_array_equal(frame(encoded(pillow.fromarray(picture()), kind, **options)), picture())


def test_transparent_pixels_keep_their_colour():
    rgba = np.dstack([picture(), np.zeros((60, 80), np.uint8)])
    np.testing.assert_array_equal(frame(encoded(pillow.fromarray(rgba), "PNG")), picture())


def test_16_bits_keep_their_upper_8():
    levels = np.arange(60 * 80, dtype=np.uint16).reshape(60, 80) * 13
    wanted = np.repeat((levels >> 8).astype(np.uint8)[..., None], 3, axis=2)
    # OpenCV and libpng may round instead of cut.
    error = frame(encoded(pillow.fromarray(levels), "PNG")).astype(int) - wanted
    assert set(np.unique(error)) <= {0, 1}


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_modes_are_rgb(mode):
    image = pillow.fromarray(picture()).convert(mode)
    jpeg = encoded(image, "JPEG", quality=95)
    error = np.abs(frame(jpeg).astype(int) - np.asarray(pillow.open(io.BytesIO(jpeg)).convert("RGB")))
    # CMYK inks become RGB by c k / 255 in both, rounded in different places.
    assert error.max() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_obeyed(orientation):
    from PIL import ImageOps

    exif = pillow.Exif()
    exif[0x0112] = orientation
    jpeg = encoded(pillow.fromarray(picture()), "JPEG", quality=95, exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(pillow.open(io.BytesIO(jpeg))).convert("RGB"))
    assert upright.shape == ((80, 60, 3) if orientation > 4 else (60, 80, 3))
    assert np.abs(frame(jpeg).astype(int) - upright).max() <= 2


def test_pictures_are_resized_as_frames_are():
    assert frame(encoded(pillow.fromarray(picture(90, 121)), "PNG"), 45).shape == (45, 60, 3)
    # Of several all take the first one's size.
    contents = [encoded(pillow.fromarray(picture(*size)), "PNG") for size in ((40, 60), (90, 30))]
    assert [each.shape for each in stored_pictures(contents, 20, "x")] == [(20, 30, 3)] * 2


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP", "PPM"])
@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_cut_pictures_are_refused(kind, share, capfd):
    whole = encoded(pillow.fromarray(picture()), kind)
    with pytest.raises(UserError, match=r"^x\.jpg: the picture cannot be decoded \(\d+ bytes\)$"):
        frame(whole[: int(share * len(whole))])
    assert capfd.readouterr().err == ""


def test_other_refusals(tmp_path):
    with pytest.raises(UserError, match=r"^y: picture 1 of 2 cannot be decoded \(4 bytes\)$"):
        list(stored_pictures([encoded(pillow.fromarray(picture()), "PNG"), b"text"], 20, "y"))
    strip = encoded(pillow.fromarray(np.zeros((2, 3000, 3), np.uint8)), "PNG")
    with pytest.raises(UserError, match=r"^x\.jpg: 3000x2 px would be stored 90000 px long, more than 65500$"):
        frame(strip)
    with pytest.raises(UserError, match=r"none\.jpg: cannot be read \(No such file or directory\)$"):
        list(StillImage(tmp_path / "none.jpg").frames(20))


def test_flow_of_still_images_is_refused(tmp_path):
    listed = list_videos(section("folder", videos=str(touch(tmp_path / "pets", "cat/1.jpg"))))
    with pytest.raises(UserError, match=r"^flow\.method=tvl1: pets holds still images, which have no flow; set flow\."):
        check_still(listed, "tvl1")
    check_still(listed, "none")


def test_a_folder_of_images_becomes_records(tmp_path):
    pets = tmp_path / "pets"
    wanted = {}
    for number, name in enumerate(("cat/0", "cat/1", "dog/2")):
        wanted[name] = picture(seed=number)
        touch(pets, f"{name}.png").joinpath(f"{name}.png").write_bytes(encoded(pillow.fromarray(wanted[name]), "PNG"))
    touch(pets, "dog/bad.jpg").joinpath("dog/bad.jpg").write_bytes(b"no picture")
    listed = list_videos(section("folder", videos=str(pets)))
    cost = estimate(listed, STILL)
    assert (cost.videos, cost.frames, cost.pairs) == (4, 4, 0) and cost.gigabytes > 0
    dataset = run(listed, tmp_path / "r", STILL, short_side=60, processes=2)
    assert (dataset.streams, dataset.counts["frames"], dataset.counts["quarantined"]) == (("rgb",), 3, 1)
    assert '"reason": "the picture cannot be decoded (10 bytes)"' in (tmp_path / "r" / "quarantine.jsonl").read_text()
    records = Records(tmp_path / "r")
    for position, video in enumerate(records.videos):
        np.testing.assert_array_equal(
            records.frames(position, [0])[0], codecs.decode_frame(codecs.encode_frame(wanted[video.name]))
        )


# --- names, to the end --------------------------------------------------------------------------------------------


def test_nothing_is_written_outside_the_records_folder(tmp_path):
    names = ["-rf", "a b", "x..", "日本　語", "%s{0}$HOME", "`touch y`", "a'b\"c", "*", "C:\\x", "~root", "x" * 240]
    names += ["Cafe\u0301", "UPPER", "upper", "nul", "a;b|c&d", "#1"]
    classes = ["-v", "b..", "~", "$(c)", "d e"]
    clip = write_clip(tmp_path / "clip.avi", frames=2)
    for i, name in enumerate(names):
        target = tmp_path / "around" / "videos" / classes[i % len(classes)] / f"{name}.avi"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(clip.read_bytes())
    (tmp_path / "around" / "elsewhere").mkdir()
    os.link(clip, tmp_path / "around" / "elsewhere" / "linked.avi")
    (tmp_path / "around" / "videos" / "-v" / "link.avi").symlink_to(tmp_path / "around" / "elsewhere" / "linked.avi")

    before = hashes(tmp_path / "around")
    listed = list_videos(section("folder", videos=str(tmp_path / "around" / "videos")))
    dataset = run(listed, tmp_path / "around" / "records", processes=2)
    assert dataset.counts["videos"] == len(names) + 1
    after = hashes(tmp_path / "around")
    assert {name: value for name, value in after.items() if not name.startswith("records/")} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["around", "clip.avi"]
    kept = {name.split("/")[1] for name in after if name.startswith("records/")}
    assert kept == {"dataset.json", "quarantine.jsonl", "rgb", "flow"}


def test_a_header_that_claims_an_enormous_picture_is_not_believed(tmp_path):
    content = cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1]
    content = bytearray(content.tobytes())
    place = content.index(b"\xff\xc0")
    content[place + 5 : place + 9] = (30_000).to_bytes(2, "big") * 2
    (tmp_path / "big.jpg").write_bytes(content)
    with pytest.raises(UserError, match=r"big\.jpg: claims 30000x30000 px, more than 35,651,584 px"):
        list(StillImage(tmp_path / "big.jpg").frames(64))
