"""Temporal stream without mean subtraction (2014 paper, Table 1b, "optical flow stacking, L = 10", mean subtraction off).

Expected: 79.9 % on UCF-101 split 1 (25x10), against 81.0 % with it.
Cost: 80,000 steps of 256 stacks, 3.44 TFLOP a step, on the records of configs/temporal.py.
Command: python run.py --config=configs/temporal_means_kept.py
"""

from configs import temporal


def get_config():
    """Return the temporal recipe on the fields as they are, the camera's motion in them."""
    config = temporal.get_config()
    config.input.mean_subtraction = False
    return config
