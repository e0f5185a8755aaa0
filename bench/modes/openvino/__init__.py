"""Modes on OpenVINO."""
