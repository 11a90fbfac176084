"""What happens without a request.

runner.py       tries the jobs of the outbox     deliveries.py   what each kind of job does
upkeep.py       everything that comes round, in one table
other_nodes.py  follows what other machines commit
"""
