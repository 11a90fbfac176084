"""Clients that are generated from the API's document."""
