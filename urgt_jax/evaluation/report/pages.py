"""The report as HTML pages that open from disk: a table of all images, and a page for some.

The templates are beside this module; jinja2 escapes all text in them.
"""

import math
from collections.abc import Sequence
from importlib import resources
from typing import TYPE_CHECKING, NamedTuple

from etils.epath import Path

from urgt_jax import files
from urgt_jax.errors import import_extra, require
from urgt_jax.evaluation.report.columns import (
    COLUMNS,
    Column,
    Scores,
    format_number,
    headings,
    interval_text,
    measured_columns,
    ratios,
    value_of,
)
from urgt_jax.evaluation.report.layers import (
    ANGLE_LIMIT,
    DEPTH_LIMIT,
    HOME,
    INDEX,
    THUMBNAIL,
    THUMBNAIL_WIDTH,
    has_layers,
    image_folder,
    layer_file,
    read_contents,
)
from urgt_jax.images.colour import RAMP

if TYPE_CHECKING:
    import jinja2

PACKAGE = "urgt_jax.evaluation.report"
ASSETS = ("page.css", "table.js", "slider.js", "before_after.js")
SHEETS = ("examples.png", "zooms.png")  # next to report.html, linked if they are there
TRAINING_CURVE = "training.svg"  # in report/, shown if it is there
SAME = 0.01  # a ratio that differs less from 1 is neither better nor worse
# The texts of a summary that are shown above the table.
FACTS = ("data", "protocol", "normals", "resolution", "patches")
KINDS = {
    "depth": "Depth",
    "normal": "Normals, mean over images",
    "pooled": "Normals, all pixels of all images together",
}
# The scores of the verdict in words, and what the baselines are called there.
VERDICT_SCORES = {
    ("depth", "abs_rel"): "AbsRel",
    ("normal", "mean"): "Mean error of normals",
}
BASELINES = {"coarse": "the coarse map", "smoothed": "a blur of it"}
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


class Ratio(NamedTuple):
    """A score of the last candidate over that of another one."""

    text: str
    verdict: str  # "better", "worse" or "same", of the last candidate; "" if it is not known


class BeforeAfter(NamedTuple):
    """Two maps of one image with a divider between them; links are relative to report.html."""

    name: str
    page: str
    before: str
    before_name: str
    after: str
    after_name: str
    width: int
    height: int


class ScoreRow(NamedTuple):
    """One score of every candidate."""

    column: Column
    texts: list[str]
    ratios: list[Ratio]  # of the last candidate's score to each other's
    interval: str  # of the last candidate's mean


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


def write_pages(
    folder: Path,
    summary: dict,
    scored: list[tuple[str, dict[str, Scores]]],
    typical: str = "",
    provenance: dict[str, str] | None = None,
) -> Path:
    """Write report.html, and a page for each image whose layers are in report/; return the former.

    The summary holds the mean scores of each candidate, texts on the data, the protocol, the
    resolution and the patches, and the images that were skipped with reasons. The report begins
    with the maps of the image `typical`, and says where the results come from.
    """
    require(bool(scored), "there is nothing to report: no image was scored")
    write_assets(files.make_folder(folder / HOME))
    templates = environment()
    images = [ImageScores(name, scores) for name, scores in scored]
    column = _ranking_column(images)
    images.sort(key=lambda image: _rank(image, column))
    paged = [image for image in images if has_layers(folder, image.name)]
    for i, image in enumerate(paged):
        previous = paged[i - 1].name if i > 0 else None
        following = paged[i + 1].name if i + 1 < len(paged) else None
        page = _image_page(templates, folder, image, previous, following)
        files.write_text(image_folder(folder, image.name) / INDEX, page)
    report = folder / "report.html"
    front = _before_after(folder, typical)
    text = _index_page(templates, folder, summary, images, column, front, provenance or {})
    files.write_text(report, text)
    return report


