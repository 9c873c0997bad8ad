"""The report as pages that open from disk: a table of all pictures, and a page for some."""

import json
import math
from html import escape
from importlib import resources
from pathlib import Path

from urgt_jax import files
from urgt_jax.errors import UserError
from urgt_jax.evaluation.report.columns import COLUMNS, Column, known, number, ratio, value_of
from urgt_jax.evaluation.report.layers import (
    ANGLE_LIMIT,
    CONTENTS,
    DEPTH_LIMIT,
    HOME,
    INDEX,
    THUMBNAIL,
    THUMBNAIL_WIDTH,
    place,
)
from urgt_jax.images.colour import RAMP

Scores = dict[str, dict[str, dict[str, float]]]  # side -> "depth", "normal" -> score
Scored = tuple[str, Scores]  # of the picture of that name
ASSETS = ("page.css", "table.js", "slider.js")
KINDS = {"depth": "Depth", "normal": "Normals, mean over pictures",
         "pooled": "Normals, all pixels of all pictures together"}  # fmt: skip
GROUPS = {"image": "image", "depth": "depth", "normal": "normals", "depth_error": "depth error",
          "normal_error": "normal error"}  # fmt: skip
HELP = (
    ("← →", "divider (Shift: faster)"),
    ("drag, W A S D", "move"),
    ("wheel, + −", "zoom"),
    ("0", "whole picture"),
    ("1 … 5", "layer"),
    ("N P", "next, previous"),
)


def write_pages(folder: Path, summary: dict, pictures: list[Scored]) -> Path:
    """Writes report.html, and a page for each picture whose layers are in report/.

    The summary holds the means of each side, and in words the data, protocol and patches.
    """
    if not pictures:
        raise UserError("there is nothing to report: no picture was scored")
    home = files.make_folder(folder / HOME)
    for name in ASSETS:
        asset = resources.files("urgt_jax.evaluation.report") / name
        files.write_text(home / name, asset.read_text("utf-8"))
    column = _ranking(pictures)
    ranked = sorted(pictures, key=lambda x: _rank(x, column))
    paged = [x for x in ranked if (place(folder, x[0]) / CONTENTS).is_file()]
    for i, (name, scores) in enumerate(paged):
        near = [paged[j][0] if 0 <= j < len(paged) else None for j in (i - 1, i + 1)]
        page = _picture_page(folder, name, scores, near)
        files.write_text(place(folder, name) / INDEX, page)
    page = folder / "report.html"
    files.write_text(page, _index_page(folder, summary, ranked, column))
    return page


def _ranking(pictures: list[Scored]) -> Column:
    """What pictures are ranked by: the last side's AbsRel, or its angles without depth."""
    columns = known([list(scores.values())[-1] for _, scores in pictures])
    ranks = [c for c in columns if (c.kind, c.key) in (("depth", "abs_rel"), ("normal", "mean"))]
    return ranks[0] if ranks else COLUMNS[0]


def _rank(picture: Scored, column: Column) -> tuple[float, str]:
    """Worst first, and last where there is no number."""
    name, scores = picture
    error = value_of(list(scores.values())[-1], column)
    return (math.inf if math.isnan(error) else -error, name)


def _page(title: str, home: str, script: str, body: str, kind: str) -> str:
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<title>{escape(title)}</title>\n<link rel="stylesheet" href="{home}page.css">\n'
        f'<script src="{home}{script}" defer></script>\n<body class="{kind}">\n{body}\n</html>\n'
    )


def _index_page(folder: Path, summary: dict, ranked: list[Scored], rank: Column) -> str:
    sides = list(ranked[0][1])
    facts = (
        ("data", summary.get("data")),
        ("protocol", summary.get("protocol")),
        ("resolution", summary.get("resolution")),
        ("patches", summary.get("patches")),
    )
    told = "".join(f"<dt>{k}</dt><dd>{escape(str(v))}</dd>" for k, v in facts if v)
    count = f"{len(ranked)} picture{'s' * (len(ranked) != 1)}"
    title = " against ".join(dict.fromkeys((sides[-1], sides[0]))).capitalize()
    body = (
        f"<header><h1>{escape(title)}</h1><p class='lead'>Mean over {count}</p>"
        f"<dl>{told}</dl>{_skipped(summary.get('skipped') or {})}</header>"
        f"{_summary_table(summary, sides)}{_pictures_table(folder, ranked, rank)}"
    )
    return _page(f"{title}, {count}", f"{HOME}/", "table.js", body, "index")


