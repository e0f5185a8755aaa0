"""Earbench: what you gain and lose when you quantize a speech model on the device in front of you."""
