"""Binding an address to a Matrix ID, and who is told of it (Identity Service API, "Establishing associations").

binding.py              bind, unbind, who may know, and what is over
bind_notices.py         tells the homeserver       owner_notices.py   tells the owner of the address
"""
