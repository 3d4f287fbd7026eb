"""Means of rows with how far they can be trusted, and the tables that show them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from studies.experiments import BETWEEN, BEYOND, OUTSIDE, PROPOSED
from studies.prompting import TARGET_DICE

METRICS = ("dice", "hd95", "surface_dice")


def summarise(
    frame: pd.DataFrame,
    by: Sequence[str],
    values: Sequence[str] = METRICS,
    *,
    levels: Sequence[str] = ("set", "task", "subject"),
    redraw: str = "subject",
    within: str | None = "set",
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Average rows level by level, each level's groups counting the same, with 95 % percentile bootstrap intervals.

    Args:
        frame: Rows.
        by: What is told apart, such as the method and the step.
        values: Columns to average; rows without a value are left out there.
        levels: Columns that nest, the outermost first: rows are averaged in each group of the last one, these groups in
            each of the one before it, and so on.
        redraw: What the bootstrap draws anew, with everything measured on it. A group outside of it, none of whose
            members is drawn, is left out of that draw.
        within: Draws are made in each group of this column, which are fixed; None to draw from all.
        resamples: How many draws, the same for all of `by`.
        seed: Of them.

    Returns:
        One row for each of `by` and value: the columns of `by`, `metric`, `mean`, `low`, `high`, and the number `rows`.
    """
    frame = frame.reset_index(drop=True)
    strata = frame[within] if within else pd.Series("", index=frame.index)
    units = strata.astype(str) + "\n" + frame[redraw].astype(str)
    times_drawn = _draw(units, strata, resamples, seed)
    summary = []
    for names, group in frame.groupby(list(by), sort=False, dropna=False):
        for value in values:
            kept = group[group[value].notna()]
            if len(kept):
                means = _nested_means(kept, kept[value].to_numpy(float), units[kept.index], levels, redraw, times_drawn)
                low, high = np.nanpercentile(means[1:], [2.5, 97.5])
                row = dict(zip(by, names, strict=True))
                summary.append(row | {"metric": value, "mean": means[0], "low": low, "high": high, "rows": len(kept)})
    return pd.DataFrame(summary, columns=[*by, "metric", "mean", "low", "high", "rows"])


def _draw(units: pd.Series, strata: pd.Series, resamples: int, seed: int) -> pd.DataFrame:
    """Give how often each unit counts, (1 + resamples, unit): once, then as often as it is drawn in its stratum."""
    rng = np.random.default_rng(seed)
    columns: dict[str, NDArray[np.float64]] = {}
    for _, of_stratum in units.groupby(strata, sort=True):
        names = sorted(of_stratum.unique())
        draws = rng.integers(len(names), size=(resamples, len(names)))
        for n, name in enumerate(names):
            columns[name] = np.concatenate([[1.0], (draws == n).sum(axis=1)])
    return pd.DataFrame(columns)


def _nested_means(
    rows: pd.DataFrame,
    values: NDArray[np.float64],
    units: pd.Series,
    levels: Sequence[str],
    redraw: str,
    times_drawn: pd.DataFrame,
) -> NDArray[np.float64]:
    """Give the mean over all levels, (1 + resamples,)."""
    means = np.broadcast_to(values, (len(times_drawn), len(values)))
    weights = times_drawn[units].to_numpy()
    groups = [tuple(row) for row in rows[list(levels)].astype(str).itertuples(index=False)]
    for depth in range(len(levels), -1, -1):
        parents = list(dict.fromkeys(group[:depth] for group in groups))
        place = {parent: n for n, parent in enumerate(parents)}
        member = np.zeros((len(groups), len(parents)))
        member[np.arange(len(groups)), [place[group[:depth]] for group in groups]] = 1
        total = weights @ member
        with np.errstate(invalid="ignore"):
            means = np.where(weights > 0, means * weights, 0) @ member / total
        groups = parents
        if depth and redraw in levels[:depth]:  # such a group is of one unit, and counts as often as it is drawn
            weights = (weights @ member) / np.maximum((weights > 0) @ member, 1)
        else:
            weights = (total > 0).astype(float)
    return np.asarray(means[:, 0])


def to_markdown(
    summary: pd.DataFrame,
    columns: str,
    *,
    rows: Sequence[str] = ("method",),
    metric: str = "dice",
    percent: bool = False,
) -> str:
    """Lay a summary out as a Markdown table, means with their intervals, in the order in which they come."""
    chosen = summary[summary.metric == metric]
    digits = {"hd95": 1, "steps": 2}.get(metric, 3)

    def cell(row: pd.Series) -> str:
        if percent:
            return f"{row['mean']:.0%} [{row.low:.0%}, {row.high:.0%}]"
        return f"{row['mean']:.{digits}f} [{row.low:.{digits}f}, {row.high:.{digits}f}]"

    cells = chosen.assign(cell=[cell(row) for _, row in chosen.iterrows()])
    table = cells.pivot(index=list(rows), columns=columns, values="cell")
    order = list(dict.fromkeys(cells[columns]))
    lines = list(dict.fromkeys(cells[list(rows)].itertuples(index=False, name=None)))
    table = table.reindex(columns=order, index=lines if len(rows) > 1 else [line[0] for line in lines]).fillna("")
    return str(table.reset_index().to_markdown(index=False, disable_numparse=True))


