"""Removing everything about somebody, wherever it is.

removal.py              of one, of a homeserver's, of all whose homeserver isn't allowed
requests.py             homeservers that want it for one of their users
waiting_jobs.py         finds them in the outbox
"""
