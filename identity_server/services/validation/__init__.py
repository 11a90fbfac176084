"""Proving that somebody reads what is sent to an address.

email.py                by mail                    phone.py           by text message
sessions.py             the steps that these two share
slow_codes.py           hashes and compares what was texted
"""
