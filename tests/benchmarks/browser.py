"""The page of `demt browser` in headless Chromium: processor time a picture, and a picture of the page.

python -m tests.benchmarks.browser PAGE PICTURE [--shot page.png] [--task depth] [--rounds 7]

PAGE is what `demt browser MODEL PAGE --runtime …` wrote; needs playwright. The times are those of the process that
shows the page, and of onnxruntime in this process with one thread, in turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import onnxruntime
from playwright.sync_api import sync_playwright

from tests.export.test_browser import CHROMIUM, served

RUN = """async () => {
  const { run } = await import("./page.js");
  const { height, width } = await run(document.getElementById("file").files[0]);
  return [height, width];
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--shot", type=Path)
    parser.add_argument("--task")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(arguments.page / "model.onnx"), options)
    with sync_playwright() as playwright, served(arguments.page) as address:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1000, "height": 760})
        processes = browser.new_browser_cdp_session()

        def renderer() -> float:
            found = processes.send("SystemInfo.getProcessInfo")["processInfo"]
            return sum(process["cpuTime"] for process in found if process["type"] == "renderer")

        page.goto(address)
        page.set_input_files("#file", arguments.picture)
        said = f"document.getElementById('status').textContent.startsWith({json.dumps(arguments.picture.name)})"
        page.wait_for_function(said, timeout=300_000)
        times: dict[str, list[float]] = {"onnxruntime-web": [], "onnxruntime": []}
        for _ in range(arguments.rounds):
            start = renderer()
            size = page.evaluate(RUN)
            times["onnxruntime-web"].append(renderer() - start)
            images = np.zeros((1, 3, *size), np.float32)
            start = time.process_time()
            session.run(None, {"images": images})
            times["onnxruntime"].append(time.process_time() - start)
        if arguments.task:
            page.check(f"input[value={arguments.task}]")
        if arguments.shot:
            # Once more, as people see it who try a second picture.
            page.evaluate("document.getElementById('status').textContent = ''")
            page.set_input_files("#file", [])
            page.set_input_files("#file", arguments.picture)
            page.wait_for_function(said, timeout=300_000)
            page.screenshot(path=arguments.shot, clip={"x": 0, "y": 0, "width": 1000, "height": 680})
        browser.close()
    for name, values in times.items():
        print(f"{name} {size}: {min(values):.2f} s at least, median {statistics.median(values):.2f} s")


if __name__ == "__main__":
    main()
