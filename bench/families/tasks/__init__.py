"""Tasks: what a family predicts, one file each. A task owns its metrics and how errors are counted.

A family names its task, so there is no list to add one to.
"""