def typical_image(scored: list[tuple[str, dict[str, Scores]]]) -> str:
    """The image whose error is the median: of AbsRel, or of the mean angle without depth."""
    images = [ImageScores(name, scores) for name, scores in scored]
    column = _ranking_column(images)
    errors = [(value_of(_last(image.scores), column), image.name) for image in images]
    known = [error for error in errors if math.isfinite(error[0])]
    ranked = sorted(known) or errors
    _, name = ranked[len(ranked) // 2]
    return name


def verdict(summary: dict, names: list[str]) -> str:
    """How the last candidate compares with the others, in words."""
    sentences = []
    for column in COLUMNS:
        if (column.kind, column.key) not in VERDICT_SCORES:
            continue
        values = [value_of(summary[name], column) for name in names]
        if not math.isfinite(values[-1]):
            continue
        parts = []
        for name, ratio in zip(names[:-1], ratios(values), strict=True):
            if math.isfinite(ratio):
                parts.append(f"{_compared(ratio)} {BASELINES.get(name, name)}")
        title = VERDICT_SCORES[column.kind, column.key]
        text = ", ".join(parts) or column.text(values[-1])
        interval = interval_text(summary, names[-1], column)
        if interval and not parts:
            text += f" (95 % interval {interval})"
        sentences.append(f"{title} {text}")
    return ". ".join(sentences) + "." if sentences else ""


def _compared(ratio: float) -> str:
    if abs(ratio - 1) <= SAME:
        return "within 1 % of"
    direction = "lower" if ratio < 1 else "higher"
    return f"{100 * abs(ratio - 1):.0f} % {direction} than"


def _before_after(folder: Path, name: str) -> BeforeAfter | None:
    """The first and the last candidate's maps of an image, if its layers are there."""
    if not name or not has_layers(folder, name):
        return None
    contents = read_contents(folder, name)
    maps = contents["groups"]
    # Groups with the truth alone have nothing to compare.
    groups = [group for group in ("depth", "normal") if set(maps.get(group, ())) - {"truth"}]
    if not groups:
        return None
    group = groups[0]
    before, after = _first_shown(maps[group])
    link = f"{HOME}/{image_folder(folder, name).name}"
    height, width = contents["size"]
    return BeforeAfter(
        name=name,
        page=f"{link}/{INDEX}",
        before=f"{link}/{layer_file(group, before)}",
        before_name=before,
        after=f"{link}/{layer_file(group, after)}",
        after_name=after,
        width=width,
        height=height,
    )


def write_assets(home: Path) -> None:
    """Write the style and the scripts of the pages."""
    for name in ASSETS:
        asset = resources.files(PACKAGE) / name
        files.write_text(home / name, asset.read_text("utf-8"))


def environment() -> "jinja2.Environment":
    """The templates."""
    jinja2 = import_extra("jinja2", "eval")
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader(PACKAGE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.policies["json.dumps_kwargs"] = {}  # jinja2 would sort the groups of layers
    return templates


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
    templates: "jinja2.Environment",
    folder: Path,
    summary: dict,
    images: list[ImageScores],
    ranked_by: Column,
    front: BeforeAfter | None,
    provenance: dict[str, str],
) -> str:
    names = list(images[0].scores)
    title = names[-1] if len(names) == 1 else f"{names[-1]} against {names[0]}"
    columns = measured_columns([scores for image in images for scores in image.scores.values()])
    return templates.get_template("index.html").render(
        home=f"{HOME}/",
        title=title.capitalize(),
        count="1 image" if len(images) == 1 else f"{len(images)} images",
        facts=[(name, summary[name]) for name in FACTS if summary.get(name)],
        verdict=verdict(summary, names),
        front=front,
        provenance=provenance,
        sheets=[name for name in SHEETS if (folder / name).is_file()],
        curve=f"{HOME}/{TRAINING_CURVE}" if (folder / HOME / TRAINING_CURVE).is_file() else "",
        skipped=summary.get("skipped") or {},
        names=names,
        headings=headings(names),
        groups=row_groups({name: summary[name] for name in names}, KINDS, summary),
        with_intervals=bool(summary.get("intervals")),
        columns=columns,
        ranked_by=ranked_by,
        images=[_image_row(folder, image, columns) for image in images],
        thumbnail_width=THUMBNAIL_WIDTH,
    )


def row_groups(
    scores: dict[str, Scores], titles: dict[str, str], summary: dict | None = None
) -> list[RowGroup]:
    """The scores of all candidates by kind; kinds without a score are left out."""
    columns = measured_columns(list(scores.values()))
    groups = []
    for kind, title in titles.items():
        rows = [_score_row(column, scores, summary) for column in columns if column.kind == kind]
        if rows:
            groups.append(RowGroup(title, rows))
    return groups


def _score_row(column: Column, scores: dict[str, Scores], summary: dict | None) -> ScoreRow:
    values = [value_of(candidate, column) for candidate in scores.values()]
    texts = [column.text(value) for value in values]
    parts = []
    for value, ratio in zip(values[:-1], ratios(values), strict=True):
        parts.append(Ratio(format_number(ratio, 2), _verdict_of(values[-1] - value, ratio, column)))
    interval = interval_text(summary or {}, list(scores)[-1], column)
    return ScoreRow(column, texts, parts, interval)


def _verdict_of(change: float, ratio: float, column: Column) -> str:
    """Whether a change is for the better."""
    if abs(ratio - 1) <= SAME:
        return "same"
    if math.isnan(change) or change == 0:
        return ""
    return "better" if (change > 0) == column.higher_is_better else "worse"


def _image_row(folder: Path, image: ImageScores, columns: list[Column]) -> ImageRow:
    home = image_folder(folder, image.name)
    link = f"{HOME}/{home.name}"
    page = f"{link}/{INDEX}" if has_layers(folder, image.name) else None
    thumbnail = f"{link}/{THUMBNAIL}" if (home / THUMBNAIL).is_file() else None
    page = page or thumbnail  # every image can be clicked
    cells = []
    for column in columns:
        values = [value_of(scores, column) for scores in image.scores.values()]
        numbers = " ".join(f"{value:.6g}" for value in values)
        cells.append(Cell(numbers, column.text(values[-1])))
    return ImageRow(image.name, page, thumbnail, cells)


def _image_page(
    templates: "jinja2.Environment",
    folder: Path,
    image: ImageScores,
    previous: str | None,
    following: str | None,
) -> str:
    """A page with a divider between two layers of the image."""
    contents = read_contents(folder, image.name)
    visible = {name for group in contents["groups"].values() for name in group}
    scores = {name: scores for name, scores in image.scores.items() if name in visible}
    links = [
        _link(folder, "previous", "‹ worse", previous),
        _link(folder, "next", "better ›", following),
    ]
    groups = {}
    for group, names in {"image": [], **contents["groups"]}.items():
        layers = {name: layer_file(group, name) for name in [*names, "image"]}
        groups[group] = viewer_group(group, layers, _first_shown(names), contents)
    return render_image_page(
        templates, "report.html", image.name, scores, groups, contents["size"], links
    )


def render_image_page(
    templates: "jinja2.Environment",
    index: str,
    name: str,
    scores: dict[str, Scores],
    groups: dict[str, dict],
    size: Sequence[int],  # height and width
    links: Sequence[Link] = (),
) -> str:
    """A page with a divider between two layers of an image, which the page `index` lists."""
    height, width = size
    return templates.get_template("image.html").render(
        home="../",
        index=f"../../{index}",
        name=name,
        links=links,
        headings=headings(list(scores)),
        groups=row_groups(scores, {"depth": "Depth", "normal": "Normals"}),
        ramp=RAMP.astype(int).tolist(),
        layers={"height": height, "width": width, "groups": groups},
    )


def _link(folder: Path, link_id: str, label: str, name: str | None) -> Link:
    page = None
    if name is not None:
        page = f"../{image_folder(folder, name).name}/{INDEX}"
    return Link(link_id, label, page, name)


def viewer_group(group: str, layers: dict[str, str], shown: list[str], contents: dict) -> dict:
    """What slider.js shows of a group: its layers, the two shown first, and its legend."""
    return {
        "title": GROUPS[group],
        "layers": layers,
        "shown": shown,
        "legend": _legend(group, contents),
    }


def _legend(group: str, contents: dict) -> list[str]:
    """What is written below the layers of a group: a text, or the ends of the colour ramp."""
    legends = {
        "image": ["text", "the image"],
        "depth": ["ramp", f"far, {contents['far']}", f"near, {contents['near']}"],
        "normal": ["text", "red: right, green: up, blue: towards the camera; grey: unknown"],
        "depth_error": ["ramp", "no error", f"{DEPTH_LIMIT:.0%} of the true 1/depth, or more"],
        "normal_error": ["ramp", "no error", f"{ANGLE_LIMIT:g}° or more"],
    }
    return legends[group]


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
