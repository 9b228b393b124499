"""Temporal stream on a single flow field (2014 paper, Table 1b, "single-frame optical flow, L = 1", mean subtraction on).

Expected: 73.9 % on UCF-101 split 1 (25x10).
Cost: 80,000 steps of 256 fields, 2.41 TFLOP a step, on the records of configs/temporal.py.
Command: python run.py --config=configs/temporal_l1.py
"""

from configs import temporal


def get_config():
    """Return the temporal recipe with a stack of one field."""
    config = temporal.get_config()
    config.input.stack = 1
    return config
