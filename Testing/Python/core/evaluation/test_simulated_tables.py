from __future__ import annotations

import pytest

from scribblesegment.evaluation.simulated_summary import summarise_simulation
from scribblesegment.evaluation.simulated_tables import cells, failure_lines, simulated_lines
from scribblesegment.evaluation.summary import Estimate

CENTER = "centerline-scribbles"


@pytest.fixture
def table(simulate, rng):
    def make(dice, **options):
        simulation = simulate(dice, **options)
        return "\n".join(simulated_lines(simulation, summarise_simulation(simulation, rng)))

    return make


def rows(text, title):
    """Rows of the first Markdown table under a heading, as lists of cells."""
    lines = text.split(title, 1)[1].splitlines()[1:]
    start = next(n for n, line in enumerate(lines) if line.startswith("|"))
    stop = next((n for n in range(start, len(lines)) if not lines[n].startswith("|")), len(lines))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start:stop]]


BOTH = {
    (CENTER, "net", "a"): [0.5, 0.9],
    (CENTER, "net", "b"): [0.7, 0.7],
    (CENTER, "other", "a"): [0.8, 0.8],
    (CENTER, "other", "b"): [0.8, 0.2],
}


def test_each_method_is_shown_at_every_step_and_the_best_in_bold(table):
    text = table(BOTH)
    assert rows(text, "### Dice (higher")[0] == ["method", "step 1", "step 2"]
    assert rows(text, "### Dice (higher")[2:] == [
        ["net", "0.600 [0.600, 0.600]", "**0.800** [0.800, 0.800]"],
        ["other", "**0.800** [0.800, 0.800]", "0.500 [0.500, 0.500]"],
    ]
    assert rows(text, "### 95 % Hausdorff")[2][1:] == ["40.0 [40.0, 40.0]", "**20.0** [20.0, 20.0]"]
    assert rows(text, "### Surface Dice at 1 mm")[2][2] == "**0.400** [0.400, 0.400]"


def test_what_a_step_is_stands_in_words(table):
    text = table({(CENTER, "net", "a"): [0.5, 0.9], ("boxes", "net", "a"): [0.5]})
    assert "1 examples. Step 1: one positive and one negative centerline scribble. Each further step: one" in text
    boxes = text.split("## boxes")[1].split("\n\n")[1]
    assert boxes.startswith("1 examples. Step 1: one box")
    assert "further" not in boxes


def test_sets_and_time_are_shown_at_the_last_step(table):
    text = table(BOTH)
    assert rows(text, "### Dice after step 2 by set, and time") == [
        ["method", "set a", "set b", "median ms"],
        ["-" * len(cell) for cell in ("| net  |", "|set a|", "|set b|", "|median ms|")],
        ["net", "0.900", "0.700", "100"],
        ["other", "0.800", "0.200", "100"],
    ]


def test_a_method_that_never_predicted_has_no_time(table):
    text = table({(CENTER, "net", "a"): [1.0, 1.0]}, seconds=float("nan"))
    assert rows(text, "by set, and time")[2] == ["net", "1.000", ""]


def test_of_many_steps_some_are_shown_and_always_the_last(table):
    text = table({(CENTER, "net", "a"): [0.5] * 12}, steps=12)
    assert rows(text, "### Dice (higher")[0][1:] == [f"step {n}" for n in (1, 2, 3, 4, 5, 7, 10, 12)]


def test_steps_to_the_target_are_shown_with_the_share_that_never_arrives(table):
    text = table({**BOTH, ("center-clicks", "net", "a"): [0.5, 0.5]}, most_steps=7)
    assert "NoI90" in text
    assert "by step 7 counts as 7" in text
    assert rows(text, "## Interactions to 90 % Dice")[2:] == [
        [CENTER, "net", "4.5 [4.5, 4.5]", "50% [50%, 50%]"],
        [CENTER, "other", "7.0 [7.0, 7.0]", "100% [100%, 100%]"],
    ]
    assert "Interactions to" not in table({("center-clicks", "net", "a"): [0.5, 0.5]})


def test_methods_that_could_not_take_part_are_named(table):
    text = table({("boxes", "net", "a"): [0.5]}, unable=[("boxes", "random-walker")])
    assert text.endswith("- random-walker cannot start from boxes alone: not in boxes.")


def test_repetitions_are_told(table):
    assert "1 examples, each 5 times. Step 1" in table({(CENTER, "net", "a"): [0.5, 0.9]}, repetitions=5)


def test_failures_are_listed_with_number_and_reason():
    lines = failure_lines({"one": {"no way": 2, "not again": 1}, "two": {}})
    assert lines[0] == "## Failures"
    assert lines[-2:] == ["- one, 2 predictions: no way", "- one, 1 prediction: not again"]
    assert failure_lines({"one": {}}) == []


def test_methods_that_look_equal_are_both_best():
    close = [Estimate(mean, 0.0, 1.0) for mean in (0.80001, 0.8, 0.7)]
    assert [cell.startswith("**") for cell in cells(close, "dice")] == [True, True, False]
    assert [cell.startswith("**") for cell in cells(close, "hausdorff95_mm")] == [False, False, True]
