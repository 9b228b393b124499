"""Temporal stream on flow in both directions (2014 paper, Sect. 3.1; Table 1b, "L = 10, bi-dir.", mean subtraction on).

Expected: 81.2 % on UCF-101 split 1 (25x10), trained from scratch with dropout 0.9.
Cost: that of configs/temporal.py; its records take twice the time and space, since flow is computed both ways.
Command: python run.py --config=configs/bidirectional.py
Records first: python run.py --mode=prepare --config=configs/bidirectional.py
"""

from configs import temporal


def get_config():
    """Return the temporal net's config with 5 forward and 5 backward fields a stack, and records of its own."""
    config = temporal.get_config()
    config.flow.backward = True
    config.input.bidirectional = True
    config.data.records = "records/ucf101_both_ways"
    return config
