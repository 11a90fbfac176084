"""People see what is held about them, and decide what becomes of it.

visits.py               the privacy page           phone_visits.py    how a visit begins for a phone number
refusals.py             mails that are wanted no more
desk.py                 what operators hand out to the owner of a Matrix ID who asks
"""
