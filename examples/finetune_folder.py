"""Fine-tune on your own images: python examples/finetune_folder.py FOLDER WORKDIR [WEIGHTS [STEPS]]

FOLDER holds photo.jpg with photo_depth.npy (metres) and so on, and the camera in dataset.json
(docs/data-sets.md, "A folder of your own"). Make its coarse maps first, for example with
`urgt priors --data folder FOLDER --degrade middle`. Run the same command again to resume.
"""

import sys

import jax

import urgt_jax
from urgt_jax.config_files import with_changes


def main(folder: str, workdir: str, weights: str = "scenes", steps: str = "200") -> None:
    """Train the model further, and print its loss on one batch before and after."""
    refiner = urgt_jax.load(weights)
    changes = {
        "init": weights,
        "data.source": "folder",
        "data.path": folder,
        "data.train_split": "train",
        "loss.normal_target": "pseudo",  # computed from the true depth
        "optim.steps": int(steps),
        "optim.learning_rate": 1e-4,
        "optim.ema_decay": 0.0,  # an average over so few steps would hardly differ from the start
        "train.log_every": 10,
        "train.save_every": 100,
    }
    config = with_changes(refiner.config, changes)
    batch = next(urgt_jax.batches(config, urgt_jax.make_mesh(config)))

    @jax.jit
    def loss(params: dict, batch: urgt_jax.TrainingBatch) -> jax.Array:
        maps = urgt_jax.apply(params, config.model, batch)
        total, _ = urgt_jax.losses(config, maps, batch)
        return total

    before = loss(refiner.params, batch)
    urgt_jax.train(config, workdir, report=print)
    after = loss(urgt_jax.load(workdir).params, batch)
    print(f"loss of the first batch: {before:.4f} before, {after:.4f} after")


if __name__ == "__main__":
    main(*sys.argv[1:])
