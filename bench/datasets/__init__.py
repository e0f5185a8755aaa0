"""Data sets: clips with reference texts. One file per layout, and ways to fetch and unpack data sets."""
