"""The Triton kernels of `deform_mix`: their arithmetic in Triton's interpreter, and that they compile for GPUs.

The interpreter is chosen when triton is imported, so those tests run in a process of their own, started by the first.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from demt.ops import best_path, deform_mix, deform_mix_reference, dispatch
from tests.ops.test_deform_mix import NAMES, SHAPES, make, value_and_gradients

triton = pytest.importorskip("triton", minversion="3.3", reason="the kernels and these tests want triton 3.3")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETED, reason="runs in the interpreter, by test_in_the_interpreter")
compiled = pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")

# One image, batches, more channels, outputs and pixels than a tile holds, none a multiple of one.
KERNEL_SHAPES = [shape for shape in SHAPES if shape[1] == shape[2] and shape[1] % 2 == 0] + [(1, 34, 34, 17, 5, 7)]


@compiled
def test_in_the_interpreter():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", "interpreted", __file__],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert " passed" in done.stdout


@interpreted
@pytest.mark.parametrize("shape", KERNEL_SHAPES)
def test_interpreted_equals_reference_in_value_and_gradients(shape):
    assert best_path("cpu").name == "triton"
    arguments = make(*shape, torch.float32)
    expected = value_and_gradients(deform_mix_reference, [each.double() for each in arguments])
    for name, ours, exact in zip(["out", *NAMES], value_and_gradients(deform_mix, arguments), expected):
        scale = exact.abs().max().item()
        torch.testing.assert_close(
            ours.double() / scale, exact / scale, rtol=0, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


@interpreted
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("hidden_dtype", [None, torch.float32])
def test_interpreted_half_precision(dtype, hidden_dtype):
    arguments = make(1, 8, 8, 6, 6, 7, torch.float32)
    arguments = [each.to(dtype if n in (0, 4, 5) else hidden_dtype or dtype) for n, each in enumerate(arguments)]
    expected = value_and_gradients(deform_mix_reference, [each.double() for each in arguments])
    for given, ours, exact in zip([arguments[0], *arguments], value_and_gradients(deform_mix, arguments), expected):
        assert ours.dtype == given.dtype
        scale = exact.abs().max().item()
        torch.testing.assert_close(ours.double() / scale, exact / scale, rtol=0, atol=4 * torch.finfo(dtype).eps)


@interpreted
@pytest.mark.parametrize("value", [-1e30, float("inf"), float("nan")])
def test_interpreted_offsets_that_are_no_positions_sample_zero(value):
    arguments = make(1, 4, 4, 3, 6, 9, torch.float32)
    arguments[3][2] = value  # rows of channel 1
    out, grad_x, *_ = value_and_gradients(deform_mix, arguments)
    assert torch.all(grad_x[:, 1] == 0)
    arguments[3][2] = 0
    arguments[4][:, 1] = 0
    torch.testing.assert_close(out, deform_mix(*arguments), rtol=1e-4, atol=1e-4)


@interpreted
def test_interpreted_shapes_without_a_kernel_fall_back():
    for shape in ((1, 4, 2, 3, 5, 6), (1, 3, 3, 2, 4, 5)):
        arguments = make(*shape, torch.float32)
        assert dispatch.triton_obstacle(arguments[0], arguments[2], arguments[4])
        torch.testing.assert_close(deform_mix(*arguments), deform_mix_reference(*arguments), rtol=1e-4, atol=1e-4)


@compiled
@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
@pytest.mark.parametrize("kernel", ["forward_kernel", "backward_kernel"])
def test_compiles_for_a_gpu_that_is_not_there(kernel, monkeypatch, tmp_path):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from demt.ops.triton import kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    function = getattr(kernels, kernel)
    constants = {"BLOCK_C": 16, "BLOCK_P": 32, "BLOCK_K": 32, "BLOCK_D": 256, "ALL_K": 128, "TF32": False}
    constants["PRODUCT"] = triton.language.bfloat16
    constants = {name: value for name, value in constants.items() if name in function.arg_names}
    low = ("x", "weight", "bias", "out", "grad_sampled", "sampled")
    sizes = ("C", "D", "H", "W", "TILES")
    types = {name: "i32" if name in sizes else "*bf16" if name in low else "*fp32" for name in function.arg_names}
    source = ASTSource(
        fn=function,
        signature={name: "constexpr" if name in constants else kind for name, kind in types.items()},
        constexprs={(function.arg_names.index(name),): value for name, value in constants.items()},
    )
    binary = triton.compile(source, target=GPUTarget("cuda", 80, 32), options={"num_warps": 8, "num_stages": 2})
    assert "mma.sync" in binary.asm["ptx"]  # matrix products on the tensor cores
    assert binary.metadata.shared <= 99 * 1024  # what the smallest GPU of compute capability 8 gives a block


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("shape", KERNEL_SHAPES)
def test_cuda_equals_reference(shape):
    arguments = make(*shape, torch.float32)
    expected = value_and_gradients(deform_mix_reference, [each.double() for each in arguments])
    assert best_path("cuda").name == "triton"
    results = value_and_gradients(lambda *given: deform_mix(*given), [each.cuda() for each in arguments])
    for name, ours, exact in zip(["out", *NAMES], results, expected):
        scale = exact.abs().max().item()
        torch.testing.assert_close(
            ours.cpu().double() / scale, exact / scale, rtol=0, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )
