"""Networks: what they compute, how they are configured and built. Imports torch."""
