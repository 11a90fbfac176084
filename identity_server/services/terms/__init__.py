"""What people have to accept before they are served (Identity Service API, "Terms of service").

acceptance.py           what is in force, and who has accepted it
unaccepted.py           warns and erases whoever doesn't
"""
