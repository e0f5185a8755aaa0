"""The device that Earbench runs on: its identity, its free memory and cores, and its readings while a model runs."""
