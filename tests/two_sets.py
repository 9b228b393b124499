"""Two small synthetic data sets with other classes each, and a config that trains them together."""

from configs import base
from input_pipeline import synthetic
from twostream_jax.drivers.prepare import prepare_records


def prepare_other(folder, config):
    """Return the records of six classes of the motions drift and loop, made as those of `config`; 3 videos each."""
    videos = folder / "other"
    sizes = {"videos_per_class": (2, 1), "size": (48, 60), "num_frames": 10}
    own = config.copy_and_resolve_references()
    own.data.split_file = str(synthetic.render(videos, seed=4, motions=("drift", "loop"), **sizes))
    own.data.records = str(folder / "other_records")
    prepare_records(own)
    return own.data.records


def together(config, other_records, *, share=1.0):
    """Return the config with two tasks: `first` its own nine classes, `second` the six others of all splits."""
    config = config.copy_and_resolve_references()
    config.tasks.first = base.task(config.data.records, split=1, share=3.0)
    config.tasks.second = base.task(str(other_records), split=0, share=share)
    config.data.records = ""
    return config
