"""From an image and prompts to logits."""
