"""Parameters and multiply-adds, held against published figures and a count by hand."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import demt
from demt.inference.cost import count_multiply_adds, count_parameters
from demt.ops import deform_mix, deform_sample
from demt.registry import get_config
from demt.released.tables import ROWS


@pytest.mark.parametrize(("name", "published"), [("swin_tiny", 4.5), ("swin_small", 8.7), ("swin_base", 15.4)])
def test_backbones_cost_what_their_papers_say(name, published):
    """Swin (arXiv 2103.14030, table 1): multiply-adds at 224 x 224."""
    with torch.device("meta"):
        backbone = demt.create_model(f"demt_{name}").eval().backbone
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            backbone(torch.empty(1, 3, 224, 224))
    # The published count holds the classifier and no output norms, and rounds.
    assert counter.get_total_flops() / 2e9 == pytest.approx(published, rel=0.03)


def test_deformable_sampling_is_counted():
    """The fused operator costs what its three steps cost."""
    x, hidden = torch.randn(2, 6, 5, 7), torch.randn(2, 18, 5, 7)
    offset_weight, weight = torch.randn(12, 9, 3, 3), torch.randn(4, 6)
    pixels = 2 * 5 * 7
    with FlopCounterMode(display=False) as fused:
        deform_mix(x, hidden, offset_weight, None, weight, None)
    with FlopCounterMode(display=False) as steps:
        offset = torch.nn.functional.conv2d(hidden, offset_weight, padding=1, groups=2)
        torch.nn.functional.conv2d(deform_sample(x, offset), weight[..., None, None])
    assert fused.get_total_flops() == steps.get_total_flops()
    assert steps.get_flop_counts()["Global"][torch.ops.demt.deform_sample] == 2 * pixels * 6 * 4


@pytest.mark.parametrize("name", ["demt_nano", "degmix_vit_base", "demtg_hrnet_w18.pascal"])
def test_counts_need_no_memory_and_equal_the_real_model(name):
    config, _ = get_config(name)
    model = demt.create_model(name).eval()
    assert count_parameters(config) == sum(parameter.numel() for parameter in model.parameters())
    # Some versions of torch do not count their fused attention on a CPU.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.randn(1, 3, 64, 96))
    assert count_multiply_adds(config, (64, 96)) == counter.get_total_flops() // 2


@pytest.mark.parametrize("options", [{"query": "global", "interaction": "global"}, {"depth": 0}])
def test_other_blocks_are_counted(options):
    config = get_config("demt_nano")[0].replace(**options)
    assert count_multiply_adds(config, (64, 64)) != count_multiply_adds(get_config("demt_nano")[0], (64, 64))


def test_differences_between_backbones_are_the_published_ones():
    """The decoders do not cost the same as in the released code; what another backbone adds does, nearly."""
    published = {row.names[0]: row.gflops for row in ROWS}
    tiny, small = (count_multiply_adds(get_config(f"demt_swin_{s}.nyud")[0], (425, 560)) for s in ("tiny", "small"))
    added = published["demt_swin_small.nyud"] - published["demt_swin_tiny.nyud"]
    assert (small - tiny) / 1e9 == pytest.approx(added, rel=0.03)


def test_the_backward_pass_is_counted(monkeypatch):
    # The operator's own: what is kept for small maps is made of torch's.
    monkeypatch.setattr("demt.ops.deform_kept.KEPT", 0)
    x, hidden = torch.randn(1, 6, 5, 7, requires_grad=True), torch.randn(1, 18, 5, 7, requires_grad=True)
    offset_weight, weight = torch.randn(12, 9, 3, 3, requires_grad=True), torch.randn(4, 6, requires_grad=True)
    out = deform_mix(x, hidden, offset_weight, None, weight, None)
    with FlopCounterMode(display=False) as counter:
        out.sum().backward()
    # Offsets and samples again; gradients of samples and of the mixing weight; twice the sampling; hidden and offsets.
    multiply_adds = 35 * (offset_weight.numel() + 4 * 6 + 2 * weight.numel() + 2 * 4 * 6 + 2 * offset_weight.numel())
    assert counter.get_total_flops() == 2 * multiply_adds
