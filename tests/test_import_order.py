"""The order of rooms: imports only go downwards."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "urgt_jax"
FLOORS = [  # from the top; a module may import what stands below it, or beside it in its room
    ["scaling.__main__", "scaling"],
    ["scaling.command"],
    ["scaling.page"],
    ["scaling.points"],
    ["scaling.study", "scaling.curves", "scaling.memory"],
    ["predict", "convert", "evaluation", "training"],
    ["step_cost", "scaling.measure"],
    ["plans"],
    ["fill"],
    ["makers"],
    ["journal"],
    ["report", "tables", "subjects", "board"],
    ["report.pages", "report.zooms"],
    ["report.layers", "report.columns"],
    ["inference"],
    ["coarse", "fidelity", "published"],
    ["checkpoints", "validation"],
    ["step"],
    ["optim", "sharding", "processes", "streaming"],
    ["meter"],
    ["objective"],
    ["losses", "metrics"],
    ["metrics.depth", "metrics.normals", "metrics.seams"],
    ["metrics.ordinal"],
    ["metrics.superpixels", "metrics.protocol"],
    ["metrics.tiles"],
    ["model.families", "model.flops"],
    ["model.refiner", "model.depth_anything", "model.metric3d", "model.weights", "model.sizes"],
    ["model.dpt", "model.vit"],
    ["model.dpt_layers", "model.convolution"],
    ["model.pooling"],
    ["model.attention"],
    ["model.placement"],
    ["data.example", "data.pipeline", "data.benchmark"],
    ["data.gridmix"],
    ["data.sources"],
    ["data.layouts", "data.stored", "data.unreal4k"],
    ["data.unreal4k_files"],
    ["data.folder"],
    ["data.readers", "data.tiles"],
    ["data.priors_path", "data.scenes", "data.samples", "data.augment"],
    ["data.scenes.families"],
    ["data.scenes.bent", "data.scenes.render", "data.scenes.strange", "data.scenes.things"],
    ["data.scenes.kit"],
    ["data.scenes.solids"],
    ["data.scenes.textures", "data.scenes.camera"],
    ["grid", "geometry"],
    ["pictures"],
    ["config"],
    ["tensorfiles"],
    ["files", "resampling"],
    ["errors", "log", "chips", "hlo", "machine"],
]
LEVEL = {name: i for i, floor in enumerate(FLOORS) for name in floor}


def _modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        name = name.removesuffix(".__init__")
        if name in LEVEL or path.name != "__init__.py":
            yield name, ast.parse(path.read_text())


def _imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("urgt_jax"):
            room = node.module.removeprefix("urgt_jax").lstrip(".")
            for alias in node.names:
                inner = f"{room}.{alias.name}".lstrip(".")
                yield inner if inner in LEVEL else room


def test_every_module_has_a_floor():
    assert {name for name, _ in _modules()} == set(LEVEL)


def test_imports_go_downwards():
    wrong = [
        f"{name} imports {used}"
        for name, tree in _modules()
        for used in _imports(tree)
        if LEVEL[used] <= LEVEL[name]
    ]
    assert not wrong, wrong
