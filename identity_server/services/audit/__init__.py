"""The audit journal, once its entries are committed.

journal.py              links, signs and prunes it
desk.py                 what operators read of it
check.py                whether it is as it was left
"""
