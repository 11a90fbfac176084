"""HTTP. One file per section of the Identity Service API, and some that they share.

routes.py is the table, route.py its guard, requests.py reads, errors.py maps errors to the wire, middleware.py
gives every answer what it must have, pages.py turns rendered pages into responses.

The rule: handlers read, call one service method, and shape the answer.
"""
