"""Data sets: clips with reference texts, one file per layout, and how they are fetched and unpacked."""
