"""One model and one folder of own data, measured in four ways: the run's report, `demt eval`, `demt.predict`, ONNX.

    python -m tests.benchmarks.one_scale

Twelve rooms of 240 x 320 as PNG and .npy files; the packaged model fine-tuned on them for 20 steps with crops of
96 x 128. The ONNX file is run with NumPy, Pillow and onnxruntime alone.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table
from typer.testing import CliRunner

import demt
from demt.cli import app
from demt.data import SyntheticRooms
from demt.export.write import export
from demt.train import load_recipe, train
from tests.inference.test_one_scale import TASKS, metrics_of, onnx_predictor, rounded


def write_data(root):
    rooms = SyntheticRooms((240, 320), 12, seed=11, tasks=list(TASKS))
    for folder in ("images", *TASKS):
        (root / folder).mkdir(parents=True)
    for index in range(len(rooms)):
        sample = {name: value.numpy() for name, value in rooms.read(index).items() if name != "id"}
        Image.fromarray(sample["image"].transpose(1, 2, 0)).save(root / f"images/{index}.png")
        Image.fromarray(sample["semseg"][0]).save(root / f"semseg/{index}.png")
        np.save(root / f"normals/{index}.npy", sample["normals"].transpose(1, 2, 0))
        np.save(root / f"depth/{index}.npy", sample["depth"][0])


def main():
    with tempfile.TemporaryDirectory() as folder:
        root, out = Path(folder) / "data", Path(folder) / "run"
        write_data(root)
        changes = ["model.name=demt_nano.rooms", "model.pretrained=true", f"data.root={root}", "data.size=[96,128]"]
        changes += ["data.tasks={semseg: 16, normals: 3, depth: 1}", "data.workers=0", "batch_size=4", f"out={out}"]
        changes += ["steps=20", "optim.warmup=2", "eval_every=20", "save_every=20", "samples=0", "ema=null"]
        trained = train(load_recipe("finetune", changes), console=Console(quiet=True))
        columns = {"run": rounded(trained.results)}
        saved = Path(folder) / "eval.json"
        arguments = ["eval", out / "last", root, "--dataset", "folder", "--out", saved]
        result = CliRunner().invoke(app, [str(each) for each in arguments])
        assert result.exit_code == 0, result.output
        columns["`demt eval`"] = rounded(json.loads(saved.read_text())["results"])
        model = demt.create_model(str(out / "last"))
        columns["`demt.predict`"] = metrics_of(root, lambda file: demt.predict(model, file))
        export(model, Path(folder) / "model.onnx")
        columns["ONNX"] = metrics_of(root, onnx_predictor(Path(folder) / "model.onnx"))
        columns["`demt.predict` at 320"] = metrics_of(root, lambda file: demt.predict(model, file, max_size=320))
    table = Table("", *columns, box=None)
    for name in columns["run"]:
        table.add_row(name, *(f"{values[name]:.5f}" for values in columns.values()))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
