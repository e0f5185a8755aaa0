"""Modes on PyTorch's own engine."""
