"""The device in front of you: what it is, what is free, and what can be read while a model runs."""
