"""Variants on disk: what identifies one, building it, keeping it, and carrying it to another device."""
