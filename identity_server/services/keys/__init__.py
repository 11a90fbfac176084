"""The server's keys.

public.py               which keys are ours (Identity Service API, "Key management")
root_rotation.py        replaces the root key
"""
