"""The mesh of devices and the rules that say how arrays lie on it; model code knows neither."""

import re

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from urgt_jax.config import Config, require

# First match wins, from the path of a parameter to how it is cut. Parameters are whole everywhere.
RULES: tuple[tuple[str, PartitionSpec], ...] = ((r".*", PartitionSpec()),)


def mesh_of(config: Config) -> Mesh:
    """The devices that share the images of a batch."""
    devices = jax.devices()
    count = config.mesh.data or len(devices)
    require(count <= len(devices), f"mesh.data {count} is more than the {len(devices)} devices")
    require(
        all(config.data.images(m) % count == 0 for m in (1, 2, 3, 4) if config.data.mix[m - 1]),
        f"data.batch {config.data.batch} does not divide among {count} devices: "
        "change data.batch or mesh.data",
    )
    return Mesh(np.array(devices[:count]), ("data",), axis_types=(AxisType.Auto,))


def images(mesh: Mesh) -> NamedSharding:
    """Cut along the first axis, the images of a batch."""
    return NamedSharding(mesh, PartitionSpec("data"))


def table(tree, rules=RULES) -> dict[str, PartitionSpec]:
    """The rule that each leaf's path falls under; a rule without a leaf is an error."""
    found, used = {}, set()
    for path, _ in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        number = next(i for i, (pattern, _) in enumerate(rules) if re.search(pattern, name))
        found[name] = rules[number][1]
        used.add(number)
    idle = [rules[i][0] for i in range(len(rules)) if i not in used]
    require(not idle, f"sharding rules without a parameter: {', '.join(idle)}")
    return found


def parameters(tree, mesh: Mesh):
    """The sharding of every leaf, in the shape of the tree."""
    specs = table(tree).values()
    shardings = [NamedSharding(mesh, spec) for spec in specs]
    return jax.tree.unflatten(jax.tree.structure(tree), shardings)
