"""A page that shows an image and its maps before and after, in one file without a server."""

import base64
import html
import json

from etils.epath import Path

from urgt_jax.files import write_text
from urgt_jax.images.colour import RGB
from urgt_jax.images.files import encode_jpeg

TEMPLATE = Path(__file__).with_name("compare.html")
LARGEST = 1600  # pixels of the longer side of a picture in the page


def write_compare_page(path: Path, title: str, pictures: dict[str, RGB]) -> None:
    """Write the page: `pictures` has image, coarse_depth, depth, coarse_normal and normal."""
    sources = {name: _encode(picture) for name, picture in pictures.items()}
    # A < could end the script that holds the JSON.
    content = json.dumps(sources).replace("<", "\\u003c")
    page = TEMPLATE.read_text().replace("@@TITLE@@", html.escape(title))
    write_text(path, page.replace("@@PICTURES@@", content))


def _encode(picture: RGB) -> str:
    """A data address of a JPEG of the picture, shrunk if it is large."""
    return "data:image/jpeg;base64," + base64.b64encode(encode_jpeg(picture, LARGEST)).decode()
