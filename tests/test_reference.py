"""The heads against their literal equations in float64, forward and backward."""

import pytest
import torch

from demt.config import ModelConfig
from demt.models.demt import BaselineHead, DeMTHead
from demt.models.variants import FAMILIES
from tests.reference import head as reference

TASKS = {"semseg": 5, "normals": 3, "edge": 1}
MODES = [
    ("demt", {}),
    ("demt", {"interaction": "global", "query": "global"}),
    ("demt", {"offset_groups": 4}),
    ("demtg", {}),
    ("demtg", {"interaction": "global"}),
    ("degmix", {}),
    ("degmix", {"interaction": "global", "query": "global"}),
    ("degmix", {"neck": "taps"}),
    ("degmix", {"query": "pixelwise"}),
    ("multitask_baseline", {}),
]


def make_head(family, options, tasks=TASKS, width=16):
    config = ModelConfig(family=family, backbone="", tasks=tasks, **{**FAMILIES[family], "width": width, **options})
    neck = config.neck or ("patch" if family == "degmix" else "linear")
    config = config.replace(neck=neck)
    torch.manual_seed(0)
    strides = (16,) * 4 if neck == "taps" else (4, 8, 16, 32)
    head = (BaselineHead if family == "multitask_baseline" else DeMTHead)((4, 6, 8, 10), strides, config)
    for parameter in head.parameters():
        # Away from zeros and ones, so that every term counts, and offsets of a few pixels.
        torch.nn.init.normal_(parameter, std=0.3 if parameter.ndim > 1 else 0.5)
    for name, buffer in head.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(std=0.2)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    return head.double(), config


def make_levels(neck, batch, height, width):
    sizes = [(height, width)] * 4 if neck == "taps" else [(-(-height // s), -(-width // s)) for s in (1, 2, 4, 8)]
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(batch, c, *s, dtype=torch.float64, generator=generator) for c, s in zip((4, 6, 8, 10), sizes)]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("family", "options"), MODES)
def test_equals_the_equations(family, options, training):
    head, config = make_head(family, options)
    head.train(training)
    levels = make_levels(config.neck, 2, 5, 7)
    ours = head(levels, (19, 27))
    state = {n: t.detach().clone() for n, t in head.state_dict().items()}
    if training:
        # The forward pass above moved the running statistics; the reference uses the batch's.
        head, _ = make_head(family, options)
        ours = head.train()(levels, (19, 27))
    leaves = {n: state[n].requires_grad_() for n, _ in head.named_parameters()}
    theirs = reference.head({**state, **leaves}, config, levels, (19, 27), training=training)
    assert list(ours) == list(theirs)
    for task in ours:
        assert (ours[task] - theirs[task]).abs().max() <= 1e-10 * theirs[task].abs().max().clamp_min(1)
    weights = {t: torch.randn(o.shape, dtype=torch.float64) for t, o in ours.items()}
    sum((ours[t] * weights[t]).sum() for t in ours).backward()
    sum((theirs[t] * weights[t]).sum() for t in theirs).backward()
    for name, parameter in head.named_parameters():
        wanted = leaves[name].grad
        scale = wanted.abs().max().clamp_min(1)
        assert (parameter.grad - wanted).abs().max() <= 1e-10 * scale, name


@pytest.mark.parametrize(("family", "options"), MODES)
def test_a_batch_equals_single_images(family, options):
    head, config = make_head(family, options)
    levels = make_levels(config.neck, 3, 6, 5)
    with torch.no_grad():
        together = head.eval()(levels, (24, 20))
        for i in range(3):
            alone = head([level[i : i + 1] for level in levels], (24, 20))
            for task in together:
                torch.testing.assert_close(alone[task], together[task][i : i + 1], rtol=0, atol=1e-10)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (3, 1)])
@pytest.mark.parametrize(("family", "options"), MODES)
def test_smallest_maps(family, options, size):
    head, config = make_head(family, options)
    levels = make_levels(config.neck, 2, *size)
    state = head.state_dict()
    with torch.no_grad():
        ours, theirs = head.eval()(levels, (4, 4)), reference.head(state, config, levels, (4, 4))
    for task in ours:
        torch.testing.assert_close(ours[task], theirs[task], rtol=1e-9, atol=1e-9)
