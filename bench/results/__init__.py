"""Stored passes and predictions -> tables, sentences, charts and files. Statistics are computed when they are read."""
