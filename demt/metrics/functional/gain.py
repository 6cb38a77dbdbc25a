"""Multi-task gain."""

from __future__ import annotations

from collections.abc import Collection, Mapping

#: Last part of a result's name (``"depth/rmse"``) or task whose values are better when lower.
LOWER_IS_BETTER = frozenset({"rmse", "abs_rel", "mean", "median", "depth", "normals"})
HIGHER_IS_BETTER = frozenset(
    {"miou", "maxf", "odsF", "oisF", "ap", "delta1", "below_11.25", "below_22.5", "below_30"}
    | {"semseg", "human_parts", "sal", "edge"}
)


def delta_m(
    results: Mapping[str, float],
    single_task: Mapping[str, float],
    *,
    lower_is_better: Collection[str] = (),
    higher_is_better: Collection[str] = (),
) -> float:
    """Multi-task gain Δm in percent: the mean over tasks of ±(M − S)/S, positive when multi-task learning is better.

    Maninis, Radosavovic, Kokkinos: Attentive Single-Tasking of Multiple Tasks, CVPR 2019, equation 4.

    Args:
        results: Multi-task results M by name. Names missing from `single_task` are ignored.
        single_task: One result S of each task's single-task model, by the same names: task names, or
            ``"task/metric"`` as `MultiTaskMetrics.compute` returns them. Both in the same units.
        lower_is_better: Names of your own whose values are better when lower.
        higher_is_better: Names of your own whose values are better when higher.

    Raises:
        ValueError: for a name missing from `results`, a name whose direction is unknown, or a single-task result of 0.

    Example:
        >>> round(delta_m({"semseg": 44.0, "depth": 0.54}, {"semseg": 40.0, "depth": 0.6}), 6)
        10.0
    """
    if not single_task:
        raise ValueError("Expected `single_task` to hold at least one result, got none")
    gains = []
    for name, base in single_task.items():
        if name not in results:
            raise ValueError(f"`single_task` names {name!r}, which `results` lacks; it has {sorted(results)}")
        if base == 0:
            raise ValueError(f"The single-task result of {name!r} is 0: a relative gain is not defined")
        kind = name.rsplit("/", 1)[-1]
        if name in lower_is_better or (name not in higher_is_better and kind in LOWER_IS_BETTER):
            sign = -1
        elif name in higher_is_better or kind in HIGHER_IS_BETTER:
            sign = 1
        else:
            raise ValueError(
                f"Is a lower or a higher {name!r} better? Name it in `lower_is_better` or `higher_is_better`"
            )
        gains.append(sign * (float(results[name]) - base) / base)
    return 100 * sum(gains) / len(gains)
