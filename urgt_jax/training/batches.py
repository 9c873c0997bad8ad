"""The batches of training on the devices."""

from collections.abc import Callable, Iterator

from jax.sharding import Mesh

from urgt_jax.config import Config
from urgt_jax.data import pipeline
from urgt_jax.data.sources import PriorSource, open_training_source
from urgt_jax.distributed import ignore_line
from urgt_jax.training import sharding
from urgt_jax.training.losses import TrainingBatch


def batches(
    config: Config,
    mesh: Mesh,
    start: int = 0,
    report: Callable[[str], None] = ignore_line,
    source: PriorSource | None = None,
) -> Iterator[TrainingBatch]:
    """The batches of the steps from `start` to `optim.steps`, on the devices of the mesh.

    `report` gets a line about each image that cannot be read. A UserError if there are more than
    `data.max_unreadable` of them. `source` is the data set, if it is open already.
    """
    if source is None:
        source = open_training_source(config)
    index, count = sharding.process_share(mesh)
    unreadable = pipeline.UnreadableImages(config, source)
    for batch in pipeline.batch_iterator(config, start, index, count, source):
        for line in unreadable.report(batch):
            report(line)
        yield sharding.put_on_mesh(batch, mesh)
