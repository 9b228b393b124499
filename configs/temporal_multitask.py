"""The temporal net on UCF-101 and HMDB-51 together, a softmax head each (2014 Sect. 4 and 6, row 3 of Table 3).

Section: 4, Multi-task learning; 6. UCF-101's split 1 is tested, HMDB-51's splits are trained on together.
Expected: 81.5 % on UCF-101 split 1 (25x10), against 81.0 % without HMDB-51.
Cost: that of configs/temporal.py: 80,000 steps of 256 stacks, half of them of either data set.
Command: python run.py --config=configs/temporal_multitask.py, after --mode=prepare with configs/temporal.py and
configs/temporal_hmdb51.py
"""

from configs import base, temporal


def get_config():
    """Return the temporal net's recipe on both data sets; the paper does not say how its batches are mixed."""
    config = temporal.get_config()
    config.tasks.ucf101 = base.task("records/ucf101", split=1, share=0.5)
    config.tasks.hmdb51 = base.task("records/hmdb51", split=0, share=0.5)
    return config
