"""Temporal stream of the 2014 paper (Sect. 3 and 5; Table 1b, "optical flow stacking, L = 10", mean subtraction on).

Expected: 81.0 % on UCF-101 split 1 (25x10), trained from scratch with dropout 0.9.
Cost: 80,000 steps of 256 stacks, 3.44 TFLOP a step; a day on the paper's four Titans.
Command: python run.py --config=configs/temporal.py
Records first: python run.py --mode=prepare --config=configs/temporal.py
"""

from configs import base


def get_config():
    """Return the paper's temporal net and recipe; the defaults of `base` are these."""
    config = base.get_config()
    config.data.kind = "ucf101"
    config.data.videos = "data/UCF-101"
    config.data.splits = "data/ucfTrainTestlist"
    config.data.records = "records/ucf101"
    return config
