"""What must be done after a commit, as use cases write it down: jobs.

port.py                 the kinds of jobs, and that somebody tries them
mails.py  texts.py      how these are written into it, and read from it
backlog.py              what waits in it, for operators
"""
