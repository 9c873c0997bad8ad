"""Data sets by name. To add one, write a class in a file of this folder and list it here."""

import difflib

from urgt_jax.data.samples import Source
from urgt_jax.data.sets.booster import Booster
from urgt_jax.data.sets.eth3d import Eth3d
from urgt_jax.data.sets.folder import Folder
from urgt_jax.data.sets.kitti import Kitti
from urgt_jax.data.sets.middlebury2014 import Middlebury2014
from urgt_jax.data.sets.nyu_depth_v2 import NyuDepthV2
from urgt_jax.data.unreal4k.records import Unreal4k
from urgt_jax.errors import UserError

# The choices of data.source besides `scenes`. A class opens a folder and a split (the empty split
# is its default_split), and is a `Source` of images.
DATA_SETS: dict[str, type[Source]] = {
    "unreal4k": Unreal4k,
    "folder": Folder,
    "middlebury2014": Middlebury2014,
    "booster": Booster,
    "eth3d": Eth3d,
    "kitti": Kitti,
    "nyu_depth_v2": NyuDepthV2,
}


def find_data_set(name: str) -> type[Source]:
    """The data set of that name; a user error that names the nearest one if it does not exist."""
    if name in DATA_SETS:
        return DATA_SETS[name]
    nearest = difflib.get_close_matches(name, DATA_SETS, 1, 0.5)
    hint = f" Did you mean {nearest[0]}?" if nearest else ""
    raise UserError(
        f"there is no data set {name!r}.{hint} The data sets are {', '.join(DATA_SETS)}"
    )
