"""Invites that wait until their address is bound (Identity Service API, "Invitation storage").

inviting.py             stores them, and signs for whoever accepts one
mails.py                what the invited are sent
desk.py                 what operators do about them
"""
