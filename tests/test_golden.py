"""Equality with the released models, and the gradients of their heads."""

import pytest
import torch

import demt
from demt.released.convert import convert
from demt.released.names import rename
from tests.golden import make

# (relative to the standard deviation of the released output)
RMS, LARGEST = 1e-4, 1e-2


def check_close(actual, expected, what):
    error, deviation = (actual - expected).float(), expected.std()
    assert error.pow(2).mean().sqrt() <= RMS * deviation, what
    assert error.abs().max() <= LARGEST * deviation, what


def levels_of(case, info):
    shapes = [(1, planes, *size) for planes, size in zip(info["planes"], info["level_sizes"])]
    return [make.made_input(case, f"level{i}", shape) for i, shape in enumerate(shapes)]


@pytest.mark.parametrize("case", make.cases("heads"))
def test_heads(case):
    info, expected = make.cases("heads")[case], make.expected("heads")
    head = demt.load_released(make.state_dict(info["manifest"]))
    with torch.no_grad():
        outputs = head(levels_of(case, info), tuple(info["input_size"]))
    assert list(outputs) == list(info["tasks"])
    stride = info["output_stride"]
    for task, logits in outputs.items():
        assert logits.shape == (1, info["tasks"][task], *info["input_size"])
        check_close(logits[..., ::stride, ::stride], expected[f"{case}/{task}"], task)


@pytest.mark.parametrize(("file", "case"), [(f, c) for f in ("models", "vit") for c in make.cases(f)])
def test_models(file, case):
    info, expected = make.cases(file)[case], make.expected(file)
    converted = convert(make.state_dict(info["manifest"]))
    model = demt.load_released(make.state_dict(info["manifest"]))
    images = make.made_input(case, "image", (1, 3, *info["input_size"]))
    with torch.no_grad():
        levels, outputs = model.backbone(images), model(images)
    for i, level in enumerate(levels):
        step = info["feature_stride"]
        sampled = level[:, :: info["feature_channel_stride"][i], ::step, ::step]
        check_close(sampled, expected[f"{case}/feature{i}"], f"level {i}")
    assert {name: task.channels for name, task in model.tasks.items()} == info["tasks"]
    stride = info["output_stride"]
    for task, logits in outputs.items():
        assert logits.shape[-2:] == images.shape[-2:]
        check_close(logits[..., ::stride, ::stride], expected[f"{case}/{task}"], task)
    # Parameters, together with those listed as unused, are the released model's.
    count = sum(p.numel() for p in model.parameters())
    assert count + sum(converted.unused.values()) == info["parameters"]


@pytest.mark.parametrize("family", ["demt", "demtg", "degmix"])
def test_head_gradients(family):
    case, wanted = f"{family}-nyud-even", make.cases("head_gradients")[family]
    info = make.cases("heads")[case]
    state = make.state_dict(info["manifest"])
    head = demt.load_released(state).train()
    outputs = head(levels_of(case, info), tuple(info["input_size"]))
    weights = {task: torch.from_numpy(make.standard_normal(f"grad/{task}", o.shape)) for task, o in outputs.items()}
    loss = sum((logits * weights[task]).mean() for task, logits in outputs.items())
    loss.backward()
    assert loss.item() == pytest.approx(wanted["loss"], rel=1e-3, abs=1e-6)
    gradients = {f"head.{name}": p.grad for name, p in head.named_parameters()}
    seen = set()
    for name, norm in wanted["grad_norm"].items():
        ours, _ = rename(f"head.{name}", state[name], list(head.tasks), head.config.neck)
        assert (norm is None) == (not ours), name
        if norm is not None:
            seen |= set(ours)
            squared = sum(float(gradients[n].double().square().sum()) for n in ours)
            assert squared**0.5 == pytest.approx(norm, rel=1e-3), name
    assert seen == set(gradients)
