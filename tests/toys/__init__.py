"""A family and a mode that Earbench does not know: EARBENCH_EXTRA=tests.toys.family,tests.toys.mode brings them."""
