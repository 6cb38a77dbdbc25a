"""Random inputs: seconds of them in the default run, minutes in the marked one (`pytest tests/fuzz -m slow`)."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st


def replacements(content, longest):
    """Up to four places in bytes, each with some bytes of up to `longest` for the one there."""
    return st.lists(st.tuples(st.integers(0, len(content) - 1), st.binary(max_size=longest)), min_size=1, max_size=4)


def replaced(content, places):
    """Bytes with `replacements` made."""
    for place, new in places:
        content = content[:place] + new + content[place + 1 :]
    return content


def few_and_many(few: int, many: int):
    """Decorator of a test with one more argument: a decorator that runs a property for so many inputs.

    The few are the same in every run; the many are not.
    """
    health = {"deadline": None, "suppress_health_check": [*HealthCheck], "database": None}
    options = [
        pytest.param(settings(max_examples=few, derandomize=True, **health), id="few"),
        pytest.param(settings(max_examples=many, **health), id="many", marks=pytest.mark.slow),
    ]
    return pytest.mark.parametrize("inputs", options)
