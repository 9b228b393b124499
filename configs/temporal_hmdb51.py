"""Temporal stream on HMDB-51 from scratch (2014 paper, Table 2, "training on HMDB-51 without additional data").

Expected: 46.6 % on HMDB-51 split 1 (25x10).
Cost: 80,000 steps of 256 stacks, 3.44 TFLOP a step.
Command: python run.py --config=configs/temporal_hmdb51.py
Records first: python run.py --mode=prepare --config=configs/temporal_hmdb51.py
"""

from configs import base


def get_config():
    """Return the temporal recipe, which is the same for all data sets (Sect. 5), on HMDB-51."""
    config = base.get_config()
    config.data.kind = "hmdb51"
    config.data.videos = "data/HMDB-51"
    config.data.splits = "data/hmdb51_splits"
    config.data.records = "records/hmdb51"
    return config
