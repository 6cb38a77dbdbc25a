"""Predict on a table of pictures with Ray Data: on one machine, or on a cluster without a shared disk.

Pictures come as bytes in Parquet, predictions go as PNG bytes in Parquet. Ray distributes the rows over the
machines, restarts what fails, and reads and writes `s3://` and other addresses as well as folders.

    pip install demt 'ray[data]'
    python examples/ray_predict.py pictures.parquet predictions

INPUT has the columns `path` (a name) and `bytes` (an image file).
"""

from __future__ import annotations

import argparse
import io
from typing import Any

import numpy as np
import ray
from PIL import Image

import demt


def png(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, format="PNG")
    return file.getvalue()


class Predictor:
    """Holds the model of one worker, which is loaded once, and runs batches of rows."""

    def __init__(self, model: str, device: str) -> None:
        self.model = demt.create_model(model, pretrained=True).eval().to(device)

    def __call__(self, rows: dict[str, np.ndarray]) -> dict[str, Any]:
        out: dict[str, list[Any]] = {"path": [], "semseg_png": [], "depth_png": [], "error": []}
        for path, contents in zip(rows["path"], rows["bytes"]):
            semseg, depth, error = b"", b"", ""
            try:
                with Image.open(io.BytesIO(contents)) as image:
                    prediction = demt.predict(self.model, image)
                semseg = png(prediction["semseg"])
                # Millimetres; 0 where there is no depth that 16 bits hold.
                millimetres = np.rint(1000 * prediction["depth"].astype(np.float64))
                depth = png(np.where((millimetres > 0) & (millimetres < 2**16), millimetres, 0).astype(np.uint16))
            except (OSError, ValueError) as problem:
                error = str(problem)
            for name, value in zip(out, (path, semseg, depth, error)):
                out[name].append(value)
        return out


def main(source: str, target: str, *, model: str = "demt_lite.photos", workers: int = 1, gpus: int = 0) -> None:
    """Read Parquet at `source`, predict with `workers` copies of the model, write Parquet to `target`."""
    pictures = ray.data.read_parquet(source, columns=["path", "bytes"])
    predictions = pictures.map_batches(
        Predictor,
        fn_constructor_args=(model, "cuda" if gpus else "cpu"),
        concurrency=workers,
        num_gpus=gpus,
        batch_size=16,
    )
    predictions.write_parquet(target)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="INPUT")
    parser.add_argument("target", metavar="OUTPUT")
    parser.add_argument("--model", default="demt_lite.photos")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--gpus", type=int, default=0, help="of each worker")
    arguments = vars(parser.parse_args())
    main(arguments.pop("source"), arguments.pop("target"), **arguments)
