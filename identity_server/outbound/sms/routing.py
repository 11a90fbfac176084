"""Which providers a message is offered to, and in which order.

The rule: a provider that surely sent nothing (it refused, or wasn't reached) makes way for the next; one that may
have sent the message ends the matter. Another try later is worth it if any of them asked for one.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

import structlog

from identity_server.domain.ports import (
    DeliveryError,
    DeliveryPostponed,
    DeliveryRefused,
    DeliveryUnknown,
    SmsTransport,
    TextMessage,
)
from identity_server.outbound.sms.posting import AccountProblem

_log = structlog.get_logger(__name__)

_FAILURES: Mapping[type[DeliveryError], tuple[int, str]] = {
    AccountProblem: (logging.ERROR, "account_problem"),
    DeliveryPostponed: (logging.WARNING, "postponed"),
    DeliveryRefused: (logging.WARNING, "refused"),
    DeliveryUnknown: (logging.ERROR, "unknown"),
}


class SmsRouter:
    """Offers each message to the providers of its country, one after the other. Implements `SmsTransport`."""

    def __init__(
        self,
        *,
        providers: Mapping[str, SmsTransport],
        default: Sequence[str],
        by_country: Mapping[str, Sequence[str]],
        close: Callable[[], Awaitable[None]],
        count: Callable[[str, str], None] = lambda _provider, _outcome: None,
    ) -> None:
        """Take the parts.

        Args:
            providers: by name; every name in the next two is one of these.
            default: the order for countries that aren't in `by_country`; may be empty.
            by_country: the order by calling code.
            close: frees what the providers share.
            count: is told the provider and the outcome of every offer: "taken", or one of `_FAILURES`.
        """
        self._providers = providers
        self._default = tuple(default)
        self._by_country = by_country
        self._close = close
        self._count = count

    async def send(self, message: TextMessage) -> None:
        """Offer the message until one takes it.

        Raises:
            DeliveryRefused: all refused it for good, or there is none for its country.
            DeliveryPostponed: none took it, and at least one may do so later.
            DeliveryUnknown: one may have sent it; no other was asked.
        """
        failures: list[DeliveryError] = []
        for name in self._order(message.country_code):
            failure = await self._offer(name, message)
            if failure is None:
                return
            if isinstance(failure, DeliveryUnknown):
                raise failure
            failures.append(failure)
        raise _sum_of(failures)

    async def close(self) -> None:
        """Close all connections."""
        await self._close()

    def _order(self, country_code: str) -> Sequence[str]:
        return self._by_country.get(country_code, self._default)

    async def _offer(self, name: str, message: TextMessage) -> DeliveryError | None:
        log = _log.bind(provider=name, country_code=message.country_code)
        try:
            await self._providers[name].send(message)
        except (DeliveryRefused, DeliveryPostponed, DeliveryUnknown) as error:
            failure: DeliveryError = error
        except Exception as error:  # noqa: BLE001 - a provider may be anybody's code
            # Its text isn't ours to show, and when it broke down isn't known.
            failure = DeliveryUnknown(f"{name}: broke down ({type(error).__name__})")
        else:
            log.info("sms.taken")
            self._count(name, "taken")
            return None
        level, outcome = next(said for kind, said in _FAILURES.items() if isinstance(failure, kind))
        event = f"sms.{outcome}"
        log.log(level, event, reason=str(failure))
        self._count(name, outcome)
        return failure


def _sum_of(failures: Sequence[DeliveryError]) -> DeliveryError:
    if not failures:
        return DeliveryRefused("no provider for numbers of this country")
    text = "; ".join(map(str, failures))
    postponed = [each for each in failures if isinstance(each, DeliveryPostponed)]
    if not postponed:
        return DeliveryRefused(text)
    waits = [each.retry_after_seconds for each in postponed]
    # One that named no time may be back at any moment.
    known = [wait for wait in waits if wait is not None]
    return DeliveryPostponed(text, retry_after_seconds=min(known) if len(known) == len(waits) else None)
