"""Every default with its unit. An experiment's file imports this and sets only what differs."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return the defaults of every section; the recipe is the 2014 paper's (Sect. 3 and 5) where it states one."""
    config = ConfigDict()
    config.seed = 0

    config.data = ConfigDict(
        {
            "kind": "folder",  # ucf101 | hmdb51 | csv | folder | jpeg_folders | records | tfds | synthetic
            # Folder of the video files; csv: what its paths are relative to, empty for the CSV's own folder; tfds: the
            # version folder, such as tensorflow_datasets/ucf101/ucf101_1/2.0.0; records: a folder that prepare wrote, whose
            # flow is to be stored as data.codec=dct
            "videos": "",
            "frames": "",  # jpeg_folders: folder of the RGB frames where they lie apart from the flow; empty: in data.videos
            "jpeg_bound_px": 0.0,  # jpeg_folders: px per frame that level 255 of the flow stands for; 0: not stated
            "spare_field": "",  # jpeg_folders: field to leave out where there are as many as frames: '' | first | last
            "splits": "",  # ucf101, hmdb51, jpeg_folders: folder of the official lists
            "split_file": "",  # csv, jpeg_folders: file with columns path, label, split (or split1, split2, ...) and group
            "group_column": "group",  # csv: column whose values name the source of a clip; absent: each clip its own
            "classes": (),  # keep only these classes, by name; () keeps all
            "motions": ("swing", "bob", "slant"),  # synthetic: of swing, bob, slant, drift, loop, shake
            "camera_pan_px": 0.0,  # synthetic: px per frame, at most, by which each video's picture moves on in x and in y
            "allow_missing": False,  # go on when listed videos are absent
            "records": "",  # folder that prepare writes and the other modes read
            "short_side": 256,  # px of the smallest side as stored; jpeg_folders are taken over at the size they have
            "codec": "jpeg",  # how prepare stores flow: jpeg | dct (coefficients: read in a fifth of the CPU time)
            # dct: how many of a block's 64 coefficients are kept, lowest frequencies first; what is taken over keeps all
            "dct_planes": 64,
            "max_bad_fraction": 0.1,  # share of videos that may be set aside before prepare stops
            "prepare_processes": 0,  # worker processes of prepare; 0: one a core
            "split": 1,  # which split (or fold) to train and test on, from 1; 0, in mode demo only: each in turn
            "folds": 0,  # K > 1: K folds over whole groups instead of the stored splits
            "validation_fraction": 0.0,  # share of the training groups held out to choose the best checkpoint
            "seed": 0,  # of folds and held-out groups, apart from `seed` so that runs of several seeds share them
            "num_threads": 0,  # threads that read and decode; 0: one more than the cores, for DCT records one
            "num_workers": 0,  # processes that read instead of threads, for many cores (Linux); 0: threads
        }
    )

    config.flow = ConfigDict(
        {
            # jax_tvl1 | jax_brox (on the accelerator or, without one, on the CPU), tvl1 | dis | farneback | deepflow
            # (OpenCV's, on the CPU), none, or auto: that of the records where there are some, else jax_tvl1
            "method": "auto",
            "bound_px": 20.0,  # px per frame that the stored range spans to each side, or 'video': each video's own largest
            "backward": False,  # also store the flow from each frame to the one before
            # warped flow: to the next frame as it would be had the camera not moved (improved trajectories, ICCV 2013)
            "camera_compensation": False,
        }
    )

    config.input = ConfigDict(
        {
            "streams": ("flow",),  # ('rgb',) or ('flow',)
            "clip_frames": 1,  # T, consecutive frames a sample; above 1 for slow_fusion only (11 in 2014, Sect. 6)
            "stack": 10,  # L, fields a stack (2014 eq. 1)
            "stacking": "flow",  # flow: at the same pixel in each field (eq. 1) | trajectory: along its path (eq. 2)
            # L/2 forward fields after the anchor frame and L/2 backward ones before it; L even; needs flow.backward=True
            "bidirectional": False,
            "flow_offset": 0,  # offset of the stack's first field from its anchor frame; 0 in 2014, -L/2 centres it
            "mean_subtraction": True,  # subtract each whole field's mean vector (2014 Sect. 3.1)
            "crop": 224,  # px of the square crop
            "flip": True,  # mirror half of the training samples
            "lighting": 0.1,  # standard deviation of PCA RGB jitter on [0, 1] RGB; 0 turns it off
        }
    )

    config.model = ConfigDict(
        {
            "name": "cnn_m_temporal",  # cnn_m_spatial | cnn_m_temporal | slow_fusion
            "width": 1.0,  # multiplier of every layer's channels
            "dropout": 0.9,  # share of full6 and full7 that is dropped
            "init": "he",  # he: variance-scaled; caffe: Gaussian(0, 0.01), which wants inputs of +-120
        }
    )

    config.init = ConfigDict(
        {
            # Weights that a run begins with, read once: a workdir of ours (its last checkpoint), DIR/checkpoints/STEP, or
            # Oxford's CNN-M-2048 as .caffemodel or MatConvNet .mat; empty: drawn as model.init says
            "from": "",
            # Layers that stay as they begin, by name, with * for any letters: ('conv*', 'full6', 'full7') trains full8 alone
            "freeze": (),
        }
    )

    config.optim = ConfigDict(
        {
            "learning_rate": 1e-2,
            "drops": (50_000, 70_000),  # steps at which the rate is multiplied by drop_factor
            "drop_factor": 0.1,
            "warmup_steps": 0,  # steps over which the rate rises linearly to its value; the paper has none
            "momentum": 0.9,
            "weight_decay": 5e-4,  # ref. [15] of the 2014 paper; on kernels only
        }
    )

    config.train = ConfigDict(
        {
            "batch_size": 256,  # global, over all devices and processes
            "steps": 80_000,
            "checkpoint_every": 1_000,  # steps; the latest two are kept, and the best on the validation groups
            "log_every": 20,  # steps a line of metrics.jsonl averages
            "accumulate": 1,  # parts a batch is computed in, one after the other, for devices too small for the whole
            "dtype": "float32",  # of the computation, float32 | bfloat16; parameters are float32
            # True: the same run gives the same bits on a GPU too, where it is slower. CPUs and TPUs need nothing for that
            "deterministic": False,
            # 'START:STOP' traces these steps, from 1, both included, into profile/ of the workdir; '' traces none. Step 1
            # holds the compilation.
            "profile": "",
        }
    )

    config.eval = ConfigDict(
        {
            "frames": 25,  # positions a video, evenly spread
            "crops": 10,  # 10: four corners and centre, mirrored; 1: the centre
            "subset": "test",  # train | validation | test
            "checkpoint": "last",  # last | best | a step's number; mode eval also takes several, as '1000,2000,last'
            "validation_frames": 5,  # positions a validation video, centre crop, when a checkpoint is rated
            "batch_size": 25,  # stacks a batch, before the crops; rounded up to divide over the devices
        }
    )

    # Several data sets trained together on one trunk, a softmax head each (2014 Sect. 4): name -> task(...). Each name
    # is that of its data set. Empty: the one of `data`.
    config.tasks = ConfigDict()

    config.table = ConfigDict(
        {
            "scale": "full",  # full: the paper's sizes and schedules | tiny: twostream_jax/drivers/toy_size.py
            "seeds": 1,  # runs of each net, with seeds `seed`, `seed` + 1, ...
            "hmdb51": "",  # config file of the data set in HMDB-51's place; `data` is the one in UCF-101's
            # What stands for ImageNet: weights for init.from (.caffemodel, .mat, a run's folder), or the config file of
            # a spatial net that the table trains first
            "imagenet": "",
        }
    )
    config.lock()  # a mistyped key in an experiment's file raises
    config.tasks.unlock()
    return config


def task(
    records: str, *, split: int = 1, folds: int = 0, share: float = 1.0, classes: tuple[str, ...] = ()
) -> ConfigDict:
    """Return an entry of `config.tasks`; its keys are those of `data`, which a config with tasks does not read them from.

    `split` = 0 trains on all splits together and tests on none. `share` is the task's part of each batch, relative to the
    others'.
    """
    return ConfigDict({"records": records, "split": split, "folds": folds, "share": share, "classes": classes})
