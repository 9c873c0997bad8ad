"""The card of a published model: data, protocol, metrics, licence and a held-out picture."""

from typing import Any

from urgt_jax.config import Config
from urgt_jax.data.sources import training_split
from urgt_jax.models.registry import FileConfig

# The metrics of a card: group and name in metrics.json, and the heading of the column.
COLUMNS = (
    ("depth", "abs_rel", "AbsRel"),
    ("depth", "delta1", "δ1"),
    ("depth", "boundary_f1", "boundary F1"),
    ("normal", "mean", "normals, degrees"),
)


def model_card(
    repository: str,
    config: FileConfig,
    licence: str,
    scores: dict[str, Any] | None,
    picture: str | None,
) -> str:
    """The text of README.md for weights on the hub; `scores` is the content of metrics.json."""
    head = [
        "---",
        f"license: {licence}",
        "library_name: urgt-jax",
        "pipeline_tag: depth-estimation",
    ]
    head += ["tags: [depth-estimation, surface-normals, jax, urgt]", "---", ""]
    parts = [f"# {repository}", *_usage(repository)]
    if isinstance(config, Config):
        parts += _training(config)
    if scores is not None:
        parts += _evaluation(scores)
    if picture is not None:
        parts += [
            f"![Held-out images: coarse maps, refined maps, ground truth, errors]({picture})",
            "",
        ]
    return "\n".join([*head, *parts])


def _usage(repository: str) -> list[str]:
    return [
        "",
        "Refines coarse depth and normal maps of high-resolution images (URGT, CVPR 2026), with",
        "[urgt_jax](https://pypi.org/project/urgt-jax/).",
        "",
        "```",
        f"urgt refine photo.jpg --weights hf://{repository}",
        "```",
        "",
    ]


def _training(config: Config) -> list[str]:
    data = config.data
    split = training_split(data)
    unit = "metres" if config.prior.kind == "depth" else "disparity (1 / depth at any scale)"
    return [
        "## Training",
        "",
        f"- data: {data.source}" + (f", split {split}" if split else ""),
        f"- steps: {config.optim.steps}, batch {data.batch}",
        f"- coarse depth: {unit}",
        f"- patches of {config.model.patch_size[0]} x {config.model.patch_size[1]} pixels",
        "",
    ]


def _evaluation(scores: dict[str, Any]) -> list[str]:
    """The scores of each candidate as a table."""
    lines = [
        "## Evaluation",
        "",
        f"{scores.get('images')} images of {scores.get('data')}; {scores.get('patches')};",
        f"protocol: {scores.get('protocol')}; {scores.get('resolution')}.",
        "",
        "| | " + " | ".join(heading for _, _, heading in COLUMNS) + " |",
        "|---" * (len(COLUMNS) + 1) + "|",
    ]
    for name in scores["candidates"]:
        cells = [_format(scores[name].get(group, {}).get(metric)) for group, metric, _ in COLUMNS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _format(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
