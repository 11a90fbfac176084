"""Templates that this process has compiled already.

Compiling takes a hundred times as long as rendering. The rule: the text of a template decides, so whoever changes a
file gets what stands there now; and nothing that differs from one environment to the next is compiled in.
"""

from __future__ import annotations

from types import CodeType

from jinja2.bccache import Bucket, BytecodeCache


class CompiledTemplates(BytecodeCache):
    """Kept for as long as the process lives, and for those that it forks; of each file the newest."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[str, CodeType]] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        checksum, code = self._kept.get(bucket.key, ("", None))
        if checksum == bucket.checksum:
            bucket.code = code

    def dump_bytecode(self, bucket: Bucket) -> None:
        assert bucket.code is not None
        self._kept[bucket.key] = bucket.checksum, bucket.code
