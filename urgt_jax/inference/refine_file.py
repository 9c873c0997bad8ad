"""Refines one image file: reads it and its coarse maps, and writes its refined maps."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from etils.epath import Path, PathLike

from urgt_jax.data.priors.networks import DepthNetwork, NormalNetwork
from urgt_jax.errors import require
from urgt_jax.files import is_same
from urgt_jax.images.files import ImageHeader, load_image, read_header
from urgt_jax.images.map_files import MapFile, read_map_file, read_mask
from urgt_jax.inference.coarse_maps import (
    NO_NORMALS,
    Masks,
    Statement,
    check_map_sizes,
    prepare_coarse_maps,
)
from urgt_jax.inference.image_files import naming_image
from urgt_jax.inference.outputs import (
    DEFAULT_FORMATS,
    SPATIAL,
    Target,
    result_names,
    save_coarse,
    save_result,
)
from urgt_jax.inference.refiner import Refiner, ReportProgress, Strips, ignore_progress

Report = Callable[[str], None]  # takes a line for the user


class Models(NamedTuple):
    """A refiner, and the networks that make the coarse maps that are not given."""

    refiner: Refiner
    weights: PathLike  # of the refiner
    depth: DepthNetwork | None = None
    normal: NormalNetwork | None = None


class MapPaths(NamedTuple):
    """The files of an image's coarse maps and masks; None where there is none."""

    depth: Path | None = None
    normal: Path | None = None
    mask: Path | None = None
    sky: Path | None = None


@dataclass(frozen=True)
class Options:
    """How images are refined, and what is written about them."""

    statement: Statement = Statement()
    formats: tuple[str, ...] = DEFAULT_FORMATS
    axes: str = "opencv"  # of saved normals and points
    grid: tuple[int, int] | None = None  # None: as stored with the weights
    overlap: float | None = None  # None: as stored with the weights
    bits: int | None = None  # in use of 16-bit grey images
    detect_sky: bool = False
    save_coarse: bool = False


def check_sources(
    image: Path, maps: MapPaths, options: Options, makes_depth: bool, makes_normal: bool
) -> ImageHeader:
    """Read the header of an image; a UserError if it lacks something that shows without its pixels.

    `makes_depth` and `makes_normal` say whether networks make the maps that have no file.
    """
    header = read_header(image)
    focal = options.statement.focal_length(header)
    has_depth = maps.depth is not None or makes_depth
    if has_depth and maps.normal is None and not makes_normal:
        require(focal is not None, f"{image}: {NO_NORMALS}")
    spatial = [name for name in options.formats if name in SPATIAL]
    require(
        focal is not None or not spatial,
        f"{image}: --save {' '.join(spatial)} needs the camera, and the image has no focal length. "
        "Pass --fov DEGREES",
    )
    return header


def check_out(image: Path, maps: MapPaths, options: Options, out: Path) -> None:
    """A UserError if a result in the folder `out` would replace the image or one of its maps."""
    names = result_names(image.stem, options.formats, options.save_coarse)
    for path in (image, *maps):
        if path is not None and path.name in names:
            require(
                not is_same(path.parent, out),
                f"{path} would be replaced by a result. Choose another folder for the results",
            )


def refine_file(
    models: Models,
    path: Path,
    header: ImageHeader,
    maps: MapPaths,
    options: Options,
    out: Path,
    report: Report,
    progress: ReportProgress = ignore_progress,
) -> Target:
    """Refine an image and write its maps into the folder `out`; `report` takes what is decided."""
    refiner = models.refiner
    wanted = refiner.config.prior.kind
    statement = options.statement
    depth = None if maps.depth is None else read_map_file(maps.depth, "depth")
    normal = None if maps.normal is None else read_map_file(maps.normal, "normal")
    masks = Masks(
        None if maps.mask is None else read_mask(maps.mask),
        None if maps.sky is None else read_mask(maps.sky),
    )
    with naming_image(path):
        # A large image takes long to decode, so its maps are checked before.
        check_map_sizes(depth, normal, header)
        image, notes = load_image(path, options.bits)
        job = refiner.plan(image, options.grid, options.overlap)
        height, width = job.size
        report(f"{path}: {width} x {height} pixels, {_patches(job.patches, refiner)}")
        if depth is None:
            report("  predicting coarse depth ...")
            depth = MapFile(models.depth(job.image), unit="disparity")
            statement = replace(statement, depth_unit=None)  # it is about files
        if normal is None and models.normal is not None:
            report("  predicting coarse normals ...")
            normal = MapFile(models.normal(job.image), axes="opencv")
            statement = replace(statement, normal_axes="")
        seen = image if options.detect_sky else None
        coarse = prepare_coarse_maps(depth, normal, masks, header, statement, refiner.config, seen)
        for note in [*notes, *coarse.notes]:
            report(f"  {note}")
        strips = refiner.run(job, coarse.depth, coarse.normal, progress)
        strips = coarse.restore(check_finite(strips, models.weights), wanted)
        focal = statement.focal_length(header)
        prefix = out / path.stem
        target = Target(prefix, options.formats, image, coarse, wanted, focal, options.axes)
        save_result(strips, target)
        if options.save_coarse:
            save_coarse(coarse.depth, coarse.normal, out / f"{path.stem}_coarse", wanted == "depth")
    return target


def check_finite(strips: Strips, weights: PathLike) -> Strips:
    """Pass strips on; fail at the first NaN, which only damaged weights cause."""
    for rows, result in strips:
        finite = np.isfinite(result.depth).all() and np.isfinite(result.normal).all()
        require(bool(finite), f"the refined maps contain NaN: the weights {weights} are damaged")
        yield rows, result


def _patches(count: int, refiner: Refiner) -> str:
    """The number of patches in words, and whether the result is approximate."""
    words = "1 patch" if count == 1 else f"{count} patches"
    pool = refiner.config.eval.pool
    if pool > 1:
        words += f", approximate: keys and values pooled over {pool} x {pool} tokens"
    return words
