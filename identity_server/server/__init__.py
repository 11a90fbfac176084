"""The processes that serve: one parent, which opens no database and answers nobody, and its workers.

    parent.py        starts workers, replaces those that end, minds signals; `serve` is its entrance
    worker.py        one worker: listens, works, drains
    loading.py       loads what a worker runs on, in the process where it costs least
    post.py          what parent and worker have to agree on
    listeners.py     the sockets, bound once and handed down
    door.py          lets connections in, one worker as many as the other
    descriptors.py   how many there may be
    board.py         memory that all of them share: what each worker has counted
    scraping.py      the sum of that, with what the database was asked
    metrics_page.py  shows it to Prometheus
    own_process.py   what a worker takes of the machine
    memory.py        gives back what bursts leave behind
    pid_file.py      the parent's process id      notify.py   tells systemd how things stand

The rule: the parent does nothing that could fail or block once it has started, so that it outlives its workers.
"""

from identity_server.server.listeners import CannotListen, open_socket
from identity_server.server.parent import StartFailed, serve

__all__ = ["CannotListen", "StartFailed", "open_socket", "serve"]
