"""Training: data, simulated rounds, losses and the loop. Imports torch."""
