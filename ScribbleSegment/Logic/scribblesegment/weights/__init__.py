"""Weights: which exist, where they lie, and how they are read, checked and written."""
