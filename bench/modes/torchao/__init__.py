"""Modes that torchao quantizes and PyTorch runs."""
