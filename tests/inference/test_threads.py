"""Predictions from many threads equal those of one, and whatever state the model is in, it stays in it."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

import demt

TASKS = {"semseg": 5, "normals": 3, "depth": 1}
IMAGES = [np.random.default_rng(i).integers(0, 256, (20 + 3 * i, 40 + 5 * i, 3), dtype=np.uint8) for i in range(6)]


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tiny(name="degmix", backbone="test_vit.r160_in1k"):
    return demt.create_model(name, backbone=backbone, tasks=TASKS, width=16, pretrained_cfg_overlay={"max_size": 32})


def compare(model, count, workers=8):
    """`count` predictions in each of `workers` threads."""
    expected = [demt.predict(model, image) for image in IMAGES]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]

    def work(start):
        for step in range(count):
            chosen = (start + step) % len(IMAGES)
            found = demt.predict(model, IMAGES[chosen])
            if any(not np.array_equal(found[name], values) for name, values in expected[chosen].items()):
                return False
            if start == 0 and [module.training for module in model.modules()] != modes:
                return False
        return True

    with ThreadPoolExecutor(workers) as pool:
        assert all(pool.map(work, range(workers)))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes


@pytest.mark.parametrize("training", [True, False])
def test_threads_equal_one_thread(training, one_thread):
    compare(tiny().train(training), 12)


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False])
def test_eight_threads_of_a_thousand_predictions(training, one_thread):
    compare(tiny("multitask_baseline", "test_resnet.r160_in1k").train(training), 1000)


@pytest.mark.parametrize("options", [{}, {"tile": 32}])
def test_frozen_norms_stay_frozen(options):
    model = tiny("multitask_baseline", "test_resnet.r160_in1k")
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms[:3]:
        norm.eval()
    modes = {name: module.training for name, module in model.named_modules()}
    reference = demt.predict(tiny_like(model), IMAGES[3], **options)
    found = demt.predict(model, IMAGES[3], **options)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert all(np.array_equal(found[name], values) for name, values in reference.items())


def tiny_like(model):
    """The same weights in a model of its own, in eval mode."""
    other = tiny("multitask_baseline", "test_resnet.r160_in1k").eval()
    other.load_state_dict(model.state_dict())
    return other


def test_training_goes_on_while_another_thread_predicts(one_thread):
    """Steps of training, with predictions of another thread between and beside them, are those of training alone."""

    def train(model, predicting):
        torch.manual_seed(0)
        optimizer = torch.optim.SGD(model.parameters(), 1e-3)
        images = torch.randn(8, 2, 3, 48, 48)
        stop = False

        def predict():
            while not stop:
                demt.predict(model, IMAGES[0])

        with ThreadPoolExecutor(1) as pool:
            job = pool.submit(predict) if predicting else None
            for batch in images:
                assert all(module.training for module in model.modules())
                sum(maps.square().mean() for maps in model(batch).values()).backward()
                optimizer.step()
                optimizer.zero_grad()
            stop = True
            if job is not None:
                job.result()
        return model.state_dict()

    torch.manual_seed(1)
    first = tiny("multitask_baseline", "test_resnet.r160_in1k")
    second = tiny_like(first).train()
    alone, beside = train(first, False), train(second, True)
    assert all(torch.equal(alone[name], value) for name, value in beside.items())


def test_hooks_see_predictions_of_a_model_in_training_mode():
    model, seen = tiny(), []

    class Recorder:
        def hook(self, module, inputs, output):
            seen.append((type(module).__name__, module.training))

    model.head.neck.register_forward_hook(Recorder().hook)
    demt.predict(model, IMAGES[0])
    assert seen == [(type(model.head.neck).__name__, False)]


def test_methods_bound_to_the_model_run_in_eval_mode():
    """Accelerate puts such a method in the place of `forward`."""
    from types import MethodType

    model = tiny("multitask_baseline", "test_resnet.r160_in1k")
    expected = demt.predict(model, IMAGES[1])
    plain = type(model).forward
    model.forward = MethodType(lambda self, images: plain(self, images), model)
    found = demt.predict(model, IMAGES[1])
    assert all(np.array_equal(found[name], values) for name, values in expected.items())


def test_what_cannot_be_copied_says_what_to_do():
    import threading

    model = tiny()
    model.lock = threading.Lock()
    with pytest.raises(ValueError, match=r"Call model.eval\(\) first"):
        demt.predict(model, IMAGES[0])
    demt.predict(model.eval(), IMAGES[0])
