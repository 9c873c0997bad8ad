"""Where published weights are stored, and under which licence, as their pages said in 2026."""

import shutil
import urllib.request
from typing import NamedTuple

from etils.epath import Path

from urgt_jax.errors import UserError
from urgt_jax.files import atomic_write, make_folder


class Published(NamedTuple):
    """A published weight file."""

    host: str  # a repository on huggingface.co, or the address of a folder
    file: str
    licence: str

    @property
    def is_on_hub(self) -> bool:
        """Whether huggingface.co hosts the file."""
        return not self.host.startswith("https://")

    @property
    def url(self) -> str:
        """The address for a browser."""
        if self.is_on_hub:
            return f"https://huggingface.co/{self.host}/resolve/main/{self.file}"
        return f"{self.host}/{self.file}"


APACHE = "Apache-2.0"
NON_COMMERCIAL = "CC-BY-NC-4.0, not for commercial use"
URGT_LICENCE = "MIT according to its README; the repository has no licence file"
URGT = "Kingslanding/Any-Resolution-Any-Geometry"
DEPTH_ANYTHING = "depth-anything/Depth-Anything-V2"
METRIC3D = "JUGGHM/Metric3D"
DINOV2 = "https://dl.fbaipublicfiles.com/dinov2"


def _dinov2(size: str, registers: str = "") -> Published:
    model = f"dinov2_vit{size}14"
    return Published(f"{DINOV2}/{model}", f"{model}_{registers}pretrain.pth", APACHE)


PUBLISHED: dict[str, Published] = {
    "urgt": Published(URGT, "ckpt_best.pth", URGT_LICENCE),
    "urgt_zero_shot": Published(URGT, "ckpt_promask_best.pth", URGT_LICENCE),
    "vggt": Published("facebook/VGGT-1B", "model.safetensors", NON_COMMERCIAL),
    "depth_anything_s": Published(f"{DEPTH_ANYTHING}-Small", "depth_anything_v2_vits.pth", APACHE),
    "depth_anything_b": Published(
        f"{DEPTH_ANYTHING}-Base", "depth_anything_v2_vitb.pth", NON_COMMERCIAL
    ),
    "depth_anything_l": Published(
        f"{DEPTH_ANYTHING}-Large", "depth_anything_v2_vitl.pth", NON_COMMERCIAL
    ),
    "metric3d_s": Published(METRIC3D, "metric_depth_vit_small_800k.pth", "BSD-2-Clause"),
    "metric3d_l": Published(METRIC3D, "metric_depth_vit_large_800k.pth", "BSD-2-Clause"),
    "metric3d_g": Published(METRIC3D, "metric_depth_vit_giant2_800k.pth", "BSD-2-Clause"),
    "dinov2_s": _dinov2("s"),
    "dinov2_b": _dinov2("b"),
    "dinov2_l": _dinov2("l"),
    "dinov2_g": _dinov2("g"),
    "dinov2_s_reg": _dinov2("s", "reg4_"),
    "dinov2_b_reg": _dinov2("b", "reg4_"),
    "dinov2_l_reg": _dinov2("l", "reg4_"),
    "dinov2_g_reg": _dinov2("g", "reg4_"),
}


def fetch(name: str, target: Path) -> Path:
    """Downloads a published file next to `target` unless it is there; prints its licence.

    Raises UserError with the address of the file if it cannot be downloaded.
    """
    published = PUBLISHED[name]
    print(f"{name}: {published.url}, licence: {published.licence}", flush=True)
    local = make_folder(target.parent) / published.file
    if local.is_file():
        return local
    by_hand = (
        f"Download {published.url} by other means and run: urgt convert {published.file} {target}"
    )
    try:
        download(published, local)
    except ImportError as error:
        raise UserError(
            f"{name} cannot be downloaded without huggingface_hub. "
            f"Install it with pip install urgt-jax[hub], or: {by_hand}"
        ) from error
    except Exception as error:  # the network libraries raise dozens of their own
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"{name} cannot be downloaded ({type(error).__name__}: {reason}). {by_hand}"
        ) from error
    return local


def download(published: Published, local: Path) -> None:
    """Downloads a published file to `local`, which has the file's own name.

    Raises the errors of the network libraries, and ImportError without huggingface_hub.
    """
    if published.is_on_hub:
        from huggingface_hub import hf_hub_download  # optional, the extra `hub`

        hf_hub_download(published.host, published.file, local_dir=local.parent)
        return
    with urllib.request.urlopen(published.url, timeout=30) as response:
        with atomic_write(local) as file:
            shutil.copyfileobj(response, file, length=1 << 22)
