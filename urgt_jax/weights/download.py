"""Where published weights lie, and under which licence; facts from their own pages, 2026."""

import urllib.request
from pathlib import Path
from typing import NamedTuple

from urgt_jax.errors import UserError
from urgt_jax.files import atomic_write


class Published(NamedTuple):
    """One published file."""

    place: str  # repository on huggingface.co, or the address of a folder
    file: str
    licence: str

    @property
    def url(self) -> str:
        """Where a browser finds it."""
        if self.place.startswith("https://"):
            return f"{self.place}/{self.file}"
        return f"https://huggingface.co/{self.place}/resolve/main/{self.file}"


URGT = "Kingslanding/Any-Resolution-Any-Geometry"
URGT_LICENCE = "MIT as its README says; the repository has no licence file"
NON_COMMERCIAL = "CC-BY-NC-4.0, not for commercial use"
FILES: dict[str, Published] = {
    "urgt": Published(URGT, "ckpt_best.pth", URGT_LICENCE),
    "urgt_zero_shot": Published(URGT, "ckpt_promask_best.pth", URGT_LICENCE),
    "vggt": Published("facebook/VGGT-1B", "model.safetensors", NON_COMMERCIAL),
    **{
        f"depth_anything_{letter}": Published(
            f"depth-anything/Depth-Anything-V2-{size}",
            f"depth_anything_v2_vit{letter}.pth",
            "Apache-2.0" if letter == "s" else NON_COMMERCIAL,
        )
        for letter, size in {"s": "Small", "b": "Base", "l": "Large"}.items()
    },
    **{
        f"metric3d_{letter}": Published(
            "JUGGHM/Metric3D", f"metric_depth_vit_{size}_800k.pth", "BSD-2-Clause"
        )
        for letter, size in {"s": "small", "l": "large", "g": "giant2"}.items()
    },
    **{
        f"dinov2_{letter}{name}": Published(
            f"https://dl.fbaipublicfiles.com/dinov2/dinov2_vit{letter}14",
            f"dinov2_vit{letter}14_{part}pretrain.pth",
            "Apache-2.0",
        )
        for letter in "sblg"
        for name, part in {"": "", "_reg": "reg4_"}.items()
    },
}


def fetch(name: str, target: Path) -> Path:
    """The published file beside the target, fetched unless it is there; tells its licence."""
    item = FILES[name]
    print(f"{name}: {item.url}, licence: {item.licence}", flush=True)
    local = target.parent / item.file
    if local.is_file():
        return local
    try:
        return _fetched(item, local)
    except Exception as error:  # the libraries below raise dozens of their own
        raise UserError(
            f"{name} cannot be fetched ({type(error).__name__}: {str(error).splitlines()[0]}): "
            f"fetch {item.url} by other means and run "
            f"`urgt convert {item.file} {target}`"
        ) from error


def _fetched(item: Published, local: Path) -> Path:
    local.parent.mkdir(parents=True, exist_ok=True)
    if not item.place.startswith("https://"):
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(item.place, item.file, local_dir=local.parent))
    with urllib.request.urlopen(item.url, timeout=30) as source, atomic_write(local) as file:
        while part := source.read(1 << 22):
            file.write(part)
    return local
