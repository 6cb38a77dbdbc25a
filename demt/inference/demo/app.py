"""The page: its parts, what happens when they are used, and its server."""

# Annotations stay objects: gradio reads those of the functions that answer events, whose names are local here.

import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from demt.inference.demo.folder import own_folder
from demt.inference.demo.result import (
    Result,
    gallery,
    legend_html,
    marked,
    pair,
    read_photograph,
    sample_points,
    save_archive,
    save_points,
    values_at,
)
from demt.models import MultiTaskModel
from demt.tasks import Task
from demt.viz import title as title_of

#: Predictions and looks inside: how many run at once, and how many may wait.
AT_ONCE, WAITING = 2, 20
#: How many visitors' last results are kept; and for how many seconds, as are files.
VISITORS, KEPT = 64, 3600
#: Galleries have as many columns as there is room for, and their whole height.
_CSS = """
.tiles .grid-wrap { max-height: none; min-height: 0 }
.tiles .grid-container { grid-template-columns: repeat(auto-fill, minmax(min(100%, 240px), 1fr)) }
.tiles .thumbnail-item { aspect-ratio: auto }
"""
_ASK = "Drop a photograph, or take one with the camera."


def build_demo(models: Mapping[str, MultiTaskModel], *, title: str = "demt") -> Any:
    """The page as `gradio.Blocks`; `launch` serves it.

    Args:
        models: Models by the names that visitors choose from; the first is chosen at the start.
        title: Heading.

    Raises:
        ValueError: if there is no model.
        ImportError: if gradio is missing.
    """
    try:
        import gradio as gr
    except ImportError:
        raise ImportError("The web page needs gradio: pip install 'demt[demo]'") from None
    if not models:
        raise ValueError("Expected `models` to hold at least one model, got none")
    first = next(iter(models))
    tiles: dict[str, Any] = {"interactive": False, "show_label": False, "height": "auto", "elem_classes": "tiles"}
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(KEPT // 6, KEPT)) as page:
        result = gr.State(time_to_live=KEPT)
        gr.Markdown(f"# {title}\nEvery task on your photograph, which stays on this server for about an hour.")
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                photograph = gr.Image(type="filepath", image_mode=None, label="Photograph", height=260, elem_id="photo")
                model = gr.Dropdown(list(models), value=first, label="Model", elem_id="model")
                tasks = gr.CheckboxGroup(**_choices(models[first].tasks), label="Tasks", elem_id="tasks")
                said = gr.Markdown(_ASK, elem_id="said")
                download = gr.DownloadButton("Download everything", interactive=False, elem_id="download")
            with gr.Column(scale=3, min_width=300), gr.Tabs():
                with gr.Tab("All tasks"):
                    over = gr.Radio([], label="Over the photograph", elem_id="over")
                    slider = gr.ImageSlider(show_label=False, interactive=False, max_height=520, elem_id="slider")
                    colours = gr.HTML()
                    pictures = gr.Gallery(elem_id="pictures", **tiles)
                with gr.Tab("One pixel"):
                    clickable = gr.Image(
                        label="Click a pixel", interactive=False, buttons=["fullscreen"], elem_id="clickable"
                    )
                    values = gr.Dataframe(headers=["Task", "Value"], interactive=False, wrap=True, elem_id="values")
                    gr.Markdown("Where the deformable operator of each task samples for it:")
                    points = gr.Gallery(elem_id="points", **tiles)
                with gr.Tab("Points in space"):
                    # Model3D shows nothing of what it is given before its tab is open: hence a button.
                    draw = gr.Button("Draw the points", elem_id="draw")
                    cloud = gr.Model3D(label="Turn it with the mouse", interactive=False, height=520, elem_id="cloud")
                    fov = gr.Slider(20, 120, 60, step=1, label="Horizontal field of view of the camera, in degrees")

        def predict(upload: Any, name: Any) -> tuple[Result | None, str]:
            # Not preprocessed by gradio, which would open the file by itself: both are as a browser sent them.
            if not upload or not upload.get("path"):
                return None, _ASK
            start, file = time.perf_counter(), Path(upload["path"])
            try:
                picture = read_photograph(upload.get("orig_name") or file.name, file.read_bytes())
                found = Result.of(_known(models, name), picture)
            except (ValueError, OSError, MemoryError) as error:
                message = " ".join(str(error).split()) or "There is not enough memory for this photograph"
                gr.Warning(message)
                return None, message
            size, note = "{} x {} pixels".format(*picture.size), found.prediction.note
            return found, f"{size}, {time.perf_counter() - start:.1f} s. {note or ''}"

        def show(found: Result | None, chosen: list[str], task: str | None) -> list[Any]:
            if found is None or not (prediction := found.of_tasks(chosen)):
                return [gr.Radio(choices=[], value=None), None, "", [], None, [], [], None]
            task = task if task in prediction else next(iter(prediction))
            radio = gr.Radio(**{**_choices(prediction.tasks), "value": task})
            return [radio, *lay_over(found, task), gallery(prediction), prediction.image, [], [], None]

        def lay_over(found: Result | None, task: str | None) -> tuple[Any, str]:
            if found is None or task is None or task not in found.prediction:
                return None, ""
            return pair(found.prediction, task), legend_html(found.prediction, task)

        def look(found: Result | None, chosen: list[str], event: gr.SelectData) -> tuple[Any, ...]:
            if found is None:
                return None, [], []
            prediction, pixel = found.of_tasks(chosen), (int(event.index[0]), int(event.index[1]))
            rows = values_at(prediction, pixel)
            try:
                shown = sample_points(found, list(prediction), pixel)
            except ValueError as error:
                gr.Info(str(error))
                shown = []
            return marked(prediction.image, pixel), rows, shown

        def point(found: Result | None, chosen: list[str], degrees: float) -> Any:
            if found is None:
                return None
            path = _new_folder(cloud) / "points.glb"
            try:
                save_points(found.of_tasks(chosen), path, degrees)
            except ValueError as error:
                gr.Info(str(error))
                return None
            return path

        def pack(found: Result | None, chosen: list[str], degrees: float) -> Any:
            if found is None or not (prediction := found.of_tasks(chosen)):
                return gr.DownloadButton(value=None, interactive=False)
            save_archive(prediction, path := _new_folder(download) / "demt.zip", degrees)
            return gr.DownloadButton(value=path, interactive=True)

        together: dict[str, Any] = {"concurrency_limit": AT_ONCE, "concurrency_id": "model"}
        asked: dict[str, Any] = {"fn": predict, "inputs": [photograph, model], "outputs": [result, said], **together}
        shown: dict[str, Any] = {
            "fn": show,
            "inputs": [result, tasks, over],
            "outputs": [over, slider, colours, pictures, clickable, values, points, cloud],
        }
        packed: dict[str, Any] = {"fn": pack, "inputs": [result, tasks, fov], "outputs": download}
        renamed = model.input(lambda name: gr.CheckboxGroup(**_choices(_known(models, name).tasks)), model, tasks)
        for event in (photograph.input, renamed.then):
            event(**asked, preprocess=False).then(**shown).then(**packed)
        tasks.input(**shown, trigger_mode="always_last").then(**packed)
        over.input(lay_over, [result, over], [slider, colours])
        clickable.select(look, [result, tasks], [clickable, values, points], **together)
        draw.click(point, [result, tasks, fov], cloud)
        fov.release(**packed)
    return page.queue(max_size=WAITING)


def launch(
    models: Mapping[str, MultiTaskModel],
    *,
    host: str | None = "127.0.0.1",
    port: int | None = None,
    max_upload: int = 32 * 2**20,
    open_browser: bool = False,
    block: bool = True,
) -> Any:
    """Serve the page; it is what `build_demo` gives.

    Args:
        models: See `build_demo`.
        host: Address to listen on; by default no other machine reaches it. None: ``GRADIO_SERVER_NAME`` says.
        port: By default the first free one from 7860.
        max_upload: Largest file that is taken, in bytes; pictures may have `demt.data.files.MAX_PIXELS` pixels.
        open_browser: Open the page.
        block: Return when the server is stopped, not at once, and then remove what was uploaded and predicted; without
            it, use `own_folder` for that.

    Raises:
        ValueError, ImportError: see `build_demo`.
        OSError: if the port is taken.
    """
    if block:
        with own_folder():
            page = launch(models, host=host, port=port, max_upload=max_upload, open_browser=open_browser, block=False)
            page.block_thread()
        return page
    page = build_demo(models)
    page.launch(
        server_name=host,
        server_port=port,
        max_file_size=max_upload,
        inbrowser=open_browser,
        prevent_thread_lock=True,
        state_session_capacity=VISITORS,
        share=False,
        # It would ask the page for an answer within three seconds, which a loaded machine or a proxy does not give.
        _frontend=False,
        quiet=True,
        ssr_mode=False,
        footer_links=[],
        css=_CSS,
    )
    return page


def _new_folder(component: Any) -> Path:
    """A folder within gradio's own, from which it removes files in time."""
    folder = Path(component.GRADIO_CACHE) / uuid.uuid4().hex
    folder.mkdir(parents=True)
    return folder


def _known(models: Mapping[str, MultiTaskModel], name: Any) -> MultiTaskModel:
    if name not in models:
        raise ValueError(f"Expected the name of a model of {list(models)}, got {name!r}")
    return models[name]


def _choices(tasks: Mapping[str, Task]) -> dict[str, Any]:
    return {"choices": [(title_of(task), name) for name, task in tasks.items()], "value": list(tasks)}
