"""What an image is, what was drawn, and where it lies: numpy and scipy only."""
