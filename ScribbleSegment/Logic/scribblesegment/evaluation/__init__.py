"""Measurements: metrics, the methods to compare with, protocols and reports."""
