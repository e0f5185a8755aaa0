"""What everything else stands on: records, the database, statistics, scoring, units. Imports no other package."""
