"""The page of `urgt app` in a browser, made with gradio."""

import html
import os
import tempfile
from collections.abc import Callable

from etils.epath import Path

from urgt_jax.data.priors.given import AXES_NAMES
from urgt_jax.errors import UserError, import_extra
from urgt_jax.images.files import image_size
from urgt_jax.inference.app_request import Answer, Request, answer_request
from urgt_jax.inference.outputs import DEFAULT_FORMATS, FORMATS
from urgt_jax.inference.refine_file import Models

TITLE = "URGT: refine a depth map"
UNITS = ("metres", "millimetres", "disparity", "inverse")


def import_gradio():
    """The module gradio, which sends no statistics then; a UserError if it is not installed."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    return import_extra("gradio", "app")


def serve(
    models: Models, host: str, port: int, share: bool, announce: Callable[[str], None]
) -> None:
    """Answer requests until Ctrl-C; `announce` takes the address once the page is there.

    Uploaded and refined files are in a temporary folder, which is removed at the end.
    """
    gradio = import_gradio()
    with tempfile.TemporaryDirectory(prefix="urgt_app_") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        page = build_page(gradio, models, Path(folder) / "results")
        try:
            _, local, shared = page.launch(
                server_name=host,
                server_port=port,
                share=share,
                quiet=True,
                prevent_thread_lock=True,
                ssr_mode=False,
                footer_links=[],
            )
        except OSError as error:
            raise UserError(
                f"cannot listen on {host}:{port}. Pass another --port, or another --host"
            ) from error
        announce(local)
        if shared:
            announce(shared)
        page.block_thread()


def build_page(gradio, models: Models, results: Path):
    """The fields on the left, what comes out of them on the right."""
    hour = 3600
    # Files are removed after a day: whoever leaves the page open can still download them.
    with gradio.Blocks(
        title=TITLE, analytics_enabled=False, delete_cache=(hour, 24 * hour)
    ) as page:
        gradio.Markdown(f"# {TITLE}")
        with gradio.Row():
            with gradio.Column(scale=1, min_width=320):
                image = gradio.File(label="Image", elem_id="image", height=140)
                depth = gradio.File(label="Coarse depth map", elem_id="coarse_depth", height=140)
                normal = gradio.File(label="Coarse normal map", elem_id="coarse_normal", height=140)
                unit = gradio.Dropdown(
                    [("as the file says", ""), *UNITS],
                    value="",
                    label="Unit of the coarse depth",
                    info="--depth-unit: one of these, or one unit in metres, such as 0.001",
                    allow_custom_value=True,
                )
                axes = gradio.Dropdown(
                    [("as the file says", ""), *AXES_NAMES],
                    value="",
                    label="Axes of the coarse normals",
                    info="--normal-axes: one of these, or three letters such as RUB",
                    allow_custom_value=True,
                )
                fov = gradio.Number(
                    value=0,
                    label="Horizontal field of view, degrees",
                    info="--fov: for normals from depth, ply, glb and camera; 0: as the image says",
                )
                sky = gradio.Checkbox(label="Look for the sky", info="--sky detect")
                formats = gradio.CheckboxGroup(
                    list(FORMATS), value=list(DEFAULT_FORMATS), label="Formats", info="--save"
                )
                button = gradio.Button("Refine", variant="primary", elem_id="refine")
            with gradio.Column(scale=2, min_width=320):
                slider = gradio.HTML(elem_id="slider")
                report = gradio.Textbox(label="Report", lines=4, elem_id="report")
                files = gradio.File(
                    label="Files", file_count="multiple", interactive=False, elem_id="files"
                )

        bar = gradio.Progress()

        # Gradio shows the bar that is the default of an argument.
        def refine(image, depth, normal, unit, axes, fov, sky, formats, progress=bar):
            def follow(done: int, count: int) -> None:
                progress(done / count, desc="refining")

            request = Request(image, depth, normal, unit, axes, fov, sky, formats)
            answer = answer_request(models, request, results, follow)
            text = "\n".join(answer.lines)
            return _embed(answer, request), text, [str(path) for path in answer.files]

        inputs = [image, depth, normal, unit, axes, fov, sky, formats]
        # One image at a time: two would need twice the memory.
        button.click(refine, inputs, [slider, report, files], concurrency_limit=1)
    return page


def _embed(answer: Answer, request: Request) -> str:
    """The page with the slider inside another page; its scripts cannot reach out of the frame."""
    if not answer.page:
        return ""
    height, width = image_size(Path(request.image))
    style = (
        f"width: 100%; height: calc(100cqw * {height / width:.4f} + 11rem); max-height: 90vh; "
        "border: 0"
    )
    source = html.escape(answer.page)
    return (
        f'<div style="container-type: inline-size"><iframe title="before and after" style="{style}"'
        f' sandbox="allow-scripts" srcdoc="{source}"></iframe></div>'
    )