def _skipped(skipped: dict[str, str]) -> str:
    if not skipped:
        return ""
    lines = "".join(f"<li><b>{escape(n)}</b>: {escape(why)}</li>" for n, why in skipped.items())
    return f"<details><summary>{len(skipped)} skipped</summary><ul>{lines}</ul></details>"


def _summary_table(means: dict, sides: list[str]) -> str:
    """A line for each score, the sides beside each other."""
    columns = known([means[side] for side in sides])
    bodies = []
    for kind, title in KINDS.items():
        lines = [_score_line(c, means, sides) for c in columns if c.kind == kind]
        if lines:
            wide = 2 + len(_heads(sides))
            head = f"<tr><th colspan='{wide}' scope='rowgroup'>{title}</th></tr>"
            bodies.append(f"<tbody>{head}{''.join(lines)}</tbody>")
    heads = "".join(f"<th scope='col'>{escape(x)}</th>" for x in _heads(sides))
    return (
        "<section class='scroll'><table id='summary'><thead><tr><th scope='col'>score</th>"
        f"{heads}<th scope='col' class='meaning'></th></tr></thead>{''.join(bodies)}</table>"
        "</section>"
    )


def _heads(sides: list[str]) -> list[str]:
    return [*sides, "ratio"] if len(sides) > 1 else sides


def _score_line(column: Column, scores: Scores, sides: list[str], meaning: bool = True) -> str:
    """The score of each side, and the last over the first, coloured by which is better."""
    values = [value_of(scores[side], column) for side in sides]
    cells = "".join(f"<td>{column.text(value)}</td>" for value in values)
    if len(sides) > 1:
        change = ratio(values)
        verdict = _verdict(values[-1] - values[0], column)
        cells += f"<td><span class='ratio {verdict}'>{number(change, 2)}</span></td>"
    if meaning:
        cells += f"<td class='meaning'>{escape(column.meaning)}</td>"
    title = f"{escape(column.title)}&nbsp;{column.arrow}"
    hint = escape(column.meaning)
    return f"<tr><th scope='row' title='{hint}'>{title}</th>{cells}</tr>"


def _verdict(change: float, column: Column) -> str:
    if math.isnan(change) or change == 0:
        return ""
    return "better" if (change > 0) == column.more else "worse"


def _pictures_table(folder: Path, ranked: list[Scored], rank: Column) -> str:
    """A line for each picture; which side's scores are shown is chosen above it."""
    sides = list(ranked[0][1])
    columns = known([side for _, scores in ranked for side in scores.values()])
    heads = "".join(
        f"<th scope='col' data-digits='{c.digits}' data-more='{int(c.more)}' "
        f"title='{escape(c.meaning)}'{' aria-sort=descending' * (c == rank)}>"
        f"<button>{escape(c.label)}</button></th>"
        for c in columns
    )
    lines = "".join(_picture_line(folder, x, columns) for x in ranked)
    return (
        f"<section><h2>Pictures</h2>{_side_choice(_heads(sides), len(sides) - 1)}"
        "<div class='scroll tall'><table id='pictures'><thead><tr><th scope='col'>"
        f"<button>picture</button></th>{heads}</tr></thead><tbody>{lines}</tbody></table></div>"
        "</section>"
    )


def _side_choice(heads: list[str], chosen: int) -> str:
    if len(heads) == 1:
        return ""
    choices = "".join(
        f"<label><input type='radio' name='side' value='{i}'{' checked' * (i == chosen)}>"
        f"<span>{escape(head)}</span></label>"
        for i, head in enumerate(heads)
    )
    return f"<fieldset class='choice' id='side'><legend>scores of</legend>{choices}</fieldset>"


def _picture_line(folder: Path, picture: Scored, columns: list[Column]) -> str:
    name, scores = picture
    where = place(folder, name)
    here, shown = f"{HOME}/{where.name}/", escape(name)
    label = f"<span>{shown}</span>"
    if (where / THUMBNAIL).is_file():
        source = f"src='{here}{THUMBNAIL}' width='{THUMBNAIL_WIDTH}' alt=''"
        label = f"<img {source} loading='lazy'>{label}"
    if (where / CONTENTS).is_file():
        label = f"<a href='{here}{INDEX}'>{label}</a>"
    cells = "".join(_picture_cell(scores, column) for column in columns)
    return f"<tr><th scope='row' data-name='{shown}'>{label}</th>{cells}</tr>"


def _picture_cell(scores: Scores, column: Column) -> str:
    values = [value_of(side, column) for side in scores.values()]
    data = " ".join(f"{value:.6g}" for value in values)
    return f"<td data-values='{data}'>{column.text(values[-1])}</td>"


