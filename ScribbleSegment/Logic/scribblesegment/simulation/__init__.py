"""The simulated user: scribbles, clicks and boxes from masks, first rounds and corrections.

Every function takes its randomness from a `numpy.random.Generator` and is reproducible for a given one.
"""

from scribblesegment.simulation.clicks_boxes import (
    border_clicks,
    center_clicks,
    enclosing_box,
    largest_component_center,
    random_clicks,
)
from scribblesegment.simulation.graph_scribbles import correction_graph_scribble, graph_scribble
from scribblesegment.simulation.scribbles import ScribbleConfig, centerline_scribble, contour_scribble, line_scribble
from scribblesegment.simulation.user import (
    CLICK_KINDS,
    SCRIBBLE_KINDS,
    SimulatedUserConfig,
    simulate_corrections,
    simulate_first_round,
    simulate_scribble,
)

__all__ = [
    "CLICK_KINDS",
    "SCRIBBLE_KINDS",
    "ScribbleConfig",
    "SimulatedUserConfig",
    "border_clicks",
    "center_clicks",
    "centerline_scribble",
    "contour_scribble",
    "correction_graph_scribble",
    "enclosing_box",
    "graph_scribble",
    "largest_component_center",
    "line_scribble",
    "random_clicks",
    "simulate_corrections",
    "simulate_first_round",
    "simulate_scribble",
]
