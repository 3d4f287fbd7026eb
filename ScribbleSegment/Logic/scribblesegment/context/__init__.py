"""Segmented images that serve as examples."""
