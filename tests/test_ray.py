"""The example with Ray Data gives what `demt.predict` gives, through a cluster of this machine."""

import importlib.util
import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import demt


@pytest.mark.slow
def test_200_pictures_through_a_local_cluster(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.data")
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    rng, files = np.random.default_rng(0), {}
    for number in range(200):
        file = io.BytesIO()
        size = (24, 32) if number % 3 else (32, 24)
        Image.fromarray(rng.integers(0, 255, (*size, 3)).astype(np.uint8)).save(file, format="PNG")
        files[f"{number:03}.png"] = file.getvalue()
    files["007.png"] = b"broken"
    table = pyarrow.table({"path": list(files), "bytes": list(files.values())})
    parquet.write_table(table, tmp_path / "in.parquet", row_group_size=50)
    example = Path(__file__).parents[1] / "examples/ray_predict.py"
    spec = importlib.util.spec_from_file_location("ray_predict", example)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "ray_predict", module)
    spec.loader.exec_module(module)
    # Workers import what is pickled by reference: the example is no package that they could import.
    ray.cloudpickle.register_pickle_by_value(module)
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=200 * 2**20)
    try:
        module.main(str(tmp_path / "in.parquet"), str(tmp_path / "out"), model="multitask_baseline_nano.rooms")
    finally:
        ray.shutdown()
    rows = {row["path"]: row for row in parquet.read_table(tmp_path / "out").to_pylist()}
    assert set(rows) == set(files)
    assert [path for path, row in rows.items() if row["error"]] == ["007.png"]
    model = demt.create_model("multitask_baseline_nano.rooms", pretrained=True).eval()
    for path, contents in files.items():
        if path == "007.png":
            continue
        expected = demt.predict(model, Image.open(io.BytesIO(contents)))
        semseg = np.asarray(Image.open(io.BytesIO(rows[path]["semseg_png"])))
        depth = np.asarray(Image.open(io.BytesIO(rows[path]["depth_png"])))
        # Another number of threads may round another way.
        assert (semseg == expected["semseg"]).mean() > 0.999
        np.testing.assert_allclose(depth, 1000 * expected["depth"], atol=0.6)
