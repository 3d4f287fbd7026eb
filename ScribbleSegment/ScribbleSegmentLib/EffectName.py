"""The name by which Slicer knows the effect."""

# Not translated: modules and scripts find effects by name.
EFFECT_NAME = "Scribble Segment"