def _picture_page(folder: Path, name: str, scores: Scores, near: list[str | None]) -> str:
    """A page with a divider between two layers of the picture."""
    contents = json.loads((place(folder, name) / CONTENTS).read_text("utf-8"))
    previous, following = (
        f"<a id='{key}' href='../{place(folder, other).name}/{INDEX}' title='{escape(other)}'>"
        f"{label}</a>"
        if other is not None
        else f"<span>{label}</span>"
        for key, label, other in zip(
            ("previous", "next"), ("‹ worse", "better ›"), near, strict=True
        )
    )
    body = (
        "<header><a href='../../report.html'>All pictures</a>"
        f"<h1>{escape(name)}</h1><nav>{previous}{following}</nav></header>"
        f"{_viewer()}{_panel(_with_layers(scores, contents))}"
        # Holds names of sides and numbers, no text of others that would have to be escaped.
        f"<script type='application/json' id='layers'>{json.dumps(_viewed(contents))}</script>"
    )
    return _page(name, "../", "slider.js", body, "picture")


def _with_layers(scores: Scores, contents: dict) -> Scores:
    """The scores of the sides that can be seen."""
    seen = {side for sides in contents["groups"].values() for side in sides}
    return {side: x for side, x in scores.items() if side in seen}


def _viewer() -> str:
    choice = "<select id='{0}' aria-label='{0} side'></select>"
    buttons = "".join(
        f"<button id='{key}' title='{title}'>{label}</button>"
        for key, label, title in (
            ("out", "−", "zoom out"),
            ("in", "+", "zoom in"),
            ("whole", "fit", "whole picture"),
        )
    )
    return (
        "<main><div class='tools'>"
        "<fieldset class='choice' id='group' aria-label='layer'></fieldset>"
        f"<div>{choice.format('left')}<span>|</span>{choice.format('right')}</div>"
        f"<div class='zoom'>{buttons}<output id='scale'></output></div></div>"
        "<div id='stage'><div class='layer'><img id='leftlayer' alt='' draggable='false'></div>"
        "<div class='layer'><img id='rightlayer' alt='' draggable='false'></div>"
        "<span class='tag' id='lefttag'></span><span class='tag' id='righttag'></span>"
        "<div id='divider' role='slider' tabindex='0' aria-label='divider' aria-valuemin='0' "
        "aria-valuemax='100'></div></div></main>"
    )


def _panel(scores: Scores) -> str:
    """The legend of the colours, the scores, and the keys."""
    sides = list(scores)
    columns = known(list(scores.values()))
    heads = "".join(f"<th scope='col'>{escape(x)}</th>" for x in _heads(sides))
    bodies = ""
    for kind, title in (("depth", "Depth"), ("normal", "Normals")):
        lines = [_score_line(c, scores, sides, meaning=False) for c in columns if c.kind == kind]
        if lines:
            bodies += f"<tbody><tr><th scope='col'>{title}</th>{heads}</tr>{''.join(lines)}</tbody>"
    keys = "".join(f"<li><kbd>{key}</kbd> {what}</li>" for key, what in HELP)
    return (
        f"<aside><div id='legend'><i style='--ramp:{_gradient()}'></i><p></p></div>"
        f"<div class='scroll'><table id='scores'>{bodies}</table></div><ul id='keys'>{keys}</ul>"
        "</aside>"
    )


def _gradient() -> str:
    stops = ",".join(f"rgb({int(r)} {int(g)} {int(b)})" for r, g, b in RAMP)
    return f"linear-gradient(90deg,{stops})"


def _viewed(contents: dict) -> dict:
    """What the script shows: for each group its layers, the two seen first, and its legend."""
    legends = {
        "depth": ["ramp", f"far, {contents['far']}", f"near, {contents['near']}"],
        "depth_error": ["ramp", "no error", f"{DEPTH_LIMIT:.0%} of the true 1/depth, or more"],
        "normal_error": ["ramp", "no error", f"{ANGLE_LIMIT:g}° or more"],
        "normal": ["text", "red: right, green: up, blue: towards the camera; grey: not known"],
        "image": ["text", "the photograph"],
    }
    groups = {}
    for key, sides in {"image": [], **contents["groups"]}.items():
        files_of = {side: f"{key}_{side}.png" for side in sides} | {"image": "image.png"}
        own = [side for side in sides if side != "truth"]
        first, second = own[:1] or ["image"], own[-1:] if len(own) > 1 else ["truth", "image"]
        shown = [first[0], next(x for x in [*second, "image"] if x in files_of)]
        groups[key] = {"title": GROUPS[key], "layers": files_of, "shown": shown,
                       "legend": legends[key]}  # fmt: skip
    return {"height": contents["size"][0], "width": contents["size"][1], "groups": groups}
