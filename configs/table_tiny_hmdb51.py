"""The embedded set in HMDB-51's place: other videos than configs/table_tiny.py has, and all classes but one others.

Expected: see table.md. Cost: minutes on two CPU cores.
Command: python run.py --mode=table --table=2014-2 --config.table.scale=tiny
"""

from configs import table_tiny


def get_config():
    """Return six classes of the motions swing, bob, slant and loop; red-swing is in both sets, as fencing is in both."""
    config = table_tiny.get_config()
    config.data.seed = 1
    config.data.motions = ("swing", "bob", "slant", "loop")
    config.data.classes = ("red-swing", "red-bob", "green-bob", "green-slant", "blue-slant", "blue-loop")
    return config
