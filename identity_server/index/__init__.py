"""The index that answers hashed lookups; derived from storage, never the truth.

keys.py         what an address is known by
file.py         how an index lies on the disk
building.py     makes such a file
read_index.py   answers from it and from what has changed since
feed.py         how far these changes have been followed
mappings.py     what a lookup is answered with
key_set.py      exact sets of keys in little memory
"""

import os

# numpy starts a thread per processor for linear algebra, of which there is none here; read when it is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
