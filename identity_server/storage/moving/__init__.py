"""Whole databases.

copying.py              into another one, whichever engine each is on
imports.py  exports.py  from Sydent's and to it
"""
