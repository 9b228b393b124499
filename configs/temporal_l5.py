"""Temporal stream on stacks of five flow fields (2014 paper, Table 1b, "optical flow stacking, L = 5").

Expected: 80.4 % on UCF-101 split 1 (25x10).
Cost: 80,000 steps of 256 stacks, 2.87 TFLOP a step, on the records of configs/temporal.py.
Command: python run.py --config=configs/temporal_l5.py
"""

from configs import temporal


def get_config():
    """Return the temporal recipe with a stack of five fields."""
    config = temporal.get_config()
    config.input.stack = 5
    return config
