"""Data sets by name. To add one, write a class in a file of this folder and list it here."""

import difflib
import importlib

from urgt_jax.data.samples import Source
from urgt_jax.errors import UserError

# The choices of data.source besides `scenes`: the module and the class of each. A class opens a
# folder and a split (the empty split is its default_split), and is a `Source` of images.
DATA_SETS = {
    "unreal4k": "urgt_jax.data.unreal4k.records:Unreal4k",
    "folder": "urgt_jax.data.sets.folder:Folder",
    "middlebury2014": "urgt_jax.data.sets.middlebury2014:Middlebury2014",
    "booster": "urgt_jax.data.sets.booster:Booster",
    "eth3d": "urgt_jax.data.sets.eth3d:Eth3d",
    "kitti": "urgt_jax.data.sets.kitti:Kitti",
    "nyu_depth_v2": "urgt_jax.data.sets.nyu_depth_v2:NyuDepthV2",
    "nyu_labeled": "urgt_jax.data.sets.nyu_labeled:NyuLabeled",
    "diode": "urgt_jax.data.sets.diode:Diode",
    "ibims1": "urgt_jax.data.sets.ibims1:Ibims1",
    "sintel": "urgt_jax.data.sets.sintel:Sintel",
    "spring": "urgt_jax.data.sets.spring:Spring",
    "hypersim": "urgt_jax.data.sets.hypersim:Hypersim",
    "tartanair": "urgt_jax.data.sets.tartanair:TartanAir",
    "nyu_normals": "urgt_jax.data.sets.dsine_normals:NyuNormals",
    "scannet_normals": "urgt_jax.data.sets.dsine_normals:ScanNetNormals",
    "mattes": "urgt_jax.data.sets.mattes:Mattes",
}


def find_data_set(name: str) -> type[Source]:
    """The data set of that name; a user error that names the nearest one if it does not exist."""
    if name in DATA_SETS:
        module, class_name = DATA_SETS[name].split(":")
        return getattr(importlib.import_module(module), class_name)
    nearest = difflib.get_close_matches(name, DATA_SETS, 1, 0.5)
    hint = f" Did you mean {nearest[0]}?" if nearest else ""
    raise UserError(
        f"there is no data set {name!r}.{hint} The data sets are {', '.join(DATA_SETS)}"
    )
