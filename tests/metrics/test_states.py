"""What all metrics share: splits, processes, memory, devices, checks."""

import math
import pickle

import pytest
import torch

from demt.metrics import DepthMetrics, MaxF, MeanIoU, NormalsMetrics, RootMeanSquaredError
from tests.metrics.common import METRICS, case, flat


def _computed(name, *splits):
    preds, target = case(name)
    metric = METRICS[name]()
    for part in splits:
        metric.update(preds[part], target[part])
    return flat(metric.compute())


@pytest.mark.parametrize("name", METRICS)
def test_any_split_into_batches_gives_the_same(name):
    whole = _computed(name, slice(None))
    # 1e-12: sums are float64, only the order of addition changes.
    assert _computed(name, slice(0, 1), slice(1, 3)) == pytest.approx(whole, rel=1e-12)
    assert _computed(name, *(slice(i, i + 1) for i in (2, 0, 1))) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_memory_does_not_grow(name):
    metric = METRICS[name]()
    sizes = []
    for seed in range(4):
        metric.update(*case(name, seed=seed))
        sizes.append({key: (getattr(metric, key).shape, getattr(metric, key).dtype) for key in metric._defaults})
        assert {dtype for _, dtype in sizes[-1].values()} <= {torch.long, torch.float64}
    assert sizes == sizes[:1] * 4


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
@pytest.mark.parametrize("name", METRICS)
def test_reset_pickle_and_forward(name):
    preds, target = case(name)
    metric = METRICS[name]()
    on_batch = flat(metric(preds, target))
    assert on_batch == flat(metric.compute())
    again = pickle.loads(pickle.dumps(metric))
    assert flat(again.compute()) == on_batch
    metric.reset()
    with pytest.raises(ValueError, match="no labelled pixel"):
        metric.compute()


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
@pytest.mark.parametrize("name", METRICS)
def test_nothing_labelled_is_an_error(name):
    preds, target = case(name)
    metric = METRICS[name]()
    with pytest.raises(ValueError, match="no labelled pixel"):
        metric.compute()
    metric.update(preds, torch.full_like(target, 255))
    with pytest.raises(ValueError, match="no labelled pixel"):
        metric.compute()


@pytest.mark.parametrize("name", METRICS)
def test_fully_ignored_images_change_nothing(name):
    preds, target = case(name)
    metric = METRICS[name]()
    metric.update(preds, target)
    metric.update(preds, torch.full_like(target, 255))
    assert flat(metric.compute()) == _computed(name, slice(None))


@pytest.mark.parametrize("name", METRICS)
def test_device_without_float64_falls_back(name):
    preds, target = case(name)
    metric = METRICS[name]()

    def to_small_device(tensor):
        if tensor.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64")
        return tensor.clone()

    metric._apply(to_small_device)
    assert all(getattr(metric, key).dtype in (torch.long, torch.float32) for key in metric._defaults)
    metric.update(preds, target)
    assert flat(metric.compute()) == pytest.approx(_computed(name, slice(None)), rel=1e-5)
    metric.reset()
    assert all(getattr(metric, key).dtype in (torch.long, torch.float32) for key in metric._defaults)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", METRICS)
def test_cuda_equals_cpu(name):
    preds, target = case(name)
    metric = METRICS[name]().cuda()
    metric.update(preds.cuda(), target.cuda())
    assert flat(metric.compute()) == pytest.approx(_computed(name, slice(None)), rel=1e-6)


@pytest.mark.parametrize(
    ("metric", "preds", "target", "message"),
    [
        (
            MeanIoU(3),
            torch.zeros(1, 2, 2).long(),
            torch.zeros(1, 2, 3),
            r"the same shape, got \(1, 2, 2\) and \(1, 2, 3\)",
        ),
        (MeanIoU(3), torch.zeros(1, 2, 2).long(), torch.zeros(1, 3, 2, 2), "Expected `target` of shape"),
        (
            MeanIoU(3),
            torch.zeros(1, 2, 2).long(),
            torch.full((1, 2, 2), 3),
            r"label 3 found; expected labels in \[0, 2\]",
        ),
        (MeanIoU(3), torch.full((1, 2, 2), 3), torch.zeros(1, 2, 2), r"`preds` in \[0, 2\], got 3 to 3"),
        (MeanIoU(3), torch.zeros(1, 2, 2), torch.zeros(1, 2, 2), "class ids .integers., got torch.float32"),
        (MaxF(), torch.full((1, 2, 2), math.nan), torch.zeros(1, 2, 2), "`preds` hold NaN"),
        (MaxF(), torch.zeros(1, 2, 2), torch.full((1, 2, 2), 128), r"label 128 found; expected labels in \[0, 1\]"),
        (MeanIoU(3), torch.zeros(1, 2, 2).long(), torch.full((1, 2, 2), 0.5), "labels must be whole numbers"),
        (MaxF(), torch.zeros(1, 2, 2), torch.full((1, 2, 2), 0.5), "labels must be whole numbers"),
        (RootMeanSquaredError(), torch.ones(1, 2, 2), torch.full((1, 2, 2), math.inf), "label inf found"),
        (DepthMetrics(), torch.zeros(1, 2, 2), torch.zeros(1, 2, 2), "label 0 found; expected depths > 0, or 255"),
        (DepthMetrics(), torch.full((1, 2, 2), math.inf), torch.ones(1, 2, 2), "`preds` hold NaN or infinite"),
        (DepthMetrics(), torch.ones(1, 2, 2), torch.full((1, 2, 2), math.nan), "label nan found"),
        (RootMeanSquaredError(), torch.ones(1, 2, 2, 2), torch.ones(1, 2, 2), "one shape"),
        (NormalsMetrics(), torch.ones(1, 2, 2, 2), torch.ones(1, 2, 2, 2), r"shape \(B, 3, H, W\)"),
        (NormalsMetrics(), torch.ones(1, 3, 2, 2), torch.full((1, 3, 2, 2), 128.0), "label 128 found"),
    ],
)
def test_bad_input(metric, preds, target, message):
    with pytest.raises(ValueError, match=message):
        metric.update(preds, target)


def test_bad_constructor_arguments():
    with pytest.raises(ValueError, match="`num_classes` >= 1"):
        MeanIoU(0)
    with pytest.raises(ValueError, match="`absent`"):
        MeanIoU(3, absent="ignore")
    with pytest.raises(ValueError, match="ascending"):
        MaxF(thresholds=[0.5, 0.1])
    with pytest.raises(ValueError, match="beta_squared"):
        MaxF(beta_squared=0)
