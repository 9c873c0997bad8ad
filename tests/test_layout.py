"""The order of rooms: imports only go downwards."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "urgt_jax"
FLOORS = [  # from the top; a module may import what stands below it, or beside it in its room
    ["predict", "convert", "evaluation", "training", "scaling"],
    ["report"],
    ["inference"],
    ["coarse", "fidelity", "published"],
    ["checkpoints", "log"],
    ["step"],
    ["optim", "sharding"],
    ["losses", "metrics"],
    ["model.families"],
    ["model.refiner", "model.depth_anything", "model.metric3d", "model.weights", "model.sizes"],
    ["model.dpt", "model.vit"],
    ["model.layers", "model.convolution"],
    ["model.placement"],
    ["data.example", "data.pipeline"],
    ["data.gridmix"],
    ["data.sources"],
    ["data.priors", "data.scenes"],
    ["grid", "geometry", "pictures"],
    ["config"],
    ["tensorfiles"],
    ["files", "resampling"],
    ["errors"],
]
LEVEL = {name: i for i, floor in enumerate(FLOORS) for name in floor}


def _modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        if not name.endswith("__init__"):
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
