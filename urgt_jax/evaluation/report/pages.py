"""The report as HTML pages that open from disk: a table of all images, and a page for some.

The templates are beside this module; jinja2 escapes all text in them.
"""

import math
from importlib import resources
from typing import TYPE_CHECKING, NamedTuple

from etils.epath import Path

from urgt_jax import files
from urgt_jax.errors import UserError, import_extra, require
from urgt_jax.evaluation.report.columns import (
    COLUMNS,
    Column,
    Scores,
    format_number,
    headings,
    measured_columns,
    ratio,
    value_of,
)
from urgt_jax.evaluation.report.layers import (
    ANGLE_LIMIT,
    CONTENTS,
    DEPTH_LIMIT,
    HOME,
    INDEX,
    THUMBNAIL,
    THUMBNAIL_WIDTH,
    image_folder,
)
from urgt_jax.images.colour import RAMP

if TYPE_CHECKING:
    import jinja2

PACKAGE = "urgt_jax.evaluation.report"
ASSETS = ("page.css", "table.js", "slider.js")
FACTS = ("data", "protocol", "resolution", "patches")  # of a summary, shown above the table
KINDS = {
    "depth": "Depth",
    "normal": "Normals, mean over images",
    "pooled": "Normals, all pixels of all images together",
}
GROUPS = {
    "image": "image",
    "depth": "depth",
    "normal": "normals",
    "depth_error": "depth error",
    "normal_error": "normal error",
}


class ImageScores(NamedTuple):
    """The name and the scores of one image."""

    name: str
    scores: dict[str, Scores]  # candidate -> scores; the last one is the one that matters


class ScoreRow(NamedTuple):
    """One score of every candidate."""

    column: Column
    texts: list[str]
    ratio: str | None  # the last candidate's score over the first's
    verdict: str  # "better", "worse" or "", of the last candidate against the first


class RowGroup(NamedTuple):
    """The rows of one kind of scores."""

    title: str
    rows: list[ScoreRow]


class Cell(NamedTuple):
    """A score of an image in the table of images."""

    values: str  # of all candidates, for table.js
    text: str  # of the last candidate


class ImageRow(NamedTuple):
    """An image in the table of images; links are relative to report.html."""

    name: str
    page: str | None
    thumbnail: str | None
    cells: list[Cell]


class Link(NamedTuple):
    """A link to the page of the image before or after, if there is one."""

    id: str
    label: str
    page: str | None
    name: str | None


def write_pages(folder: Path, summary: dict, scored: list[tuple[str, dict[str, Scores]]]) -> Path:
    """Write report.html, and a page for each image whose layers are in report/; return the former.

    The summary holds the mean scores of each candidate, texts on the data, the protocol, the
    resolution and the patches, and the images that were skipped with reasons.
    """
    require(bool(scored), "there is nothing to report: no image was scored")
    home = files.make_folder(folder / HOME)
    for name in ASSETS:
        asset = resources.files(PACKAGE) / name
        files.write_text(home / name, asset.read_text("utf-8"))
    environment = _environment()
    images = [ImageScores(name, scores) for name, scores in scored]
    column = _ranking_column(images)
    images.sort(key=lambda image: _rank(image, column))
    paged = [image for image in images if _has_layers(folder, image.name)]
    for i, image in enumerate(paged):
        previous = paged[i - 1].name if i > 0 else None
        following = paged[i + 1].name if i + 1 < len(paged) else None
        page = _image_page(environment, folder, image, previous, following)
        files.write_text(image_folder(folder, image.name) / INDEX, page)
    report = folder / "report.html"
    files.write_text(report, _index_page(environment, folder, summary, images, column))
    return report


