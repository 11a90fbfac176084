"""Answers lookups from memory; everything in it is derived from the database and can be rebuilt."""
