import pytest

from demt.metrics import delta_m


def test_known_value():
    # +10 % of 40, and an error higher by 5 %: (10 - 5) / 2.
    gain = delta_m(
        {"semseg/miou": 44.0, "normals/mean": 21.0, "depth/delta1": 1}, {"semseg/miou": 40.0, "normals/mean": 20.0}
    )
    assert gain == pytest.approx(2.5)


def test_equal_results_gain_nothing():
    results = {"semseg": 46.4, "depth": 0.6, "normals": 20.6, "edge": 76.9, "sal": 80.0, "human_parts": 57.0}
    assert delta_m(results, results) == 0


def test_direction_of_own_results():
    with pytest.raises(ValueError, match="lower or a higher 'height/mae' better"):
        delta_m({"height/mae": 1.0}, {"height/mae": 2.0})
    assert delta_m({"height/mae": 1.0}, {"height/mae": 2.0}, lower_is_better=["height/mae"]) == 50
    assert delta_m({"height/mae": 1.0}, {"height/mae": 2.0}, higher_is_better=["height/mae"]) == -50


@pytest.mark.parametrize(
    ("results", "single", "message"),
    [
        ({"semseg": 1.0}, {}, "at least one"),
        ({"semseg": 1.0}, {"depth": 1.0}, "names 'depth', which `results` lacks"),
        ({"semseg": 1.0}, {"semseg": 0.0}, "'semseg' is 0"),
    ],
)
def test_errors(results, single, message):
    with pytest.raises(ValueError, match=message):
        delta_m(results, single)
