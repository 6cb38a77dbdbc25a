import pickle

import numpy as np
import pytest
import torch
from torchmetrics import MetricCollection

from demt.metrics import BoundaryScore
from demt.metrics.boundary.inputs import BSDS_THRESHOLDS, SEISM_THRESHOLDS
from demt.metrics.functional import boundary_counts, boundary_scores, boundary_target
from tests.distributed import run_in_two

from . import boundary_golden as golden


def images(count=6, size=(60, 80)):
    inputs = golden.load("inputs")
    preds, target = (torch.from_numpy(inputs[f"thick.{part}"]) for part in ("pred", "gt"))
    places = [(7 * k % 60, 11 * k % 80) for k in range(count)]
    cut = [tuple(m[y : y + size[0], x : x + size[1]] for m in (preds, target)) for y, x in places]
    preds, target = (torch.stack(part) for part in zip(*cut))
    return preds.float() / 255 * 0.97, target.long()


def metric(**changes):
    return BoundaryScore(**{"max_distance": 0.011, **changes})


def filled(**changes):
    result = metric(**changes)
    result.update(*images())
    return result


def test_equals_the_functions():
    preds, target = images()
    thresholds = np.array(BSDS_THRESHOLDS)
    counts = [
        boundary_counts(p, t, max_distance=0.011, thresholds=thresholds, quantize=True) for p, t in zip(preds, target)
    ]
    assert filled().compute() == boundary_scores(counts, thresholds)
    assert filled(interpolate=True).compute() == boundary_scores(counts, thresholds, interpolate=True)


def test_options_reach_the_counts():
    preds, target = images()
    counts = [
        boundary_counts(p, boundary_target(t), max_distance=0.02, thresholds=SEISM_THRESHOLDS, nms="seism")
        for p, t in zip(preds, target)
    ]
    same = filled(max_distance=0.02, nms="seism", gt="seism", quantize=False, backend="numpy")
    assert same.compute() == boundary_scores(counts, SEISM_THRESHOLDS)
    assert same.compute() != filled(max_distance=0.02, nms="seism", gt="seism", thresholds=[0.3, 0.9]).compute()


def test_quantizing_equals_saving_as_a_picture():
    preds, target = images()
    saved = metric()
    saved.update((255 * preds).to(torch.uint8), target)
    assert saved.compute() == filled().compute()


@pytest.mark.parametrize("parts", [(1, 1, 1, 1, 1, 1), (2, 4), (5, 1)])
def test_any_split_into_batches(parts):
    preds, target = images()
    split = metric()
    for p, t in zip(preds.split(parts), target.split(parts)):
        split.update(p[:, None], t[:, None])
    assert split.compute() == filled().compute()


def test_size_of_the_state_is_constant():
    def size(m):
        return sum(getattr(m, name).numel() for name in m._defaults)

    few, many = filled(), filled()
    many.update(*images(12))
    assert size(few) == size(many) == 2 * 99 + 4 + 8
    assert many.images == 18


def test_forward_reset_clone_pickle_collection():
    preds, target = images()
    whole = metric()
    batch = metric()
    batch.update(preds[:1], target[:1])
    assert whole(preds[:1], target[:1]) == batch.compute()
    whole(preds[1:], target[1:])
    expected = filled().compute()
    assert whole.compute() == expected
    assert whole.clone().compute() == pickle.loads(pickle.dumps(whole)).compute() == expected
    both = MetricCollection({"edge": metric(), "seism": metric(gt="seism")})
    both.update(preds, target)
    assert both.compute()["edge"] == expected
    whole.reset()
    whole.update(preds[:1], target[:1])
    assert whole.compute() == batch.compute()


def test_images_of_different_sizes():
    preds, target = images()
    mixed = metric()
    mixed.update(preds, target)
    mixed.update(preds[:1, :30, :31], target[:1, :30, :31])
    assert mixed.images == 7


def test_checkpoint_of_the_state():
    half, rest = metric(), metric()
    half.persistent(True)
    preds, target = images()
    half.update(preds[:3], target[:3])
    rest.load_state_dict(half.state_dict())
    rest.update(preds[3:], target[3:])
    assert rest.compute() == filled().compute()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_tensors_and_state_on_a_device():
    preds, target = images()
    there = metric().cuda()
    there.update(preds.cuda(), target.cuda())
    assert there.matched.is_cuda
    assert there.compute() == filled().compute()


def _process(rank):
    part = metric(backend="numpy")
    preds, target = images()
    part.update(*(x[:2] if rank else x[2:] for x in (preds, target)))
    return part.compute().to_dict(), int(part.images)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
def test_two_processes_equal_one():
    expected = filled().compute().to_dict()
    assert run_in_two(_process) == [(expected, 4), (expected, 2)]


def test_nothing_added():
    with (
        pytest.warns(UserWarning, match="before the ``update`` method"),
        pytest.raises(ValueError, match="at least one image"),
    ):
        metric().compute()


@pytest.mark.parametrize(
    ("preds", "target", "message"),
    [
        (torch.zeros(4, 4), torch.zeros(4, 4), r"`preds` of shape \(B, H, W\)"),
        (torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4), r"got \(1, 2, 4, 4\)"),
        (torch.zeros(1, 4, 4), torch.zeros(2, 4, 4), "the same shape"),
        (np.zeros((1, 4, 4)), torch.zeros(1, 4, 4), "`preds` to be a tensor, got ndarray"),
        (torch.full((1, 4, 4), 3.0), torch.zeros(1, 4, 4), "sigmoid"),
        (torch.zeros(1, 4, 4), torch.full((1, 4, 4), 9), "got 9"),
    ],
)
def test_bad_batches_leave_the_state(preds, target, message):
    before = filled()
    expected = before.compute()
    with pytest.raises(ValueError, match=message):
        before.update(preds, target)
    before._computed = None
    assert before.compute() == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_distance": 0.0}, "`max_distance`"),
        ({"thresholds": []}, "non-empty"),
        ({"thresholds": [0.6, 0.5]}, "ascending"),
        ({"nms": "none"}, "`nms`"),
        ({"gt": "thin"}, "`gt`"),
        ({"backend": "gpu"}, "`backend`"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        metric(**changes)
