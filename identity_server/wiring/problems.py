"""What the operator can put right, told from what is a fault of ours."""

from __future__ import annotations

from identity_server.config import ConfigError
from identity_server.domain.errors import IdentityServerError
from identity_server.key_files import KeyProblem
from identity_server.outbound.sms import ProviderProblem
from identity_server.rendering.faults import BrandingProblems
from identity_server.rendering.policies import PolicyProblems
from identity_server.services.keys.root_rotation import RotationGivenUp
from identity_server.storage.engines.opening import CannotWrite
from identity_server.storage.moving.copying import CopyRefused
from identity_server.storage.schema.upgrade import SchemaProblem
from identity_server.wiring.storage import IndexProblem

_SENTENCES = (
    CannotWrite,
    CopyRefused,
    IndexProblem,
    KeyProblem,
    ProviderProblem,
    RotationGivenUp,
    SchemaProblem,
    IdentityServerError,
)
_LISTS = (PolicyProblems, BrandingProblems, ConfigError)


def problems_of(error: BaseException) -> tuple[str, ...]:
    """What to tell the operator, a sentence each; nothing if the error is a fault of ours and wants its traceback."""
    if isinstance(error, _LISTS):
        return tuple(str(problem) for problem in error.problems)
    return (str(error),) if isinstance(error, _SENTENCES) else ()
