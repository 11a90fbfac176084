"""What is measured, in plain numbers that processes can hand each other and add up.

    table.py       every metric: what it tells, its labels, and how the numbers of several processes become one
    counting.py    counts on the way of a request, and keeps what is measured now and then
    documents.py   writes docs/metrics.md from the table

The rule: no label may hold anything that a caller wrote.
"""

from identity_server.metrics.counting import BUCKETS, Durations, Key, Metrics, Reading, Totals

__all__ = ["BUCKETS", "Durations", "Key", "Metrics", "Reading", "Totals"]
