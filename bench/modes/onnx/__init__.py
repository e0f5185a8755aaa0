"""Modes on ONNX Runtime."""
