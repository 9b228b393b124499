"""The temporal net on HMDB-51 and UCF-101 together, tested on HMDB-51 (2014 Sect. 4, last row of Table 2).

Section: 4, Multi-task learning; Table 2. HMDB-51's split 1 is tested, UCF-101's splits are trained on together.
Expected: 55.4 % on HMDB-51 split 1 (25x10), against 46.6 % without UCF-101.
Cost: that of configs/temporal.py: 80,000 steps of 256 stacks, half of them of either data set.
Command: python run.py --config=configs/temporal_multitask_hmdb51.py, after --mode=prepare with configs/temporal.py and
configs/temporal_hmdb51.py
"""

from configs import temporal_multitask


def get_config():
    """Return configs/temporal_multitask.py with the other data set tested."""
    config = temporal_multitask.get_config()
    config.tasks.ucf101.split, config.tasks.hmdb51.split = 0, 1
    return config
