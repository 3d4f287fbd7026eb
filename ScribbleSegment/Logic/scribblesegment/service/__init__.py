"""Predictions beside a window: one thread that works, tasks that report."""
