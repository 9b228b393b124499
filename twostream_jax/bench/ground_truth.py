"""Frame pairs to measure flow on: five whose true flow is known, and neighbours in real clips; errors of a field on them.

Fields are float32 [H, W, 2] in px, x right, y down, from the first frame to the second; frames are grey, uint8 [H, W].
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from input_pipeline.opencv_flow import grey
from input_pipeline.schema import UserError
from input_pipeline.videos import read_video

# Under the folder of the real data: first frame, second frame, true flow. RubberWhale is Middlebury's, the others are
# rendered ones of FlyingChairs with motions up to 78 px.
TRUTHS = {"rubberwhale": tuple(f"flow/rubberwhale/{name}" for name in ("frame10.png", "frame11.png", "flow10.flo"))} | {
    f"flyingchairs {i}": tuple(f"flow/flyingchairs/{i:07d}-{name}" for name in ("img0.ppm", "img1.ppm", "gt.flo"))
    for i in range(4)
}
# Eight clips of one shape (4:3), so that their pairs make one batch: moving and still cameras, fast and slow motion.
CLIPS = (
    "ucf101/BalanceBeam/v_BalanceBeam_g13_c05.avi",
    "ucf101/JavelinThrow/v_JavelinThrow_g05_c05.avi",
    "ucf101/Rowing/v_Rowing_g24_c01.avi",
    "ucf101/PlayingCello/v_PlayingCello_g02_c03.avi",
    "hmdb51/wave/SchoolRulesHowTheyHelpUs_wave_f_nm_np1_ba_med_0.avi",
    "hmdb51/cartwheel/Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.avi",
    "fight/fight/fi018.mp4",
    "fight/noFight/nofi001.mp4",
)
# A .flo file begins with this float32, then width and height, int32; components from here on are unknown (Middlebury).
_FLO_MAGIC, _UNKNOWN = 202021.25, 1e9


class Truth(NamedTuple):
    """A pair of frames whose flow is known."""

    name: str
    first: np.ndarray
    second: np.ndarray
    flow: np.ndarray


def data_folder() -> Path:
    """Return the folder of the real data; UserError where a file that the bench reads is not there."""
    root = Path(os.environ.get("TWOSTREAM_TEST_DATA", "../shared/data")).resolve()
    for name in (*CLIPS, *(name for names in TRUTHS.values() for name in names)):
        if not (root / name).is_file():
            raise UserError(
                f"TWOSTREAM_TEST_DATA: there is no {root / name}; set it to the folder with the real clips and the flow "
                "pairs that bench=flow measures on"
            )
    return root


def read_truths(root: Path) -> list[Truth]:
    """Return the pairs with known flow."""
    return [
        Truth(name, *(_read_grey(root / path) for path in (first, second)), read_flo(root / flow))
        for name, (first, second, flow) in TRUTHS.items()
    ]


def read_clips(root: Path, short_side: int, pairs: int) -> np.ndarray:
    """Return grey frames, uint8 [clips, pairs + 1, H, W], neighbours from the middle of each clip, as they are stored."""
    frames = []
    for name in CLIPS:
        own = grey(read_video(root / name, short_side))
        first = max(0, (len(own) - pairs) // 2)
        frames.append(own[first : first + pairs + 1])
    assert len({own.shape for own in frames}) == 1, [own.shape for own in frames]
    return np.stack(frames)


def read_flo(path: Path) -> np.ndarray:
    """Return a Middlebury .flo file's field; what is unknown is NaN. UserError where it is none, or breaks off."""
    raw = np.fromfile(path, "<f4")
    if len(raw) < 3 or raw[0] != np.float32(_FLO_MAGIC):
        raise UserError(f"{path}: is no .flo file of optical flow")
    width, height = (int(n) for n in raw[1:3].view("<i4"))
    if len(raw) != 3 + 2 * width * height:
        raise UserError(f"{path}: has {len(raw) - 3} numbers where {width}x{height} px need {2 * width * height}")
    field = raw[3:].reshape(height, width, 2).astype(np.float32)
    field[~(np.abs(field) < _UNKNOWN).all(axis=-1)] = np.nan
    return field


def _read_grey(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise UserError(f"{path}: cannot be read as a picture")
    return image


def end_point_error(field: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean distance of the vectors' ends, px, over the known ones."""
    return float(np.nanmean(np.linalg.norm(field.astype(np.float64) - truth, axis=-1)))


def angular_error(field: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean angle in degrees between (u, v, 1) of both over the known vectors (Barron et al., IJCV 1994)."""
    field, truth = field.astype(np.float64), truth.astype(np.float64)
    lengths = np.sqrt(1 + (field**2).sum(axis=-1)) * np.sqrt(1 + (truth**2).sum(axis=-1))
    cosine = (1 + (field * truth).sum(axis=-1)) / lengths
    return float(np.nanmean(np.degrees(np.arccos(np.minimum(cosine, 1)))))


def residual(first: np.ndarray, second: np.ndarray, field: np.ndarray) -> float:
    """Return the mean |second(x + field) - first(x)| in grey levels, the second frame read bicubically."""
    y, x = np.mgrid[: first.shape[0], : first.shape[1]]
    there = (x + field[..., 0]).astype(np.float32), (y + field[..., 1]).astype(np.float32)
    read = cv2.remap(second.astype(np.float32), *there, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return float(np.abs(read - first).mean())
