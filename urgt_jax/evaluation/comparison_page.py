"""Two evaluations side by side, as pages that open from disk."""

import math
import os
from typing import TYPE_CHECKING
from urllib.parse import quote

from etils.epath import Path

from urgt_jax import files
from urgt_jax.evaluation.comparison import Comparison, Difference
from urgt_jax.evaluation.report import pages
from urgt_jax.evaluation.report.columns import COLUMNS, format_number, value_of
from urgt_jax.evaluation.report.layers import (
    HOME,
    INDEX,
    THUMBNAIL,
    has_layers,
    image_folder,
    layer_file,
    read_contents,
)
from urgt_jax.remote import absolute

if TYPE_CHECKING:
    import jinja2

RANKED = COLUMNS[0]  # images are listed by the change of AbsRel


def labels(comparison: Comparison) -> tuple[str, str]:
    """What the two evaluations are called: their folders' names, or the whole paths."""
    folders = [absolute(comparison.first.folder), absolute(comparison.second.folder)]
    if folders[0].name != folders[1].name:
        return folders[0].name, folders[1].name
    return str(folders[0]), str(folders[1])


def write_page(comparison: Comparison, out: Path) -> Path:
    """Write compare.html, and a page for each image whose maps both reports have."""
    home = files.make_folder(out / HOME)
    pages.write_assets(home)
    templates = pages.environment()
    names = labels(comparison)
    by_change = sorted(comparison.names, key=lambda name: (change_of(comparison, name), name))
    rows = []
    for name in by_change:
        thumbnail = image_folder(comparison.second.folder, name) / THUMBNAIL
        thumbnail_link = relative(thumbnail, out) if thumbnail.is_file() else ""
        rows.append(
            {
                "name": name,
                "page": write_image_page(templates, comparison, name, out) or thumbnail_link,
                "thumbnail": thumbnail_link,
                "scores": [
                    RANKED.text(value_of(results.images[name], RANKED))
                    for results in (comparison.first, comparison.second)
                ],
                "change": signed(change_of(comparison, name), RANKED.digits),
            }
        )
    page = out / "compare.html"
    text = templates.get_template("compare.html").render(
        home=f"{HOME}/",
        names=names,
        settings=comparison.second.settings,
        unpaired=comparison.unpaired,
        differences=[difference_row(row) for row in comparison.differences],
        ranked=RANKED,
        images=rows,
        thumbnail_width=pages.THUMBNAIL_WIDTH,
    )
    files.write_text(page, text)
    return page


def change_of(comparison: Comparison, name: str) -> float:
    """By how much the ranked score of an image changes; images without it come last."""
    first = value_of(comparison.first.images[name], RANKED)
    second = value_of(comparison.second.images[name], RANKED)
    change = second - first
    return math.inf if math.isnan(change) else change


def signed(value: float, digits: int) -> str:
    """A difference for people."""
    text = format_number(value, digits)
    return f"+{text}" if value > 0 and text != "–" else text


def difference_row(row: Difference) -> dict:
    """A metric's line of the table."""
    digits = row.column.digits
    verdict = "same"
    if row.certain:
        verdict = "better" if row.better else "worse"
    interval = ""
    if math.isfinite(row.low):
        interval = f"{signed(row.low, digits)} to {signed(row.high, digits)}"
    return {
        "column": row.column,
        "texts": [row.column.text(row.first), row.column.text(row.second)],
        "difference": signed(row.difference, digits),
        "verdict": verdict,
        "interval": interval,
        "improved": f"{row.improved:.0f} %",
    }


def write_image_page(
    templates: "jinja2.Environment", comparison: Comparison, name: str, out: Path
) -> str:
    """A page with a divider between the maps of both; its link, or "" if maps are missing."""
    results = (comparison.first, comparison.second)
    if not all(has_layers(one.folder, name) for one in results):
        return ""
    contents = [read_contents(one.folder, name) for one in results]
    if contents[0]["size"] != contents[1]["size"]:
        return ""
    home = image_folder(out, name)
    names = labels(comparison)
    first_home = image_folder(comparison.first.folder, name)
    second_home = image_folder(comparison.second.folder, name)
    groups = {}
    for group, layers in contents[1]["groups"].items():
        if comparison.first.candidate not in contents[0]["groups"].get(group, []):
            continue
        if comparison.second.candidate not in layers:
            continue
        layer_paths = {
            names[0]: first_home / layer_file(group, comparison.first.candidate),
            names[1]: second_home / layer_file(group, comparison.second.candidate),
        }
        if "truth" in layers:
            layer_paths["truth"] = second_home / layer_file(group, "truth")
        layer_paths["image"] = second_home / layer_file(group, "image")
        links = {layer: relative(path, home) for layer, path in layer_paths.items()}
        groups[group] = pages.viewer_group(group, links, list(names), contents[1])
    if not groups:
        return ""
    scores = {label: one.images[name] for label, one in zip(names, results, strict=True)}
    text = pages.render_image_page(
        templates, "compare.html", name, scores, groups, contents[1]["size"]
    )
    files.write_text(files.make_folder(home) / INDEX, text)
    return relative(home / INDEX, out)


def relative(path: Path, start: Path) -> str:
    """The link from a page in the folder `start` to a file."""
    return quote(os.path.relpath(path, start).replace(os.sep, "/"))
