"""Everything that people read: mails, pages, translations and policies.

Rule: rendering turns values into text and does nothing else. It opens no socket, reads no clock of its own
and knows nothing of HTTP frameworks; it sits between `domain` and `outbound` in the import order.
"""
