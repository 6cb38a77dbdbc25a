"""How much of the package one has to know: figures of its structure.

    python -m tests.benchmarks.structure

Prints the files and functions of `demt` that one forward pass of `demt_nano` runs through, the modules at the root, the
modules that some imports load, and the lines of Python in all.
"""

import subprocess
import sys
from pathlib import Path

import torch

import demt

ROOT = Path(demt.__file__).parent
IMPORTS = ("demt", "demt.config", "demt.registry", "demt.released.tables", "demt.layers", "demt.data.rooms")
HEAVY = ("torch", "torchvision", "timm", "torchmetrics", "transformers", "huggingface_hub")


def forward():
    """Files, functions and depth of calls in the package."""
    model, images = demt.create_model("demt_nano").eval(), torch.randn(1, 3, 192, 256)
    files, functions, deepest, depth = set(), set(), 0, 0

    def profile(frame, event, _):
        nonlocal depth, deepest
        code = frame.f_code
        if not code.co_filename.startswith(str(ROOT)) or event not in ("call", "return"):
            return
        depth += 1 if event == "call" else -1
        deepest = max(deepest, depth)
        files.add(Path(code.co_filename).relative_to(ROOT).as_posix())
        functions.add((code.co_filename, code.co_qualname if sys.version_info >= (3, 11) else code.co_name))

    with torch.no_grad():
        model(images)
        sys.setprofile(profile)
        try:
            model(images)
        finally:
            sys.setprofile(None)
    return sorted(files), functions, deepest


def loaded_by(name):
    code = (
        f"import sys, {name}; tops = [m.partition('.')[0] for m in sys.modules]; "
        f"print(tops.count('demt'), ','.join(m for m in {HEAVY} if m in sys.modules))"
    )
    own, heavy = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split(
        " "
    )
    return int(own), heavy.strip()


def main():
    files, functions, deepest = forward()
    print(f"A forward pass of demt_nano: {len(files)} files, {len(functions)} functions, {deepest} deep")
    print("  " + " ".join(files))
    print(f"Modules at the root: {len(list(ROOT.glob('*.py')))}")
    for name in IMPORTS:
        own, heavy = loaded_by(name)
        print(f"import {name}: {own} modules of demt; {heavy or 'none of ' + ', '.join(HEAVY)}")
    print(f"Lines of Python: {sum(len(file.read_text().splitlines()) for file in ROOT.rglob('*.py')):,}")


if __name__ == "__main__":
    main()
