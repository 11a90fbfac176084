"""Removing what is held about somebody, wherever it is stored.

rows.py                 which they are, table by table, and their removal
remains.py              what is left of them in the database's files
"""
