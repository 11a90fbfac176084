"""Who is asking (Identity Service API, "Authentication"; server-server API, "Request Authentication").

accounts.py             registration, access tokens, logout
stamped_cache.py        whom a token belongs to, remembered until somebody on this node has changed that
homeservers.py          which homeserver has signed a request
"""
