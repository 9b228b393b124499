"""Spatial stream of the 2014 paper, from scratch (Sect. 2 and 5; Table 1a, "from scratch", dropout 0.9).

Expected: 52.3 % on UCF-101 split 1 (25x10).
Cost: 80,000 steps of 256 frames, 2.47 TFLOP a step.
Command: python run.py --config=configs/spatial.py
Records first: python run.py --mode=prepare --config=configs/spatial.py
"""

from configs import base


def get_config():
    """Return the paper's spatial net and recipe: one RGB frame, 224 px crops of the whole frame, PCA lighting."""
    config = base.get_config()
    config.data.kind = "ucf101"
    config.data.videos = "data/UCF-101"
    config.data.splits = "data/ucfTrainTestlist"
    config.data.records = "records/ucf101"
    config.model.name = "cnn_m_spatial"
    config.input.streams = ("rgb",)
    return config
