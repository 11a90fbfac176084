"""Looks a set-up over as clients, homeservers and the server itself meet it, and says what is wrong, why, and what to do.

The rule: it changes nothing. What isn't there yet is said to be missing, not made.
"""
