"""Records, the database, statistics, scoring and units, on which every package builds. Imports no other package."""
