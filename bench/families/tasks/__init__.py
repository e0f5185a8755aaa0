"""Tasks: what a family predicts, one file each. A task defines its metrics and how errors are counted.

A family refers to its task directly, so there is no list of tasks to maintain.
"""