def steps_to_target(frame: pd.DataFrame, most_steps: int) -> pd.DataFrame:
    """Give one row for each trial: its `steps` until `TARGET_DICE`, and 1 in `never` if it does not arrive."""
    trial = ["procedure", "method", "set", "task", "subject", "image", "label", "draw"]
    arrived = frame.step.where((frame.dice >= TARGET_DICE) & (frame.step <= most_steps))
    steps = frame.assign(steps=arrived.astype(float)).groupby(trial, sort=False, dropna=False).steps.min().reset_index()
    return steps.assign(never=steps.steps.isna().astype(float), steps=steps.steps.fillna(most_steps))


def sequence_totals(frame: pd.DataFrame, alone: str) -> pd.DataFrame:
    """Give one row for each task and method: `steps` of a sequence, and their `change` against the method alone."""
    by_simulation = frame.groupby(["procedure", "set", "task", "method", "draw"], sort=False)
    sums = by_simulation.agg(steps=("steps", "sum"), dice=("dice", "mean"), hd95=("hd95", "mean"))
    rates = by_simulation.agg(without_steps=("steps", lambda steps: (steps == 0).mean()), reached=("reached", "mean"))
    totals = sums.join(rates).groupby(["procedure", "set", "task", "method"], sort=False).mean().reset_index()
    reference = totals[totals.method == alone].set_index(["procedure", "task"]).steps
    before = reference.reindex(pd.MultiIndex.from_frame(totals[["procedure", "task"]])).to_numpy()
    return totals.assign(change=totals.steps / before - 1, never=1 - totals.reached)


def propagation_cases(frame: pd.DataFrame) -> pd.DataFrame:
    """Give one row for each structure, axis and method, slices that were annotated from the start left out.

    `dice` of the extent's slices, `dice_between` annotated ones and `dice_outside` of them; `false_extent`, the share
    of the slices beyond the ends in which something was segmented; `missed_extent`, the share of those with the
    structure in which nothing was; after one correction `dice_corrected`, and `change_elsewhere` in the other slices.
    """
    key = ["procedure", "method", "set", "task", "level"]
    first, second = (frame[frame.step == step] for step in (0, 1))
    inside, beyond = first[first.part != BEYOND], first[first.part == BEYOND]
    inside = inside.assign(missed=((inside.found == 0) & (inside.dice == 0)).astype(float))
    cases = inside.groupby(key, sort=False).agg(
        slices=("dice", "size"),
        dice=("dice", "mean"),
        missed_extent=("missed", "mean"),
        seconds=("seconds", "first"),
        rate=("rate", "first"),
    )
    cases["dice_between"] = inside[inside.part == BETWEEN].groupby(key).dice.mean()
    cases["dice_outside"] = inside[inside.part == OUTSIDE].groupby(key).dice.mean()
    cases["false_extent"] = beyond.groupby(key).found.mean()
    corrected = second[second.part != BEYOND]
    proposed = second[second.part == PROPOSED]
    # A slice beyond the ends may be proposed, too; it does not count among those of the extent.
    before = inside.set_index([*key, "image"]).dice
    after = second.set_index([*key, "image"]).dice
    both = pd.concat({"before": before, "after": after}, axis=1).dropna()
    cases["dice_corrected"] = both.groupby(level=key).after.mean() if len(corrected) else np.nan
    elsewhere = both.drop(pd.MultiIndex.from_frame(proposed[[*key, "image"]]), errors="ignore")
    cases["change_elsewhere"] = (elsewhere.after - elsewhere.before).groupby(level=key).mean()
    cases["proposed"] = proposed.groupby(key).size()
    return cases.reset_index().assign(proposed=lambda one: one.proposed.fillna(0))


def best_on(frame: pd.DataFrame, *, over: str = "set") -> pd.DataFrame:
    """Count the sets (or tasks) on which each method has the best mean Dice, of how many; ties count for all."""
    if over == "set":
        means = summarise(frame, ["method", "set"], ["dice"], resamples=1).pivot(
            index="set", columns="method", values="mean"
        )
    else:
        means = frame.groupby([over, "method"]).dice.mean().unstack()
    means = means.dropna()
    best = means.ge(means.max(axis=1), axis=0).sum()
    return pd.DataFrame({"method": best.index, "best on": best.to_numpy(), "of": len(means)})
