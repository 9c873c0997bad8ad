"""One request to the page of `urgt app`: what was filled in, and what it gets back."""

import shutil
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

from etils.epath import Path

from urgt_jax.data.priors.given import parse_depth_unit
from urgt_jax.errors import UserError, one_line, reason, require, shorten
from urgt_jax.files import make_folder
from urgt_jax.inference.coarse_maps import Statement
from urgt_jax.inference.outputs import DEFAULT_FORMATS
from urgt_jax.inference.refine_file import (
    MapPaths,
    Models,
    Options,
    Report,
    check_sources,
    refine_file,
)
from urgt_jax.inference.refiner import ReportProgress, ignore_progress


@dataclass(frozen=True)
class Request:
    """What the user filled in. An empty field stands for nothing."""

    image: str | None = None  # the path of the uploaded file
    coarse_depth: str | None = None
    coarse_normal: str | None = None
    depth_unit: str | None = None  # as for --depth-unit
    normal_axes: str | None = None  # as for --normal-axes
    fov: float | None = None  # degrees
    detect_sky: bool = False
    formats: Sequence[str] = DEFAULT_FORMATS


@dataclass(frozen=True)
class Answer:
    """What `urgt refine` prints and writes."""

    lines: list[str]  # the last one is the error, if there is one
    page: str = ""  # of HTML, with the slider; empty after an error
    files: tuple[Path, ...] = ()


def answer_request(
    models: Models, request: Request, out: Path, progress: ReportProgress = ignore_progress
) -> Answer:
    """Refine an uploaded image into the folder `out`, which is emptied first.

    No error leaves this function: whatever is wrong with one request, the next one is answered.
    """
    lines: list[str] = []
    paths = [request.image, request.coarse_depth, request.coarse_normal]
    folders = [f"{Path(path).parent}/" for path in paths if path]

    def report(line: str) -> None:
        for folder in folders:  # of the server, which mean nothing to the user
            line = line.replace(folder, "")
        lines.append(line)

    try:
        return Answer(lines, *_refine(models, request, out, report, progress))
    except UserError as error:
        report(f"error: {error}")
    except OSError as error:
        report(f"error: {one_line(str(error))}")
    except Exception as error:
        traceback.print_exc()
        report(f"error: {reason(error)}")
    lines[-1] = shorten(lines[-1])
    print(lines[-1], file=sys.stderr, flush=True)
    return Answer(lines)


def _refine(
    models: Models,
    request: Request,
    out: Path,
    report: Report,
    progress: ReportProgress,
) -> tuple[str, tuple[Path, ...]]:
    """The page with the slider, and the files."""
    if out.exists():
        shutil.rmtree(out)
    make_folder(out)
    require(request.image, "there is no image. Drop one into the first field")
    require(request.formats, "no format is chosen (--save)")
    image = Path(request.image)
    maps = MapPaths(
        Path(request.coarse_depth) if request.coarse_depth else None,
        Path(request.coarse_normal) if request.coarse_normal else None,
    )
    require(
        maps.depth is not None or models.depth is not None,
        f"{image}: no coarse depth map. Add one, or start urgt app with --depth-weights FILE or "
        "--accept-licences, which downloads a network that makes it",
    )
    unit = parse_depth_unit(request.depth_unit) if request.depth_unit else None
    options = Options(
        Statement(unit, request.normal_axes or "", request.fov or None),
        # The slider is shown in any case.
        tuple(dict.fromkeys([*request.formats, "compare"])),
        detect_sky=request.detect_sky,
    )
    makes_normal = models.normal is not None
    header = check_sources(image, maps, options, models.depth is not None, makes_normal)
    target = refine_file(models, image, header, maps, options, out, report, progress)
    page_path = target.named("compare.html")
    page = page_path.read_text()
    if "compare" not in request.formats:
        page_path.unlink()
    return page, tuple(sorted(out.iterdir()))
