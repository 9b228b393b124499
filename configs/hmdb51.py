"""Temporal stream of the 2014 paper on HMDB-51 (Sect. 3 and 5; Table 2, "without additional data").

Expected: 46.6 % on HMDB-51 split 1 (25x10), trained from scratch with dropout 0.9.
Cost: 80,000 steps of 256 stacks, 3.44 TFLOP a step; a day on the paper's four Titans.
Command: python run.py --config=configs/hmdb51.py
Records first: python run.py --mode=prepare --config=configs/hmdb51.py
"""

from configs import base


def get_config():
    """Return the paper's temporal net and recipe on HMDB-51; the defaults of `base` are these."""
    config = base.get_config()
    config.data.kind = "hmdb51"
    config.data.videos = "data/HMDB-51"
    config.data.splits = "data/testTrainMulti_7030_splits"
    config.data.records = "records/hmdb51"
    return config
