"""Earbench: what quantizing a model gains and costs on the device in front of you."""
