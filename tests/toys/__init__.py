"""Families and modes that Earbench lacks; EARBENCH_EXTRA=tests.toys.family,tests.toys.mode brings two of them."""
