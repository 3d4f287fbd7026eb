"""Correcting the result of any pretrained network at test time by scribbles."""
