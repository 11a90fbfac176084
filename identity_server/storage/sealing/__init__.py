"""What isn't stored as it is, and the keys that this hangs on.

sealer.py               seals, blinds, digests     key_ring.py        the root keys
server_keys.py          what the database knows of them
resealing.py            how rows come to hang on another one
visited.py              what stands for an address in its visits
"""