def _environment() -> "jinja2.Environment":
    jinja2 = import_extra("jinja2", "eval")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(PACKAGE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {}  # jinja2 would sort the groups of layers
    return environment


def _has_layers(folder: Path, name: str) -> bool:
    return (image_folder(folder, name) / CONTENTS).is_file()


def _ranking_column(images: list[ImageScores]) -> Column:
    """The score by which images are ranked: AbsRel, or the mean angle where there is no depth."""
    for column in measured_columns([_last(image.scores) for image in images]):
        if (column.kind, column.key) in (("depth", "abs_rel"), ("normal", "mean")):
            return column
    return COLUMNS[0]


def _rank(image: ImageScores, column: Column) -> tuple[float, str]:
    """A key that sorts the worst image first, and images without a score last."""
    error = value_of(_last(image.scores), column)
    return (math.inf if math.isnan(error) else -error, image.name)


def _last(scores: dict[str, Scores]) -> Scores:
    """The scores of the last candidate."""
    return list(scores.values())[-1]


def _index_page(
    environment: "jinja2.Environment",
    folder: Path,
    summary: dict,
    images: list[ImageScores],
    ranked_by: Column,
) -> str:
    names = list(images[0].scores)
    title = names[-1] if len(names) == 1 else f"{names[-1]} against {names[0]}"
    columns = measured_columns([scores for image in images for scores in image.scores.values()])
    return environment.get_template("index.html").render(
        home=f"{HOME}/",
        title=title.capitalize(),
        count="1 image" if len(images) == 1 else f"{len(images)} images",
        facts=[(name, summary[name]) for name in FACTS if summary.get(name)],
        skipped=summary.get("skipped") or {},
        names=names,
        headings=headings(names),
        groups=_row_groups({name: summary[name] for name in names}, KINDS),
        columns=columns,
        ranked_by=ranked_by,
        images=[_image_row(folder, image, columns) for image in images],
        thumbnail_width=THUMBNAIL_WIDTH,
    )


def _row_groups(scores: dict[str, Scores], titles: dict[str, str]) -> list[RowGroup]:
    """The scores of all candidates by kind; kinds without a score are left out."""
    columns = measured_columns(list(scores.values()))
    groups = []
    for kind, title in titles.items():
        rows = [_score_row(column, scores) for column in columns if column.kind == kind]
        if rows:
            groups.append(RowGroup(title, rows))
    return groups


def _score_row(column: Column, scores: dict[str, Scores]) -> ScoreRow:
    values = [value_of(candidate, column) for candidate in scores.values()]
    texts = [column.text(value) for value in values]
    if len(values) == 1:
        return ScoreRow(column, texts, None, "")
    change = values[-1] - values[0]
    verdict = ""
    if change > 0:
        verdict = "better" if column.higher_is_better else "worse"
    if change < 0:
        verdict = "worse" if column.higher_is_better else "better"
    return ScoreRow(column, texts, format_number(ratio(values), 2), verdict)


def _image_row(folder: Path, image: ImageScores, columns: list[Column]) -> ImageRow:
    home = image_folder(folder, image.name)
    link = f"{HOME}/{home.name}"
    page = f"{link}/{INDEX}" if _has_layers(folder, image.name) else None
    thumbnail = f"{link}/{THUMBNAIL}" if (home / THUMBNAIL).is_file() else None
    cells = []
    for column in columns:
        values = [value_of(scores, column) for scores in image.scores.values()]
        numbers = " ".join(f"{value:.6g}" for value in values)
        cells.append(Cell(numbers, column.text(values[-1])))
    return ImageRow(image.name, page, thumbnail, cells)


def _image_page(
    environment: "jinja2.Environment",
    folder: Path,
    image: ImageScores,
    previous: str | None,
    following: str | None,
) -> str:
    """A page with a divider between two layers of the image."""
    path = image_folder(folder, image.name) / CONTENTS
    try:
        contents = files.unseal(files.read_json_object(path))
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({error}). Remove {folder / HOME} and run urgt eval again"
        ) from error
    visible = {name for group in contents["groups"].values() for name in group}
    scores = {name: scores for name, scores in image.scores.items() if name in visible}
    links = [
        _link(folder, "previous", "‹ worse", previous),
        _link(folder, "next", "better ›", following),
    ]
    return environment.get_template("image.html").render(
        home="../",
        name=image.name,
        links=links,
        headings=headings(list(scores)),
        groups=_row_groups(scores, {"depth": "Depth", "normal": "Normals"}),
        ramp=RAMP.astype(int).tolist(),
        layers=_viewer_layers(contents),
    )


def _link(folder: Path, link_id: str, label: str, name: str | None) -> Link:
    page = None
    if name is not None:
        page = f"../{image_folder(folder, name).name}/{INDEX}"
    return Link(link_id, label, page, name)


def _viewer_layers(contents: dict) -> dict:
    """What slider.js shows: for each group its layers, the two shown first, and its legend."""
    legends = {
        "image": ["text", "the image"],
        "depth": ["ramp", f"far, {contents['far']}", f"near, {contents['near']}"],
        "normal": ["text", "red: right, green: up, blue: towards the camera; grey: unknown"],
        "depth_error": ["ramp", "no error", f"{DEPTH_LIMIT:.0%} of the true 1/depth, or more"],
        "normal_error": ["ramp", "no error", f"{ANGLE_LIMIT:g}° or more"],
    }
    groups = {}
    for group, names in {"image": [], **contents["groups"]}.items():
        layers = {name: f"{group}_{name}.png" for name in names}
        layers["image"] = "image.png"
        groups[group] = {
            "title": GROUPS[group],
            "layers": layers,
            "shown": _first_shown(names),
            "legend": legends[group],
        }
    height, width = contents["size"]
    return {"height": height, "width": width, "groups": groups}


def _first_shown(names: list[str]) -> list[str]:
    """The layers left and right of the divider at first.

    They are the first and the last candidate; a single candidate and the truth, or the image.
    """
    candidates = [name for name in names if name != "truth"]
    if len(candidates) > 1:
        return [candidates[0], candidates[-1]]
    left = candidates[0] if candidates else "image"
    right = "truth" if "truth" in names else "image"
    return [left, right]
