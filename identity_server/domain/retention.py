"""What is kept, why, how, for how long, and what removes it: one schedule, of which all else that says so is made.

The rule: a time for which anything is kept stands here, or in the module of what it is the lifetime of; services and
sweeps read it, and so do the page for people and the documentation. Every column of every table is in a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from identity_server.domain.durations import DAY_MS, HOUR_MS, MINUTE_MS
from identity_server.domain.invite import EPHEMERAL_KEY_LIFETIME_MS, INVITE_LIFETIME_MS
from identity_server.domain.validation import (
    CODE_LIFETIME_MS,
    MAIL_TOKEN_LIFETIME_MS,
    SESSION_LIFETIME_MS,
    SESSION_TOMBSTONE_MS,
)
from identity_server.domain.visit import VISIT_LIFETIME_MS

MONTH_MS = 365 * DAY_MS // 12

OWNER_NOTICE_LIFETIME_MS = 3 * DAY_MS
"""How long a mail about a binding may wait for the relay."""
BIND_NOTICE_LIFETIME_MS = 14 * DAY_MS
"""How long a notice may wait for its homeserver."""
CHANGES_KEPT_MS = HOUR_MS
"""How far the change feed goes back: a reader further behind builds its index anew."""
UNPROVEN_PHONE_MS = 7 * DAY_MS
"""How long a phone number that had to be proven anew still is somebody's, who then finds it as it was."""
INDEX_SAVED_EVERY_MS = 20 * MINUTE_MS
"""How far the file of the lookup index may be behind."""
LONGEST_LIMIT_MS = DAY_MS
"""The longest that a limit counts which the configuration doesn't set."""


class Form(StrEnum):
    """How something is kept."""

    SEALED = "sealed"
    """Encrypted with a key that isn't in the database, and tied to its place."""
    KEYED = "keyed"
    """A hash that can't be made, so neither compared with a guess, without a key that isn't in the database."""
    DIGEST = "digest"
    """A plain hash of what nobody can guess."""
    SLOW = "slow"
    """A slow, keyed hash of what could be guessed."""
    READABLE = "readable"


@dataclass(frozen=True, slots=True)
class Sweep:
    """What removes things whose time is over.

    Attributes:
        name: of the chore in `workers/upkeep.py` that does it.
        every_ms: the pause between two runs: at most so much later it is gone.
    """

    name: str
    every_ms: int


SWEEP_SESSIONS = Sweep("sweep validation sessions", HOUR_MS)
SWEEP_TOKENS = Sweep("sweep access tokens", HOUR_MS)
SWEEP_VISITS = Sweep("sweep visits", HOUR_MS // 2)
SWEEP_INVITES = Sweep("sweep invites", HOUR_MS)
SWEEP_EPHEMERAL_KEYS = Sweep("sweep ephemeral keys", HOUR_MS)
SWEEP_PHONE_NUMBERS = Sweep("sweep phone numbers", HOUR_MS)
SWEEP_UNACCEPTED = Sweep("sweep accounts without consent", HOUR_MS)
SWEEP_LIMITS = Sweep("sweep limits", HOUR_MS)
TRIM_CHANGES = Sweep("trim the change feed", HOUR_MS)
PRUNE_AUDIT = Sweep("prune the audit journal", HOUR_MS)
DROP_PEPPERS = Sweep("drop old peppers", 10 * MINUTE_MS)
FORGET_LOOKUPS = Sweep("forget what was asked", 10 * MINUTE_MS)
SAVE_INDEX = Sweep("save the index", INDEX_SAVED_EVERY_MS)


@dataclass(frozen=True, slots=True)
class Part:
    """One thing of a row, or several that are kept alike.

    Attributes:
        what: its name, in English, to be translated.
        forms: how it is kept.
        columns: where, as `table.column`; empty if it isn't in the database.
    """

    what: str
    forms: tuple[Form, ...]
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Kept:
    """A row: one kind of data.

    All texts are English, and msgids of the catalogues.

    Attributes:
        what: the data, named for people.
        why: what they are kept for.
        until: what ends that; `%(time)s` in it stands for `at_most_ms`.
        at_most_ms: the longest that they are kept, before `sweep` comes; None where no time ends it.
        sweep: what removes them then; None where that is done at once.
        parts: what exactly, and how it is kept.
        is_personal: whether it says anything about anybody.
    """

    what: str
    why: str
    until: str
    parts: tuple[Part, ...]
    at_most_ms: int | None = None
    sweep: Sweep | None = None
    is_personal: bool = True

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that it is about."""
        return tuple(column for part in self.parts for column in part.columns)


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """What the configuration in force says about how long things are kept; the defaults are its defaults.

    Attributes:
        token_unused_ms: an access token that nobody uses.
        phone_months: a phone number after its proof; None for good.
        audit_ms: an entry of the journal.
        pepper_ms: a pepper, grace time included.
        limit_ms: the longest that a limit counts.
        network_limit_ms: the same, of those that count a network.
        keeps_delivered_invites: whether an invite is kept to its time, though its homeserver was told.
        unaccepted_ms: an account that hasn't accepted the terms in force; None for good.
    """

    token_unused_ms: int = 60 * DAY_MS
    phone_months: int | None = None
    audit_ms: int = 3 * 365 * DAY_MS
    pepper_ms: int = 30 * DAY_MS + HOUR_MS
    limit_ms: int = LONGEST_LIMIT_MS
    network_limit_ms: int = LONGEST_LIMIT_MS
    keeps_delivered_invites: bool = False
    unaccepted_ms: int | None = None


def retention_schedule(lifetimes: Lifetimes) -> tuple[Kept, ...]:
    """Every kind of data that is kept, with the times that the configuration in force gives it."""
    return tuple(row for make in _TOPICS for row in make(lifetimes))


def N_(text: str) -> str:  # noqa: N802 - the name by which gettext's tools know what is to be translated
    return text


def _in(table: str, columns: str) -> tuple[str, ...]:
    return tuple(f"{table}.{column}" for column in columns.split())


_ADDRESS = N_("address")
_TIMES = N_("times")
_FOUND_BY = (Form.SEALED, Form.KEYED)


def _bindings(lifetimes: Lifetimes) -> tuple[Kept, ...]:
    until = N_("until it is removed, or somebody else proves that the address is theirs")
    binding = Kept(
        N_("An address that is connected with a Matrix ID"),
        N_("so that people who know the address can find you, as far as you let them"),
        until,
        (
            Part(_ADDRESS, _FOUND_BY, _in("associations", "key_id sealed_address address_blind")),
            Part(
                N_("Matrix ID, kind of address, times, who may find it"),
                (Form.READABLE,),
                _in("associations", "id medium user_id ts not_before not_after visibility"),
            ),
        ),
    )
    index = Kept(
        N_("The index that answers searches, a file beside the database"),
        N_("so that a search is answered without your address being read"),
        N_("as long as the connection itself"),
        (
            Part(_ADDRESS, (Form.KEYED,)),
            Part(N_("Matrix ID, who may find it"), (Form.READABLE,)),
        ),
        sweep=SAVE_INDEX,
    )
    if lifetimes.phone_months is None:
        return binding, index
    phone = Kept(
        N_("A phone number that is connected with a Matrix ID"),
        N_("as for every address; but a number that nobody has proved for long may be somebody else's by now"),
        N_("the same; at most %(time)s after the proof"),
        binding.parts,
        at_most_ms=lifetimes.phone_months * MONTH_MS + UNPROVEN_PHONE_MS,
        sweep=SWEEP_PHONE_NUMBERS,
    )
    return binding, phone, index


def _confirmations(_: Lifetimes) -> tuple[Kept, ...]:
    return (
        Kept(
            N_("An address that is being confirmed"),
            N_("to send the link or code to it, and to know whose it is when they are used"),
            N_("%(time)s from the request, and as long again from the confirmation"),
            (
                Part(_ADDRESS, _FOUND_BY, _in("validation_sessions", "key_id sealed_address address_blind")),
                Part(
                    N_("where your app wants to go on afterwards"),
                    (Form.SEALED,),
                    _in("validation_sessions", "sealed_next_link"),
                ),
            ),
            at_most_ms=SESSION_LIFETIME_MS,
            sweep=SWEEP_SESSIONS,
        ),
        Kept(
            N_("That an address was being confirmed, without the address"),
            N_("so that an app that comes late is told that it is over"),
            N_("%(time)s longer"),
            (
                Part(N_("secret of the app"), (Form.KEYED,), _in("validation_sessions", "client_secret_digest")),
                Part(
                    N_("Matrix ID that asked, kind of address, times, number of messages and of wrong codes"),
                    (Form.READABLE,),
                    _in(
                        "validation_sessions",
                        "sid medium requested_by send_attempt created_at_ms validated_at_ms expires_at_ms code_tries",
                    ),
                ),
            ),
            at_most_ms=SESSION_TOMBSTONE_MS,
            sweep=SWEEP_SESSIONS,
        ),
        Kept(
            N_("A link that was mailed"),
            N_("to know it again when it is followed, and to count how many were mailed"),
            N_("%(time)s"),
            (
                Part(N_("the secret in it"), (Form.DIGEST,), _in("validation_tokens", "token_digest")),
                Part(_TIMES, (Form.READABLE,), _in("validation_tokens", "sid created_at_ms expires_at_ms")),
            ),
            at_most_ms=MAIL_TOKEN_LIFETIME_MS,
            sweep=SWEEP_SESSIONS,
        ),
        Kept(
            N_("A code that was texted"),
            N_("to know it again when it is entered"),
            N_("%(time)s; if it was entered in time, as long as the address"),
            (
                Part(N_("code"), (Form.SLOW,), _in("validation_sessions", "code_hash")),
                Part(_TIMES, (Form.READABLE,), _in("validation_sessions", "code_expires_at_ms")),
            ),
            at_most_ms=CODE_LIFETIME_MS,
            sweep=SWEEP_SESSIONS,
        ),
    )


def _invites(lifetimes: Lifetimes) -> tuple[Kept, ...]:
    return (
        Kept(
            N_("An invitation to an email address"),
            N_("so that whoever is invited can join the room once the address is connected"),
            N_("%(time)s")
            if lifetimes.keeps_delivered_invites
            else N_("until the homeserver of whoever connects the address has been told; at most %(time)s"),
            (
                Part(_ADDRESS, _FOUND_BY, _in("invites", "key_id sealed_address address_blind")),
                Part(
                    N_(
                        "room, key of the invitation, and what else the homeserver of whoever invites sent for the mail"
                    ),
                    (Form.SEALED,),
                    _in("invites", "sealed_details"),
                ),
                Part(N_("the secret in it"), (Form.DIGEST,), _in("invites", "token_digest")),
                Part(
                    N_("Matrix ID of whoever invites, times, public key"),
                    (Form.READABLE,),
                    _in("invites", "id medium public_key sender created_at_ms expires_at_ms taken_at_ms"),
                ),
            ),
            at_most_ms=INVITE_LIFETIME_MS,
            sweep=SWEEP_INVITES,
        ),
        Kept(
            N_("The public key of an invitation"),
            N_("because the room names it, and homeservers ask whether it is valid"),
            N_("%(time)s"),
            (
                Part(
                    N_("key, times"),
                    (Form.READABLE,),
                    _in("ephemeral_keys", "public_key created_at_ms valid_until_ms revoked"),
                ),
            ),
            at_most_ms=EPHEMERAL_KEY_LIFETIME_MS,
            sweep=SWEEP_EPHEMERAL_KEYS,
            is_personal=False,
        ),
    )


def _deliveries(_: Lifetimes) -> tuple[Kept, ...]:
    payload = _in("jobs", "key_id sealed_payload")
    state = _in("jobs", "id kind queue attempts created_at_ms run_at_ms lease expires_at_ms")
    tries = Part(N_("kind, tries, times"), (Form.READABLE,), state)
    return (
        Kept(
            N_("A mail that waits to be sent"),
            N_("so that none is lost when the mail system is away"),
            N_("until the mail system takes or refuses it; at most %(time)s, and no longer than what it is about"),
            (Part(N_("recipient, and what it says"), (Form.SEALED,), payload), tries),
            at_most_ms=INVITE_LIFETIME_MS,
        ),
        Kept(
            N_("A text message that waits to be sent"),
            N_("so that none is lost when the provider is away"),
            N_("until a provider takes or refuses it; at most %(time)s"),
            (Part(N_("number, and what it says"), (Form.SEALED,), payload), tries),
            at_most_ms=CODE_LIFETIME_MS,
        ),
        Kept(
            N_("A notice to a homeserver that an address was connected with one of its users"),
            N_("so that the invitations that waited for the address arrive"),
            N_("until the homeserver takes or refuses it; at most %(time)s"),
            (
                Part(N_("address, Matrix ID, times, invitations"), (Form.SEALED,), payload),
                Part(N_("name of the homeserver, tries, times"), (Form.READABLE,), state),
            ),
            at_most_ms=BIND_NOTICE_LIFETIME_MS,
        ),
    )


def _privacy_page(_: Lifetimes) -> tuple[Kept, ...]:
    return (
        Kept(
            N_("A visit to the page on which people see their data"),
            N_("to show what is held about the address to whoever reads its messages, and to nobody else"),
            N_("%(time)s"),
            (
                Part(_ADDRESS, _FOUND_BY, _in("visits", "key_id sealed_address address_digest")),
                Part(N_("the secret of the visit"), (Form.DIGEST,), _in("visits", "token_digest")),
                Part(N_("code"), (Form.SLOW,), _in("visits", "code_hash")),
                Part(
                    N_("kind of address, times, number of wrong codes"),
                    (Form.READABLE,),
                    _in("visits", "medium is_proven code_tries created_at_ms expires_at_ms"),
                ),
            ),
            at_most_ms=VISIT_LIFETIME_MS,
            sweep=SWEEP_VISITS,
        ),
        Kept(
            N_("An address that is to be left alone"),
            N_("so that it is neither connected nor invited here again"),
            N_("until its owner takes that back"),
            (
                Part(_ADDRESS, (Form.KEYED,), _in("refused_addresses", "address_digest")),
                Part(N_("since when"), (Form.READABLE,), _in("refused_addresses", "refused_at_ms")),
            ),
        ),
    )


def _accounts(lifetimes: Lifetimes) -> tuple[Kept, ...]:
    as_account = N_("as long as the account")
    return (
        Kept(
            N_("An account"),
            N_("to know who uses this server"),
            N_("until it is removed")
            if lifetimes.unaccepted_ms is None
            else N_("until it is removed; if it doesn't accept new terms, %(time)s after them at the earliest"),
            (Part(N_("Matrix ID, since when"), (Form.READABLE,), _in("accounts", "user_id created_at_ms")),),
            at_most_ms=lifetimes.unaccepted_ms,
            sweep=None if lifetimes.unaccepted_ms is None else SWEEP_UNACCEPTED,
        ),
        Kept(
            N_("A sign-in of an app (access token)"),
            N_("to recognise the app"),
            N_("until you sign out, or for %(time)s without use"),
            (
                Part(N_("the secret of the app"), (Form.DIGEST,), _in("access_tokens", "token_digest")),
                Part(
                    N_("Matrix ID, since when, last day of use"),
                    (Form.READABLE,),
                    _in("access_tokens", "user_id created_at_ms last_used_at_ms"),
                ),
            ),
            at_most_ms=lifetimes.token_unused_ms,
            sweep=SWEEP_TOKENS,
        ),
        Kept(
            N_("The terms that an account has accepted"),
            N_("to know, and to be able to show, that you agreed"),
            as_account,
            (
                Part(
                    N_("Matrix ID, document, version, language, time"),
                    (Form.READABLE,),
                    (
                        *_in("accepted_terms", "user_id policy_id version language url accepted_at_ms"),
                        *_in("accounts", "agreed_master_version warned_at_ms"),
                    ),
                ),
            ),
        ),
    )


def _limits(lifetimes: Lifetimes) -> tuple[Kept, ...]:
    columns = "key_digest", "whole_again_at_ms"
    until = N_("until as much is allowed again as at first; at most %(time)s")
    return (
        Kept(
            N_("Who has asked for something lately: Matrix ID, mailbox, phone number or country"),
            N_("so that nobody asks so often that it is a nuisance to others"),
            until,
            (
                Part(N_("limit, and whom it counts"), (Form.KEYED,), _in("rate_limits", columns[0])),
                Part(N_("time at which it is whole again"), (Form.READABLE,), _in("rate_limits", columns[1])),
            ),
            at_most_ms=lifetimes.limit_ms,
            sweep=SWEEP_LIMITS,
        ),
        Kept(
            N_("The network that somebody has asked from; never a whole IP address"),
            N_("so that nobody asks so often that it is a nuisance to others, where there is no account to count by"),
            until,
            (
                Part(N_("network (IPv4 /24, IPv6 /56)"), (Form.KEYED,), _in("rate_limits", columns[0])),
                Part(N_("time at which it is whole again"), (Form.READABLE,), _in("rate_limits", columns[1])),
            ),
            at_most_ms=lifetimes.network_limit_ms,
            sweep=SWEEP_LIMITS,
        ),
    )


def _lookups(lifetimes: Lifetimes) -> tuple[Kept, ...]:
    asked, budgets = "asked_addresses", "lookup_budgets"
    return (
        Kept(
            N_("What an account has searched for: no address, and nothing that an app sends"),
            N_("so that it may search for its contacts again and again, and yet nobody for everybody"),
            N_("until another pepper has taken the place of that of the search; about %(time)s"),
            (
                Part(N_("Matrix ID"), (Form.KEYED,), _in(asked, "holder_digest")),
                Part(_ADDRESS, (Form.KEYED, Form.SEALED), _in(asked, "key_id sealed_keys")),
                Part(N_("pepper"), (Form.READABLE,), _in(asked, "id pepper_id")),
            ),
            at_most_ms=lifetimes.pepper_ms,
            sweep=FORGET_LOOKUPS,
        ),
        Kept(
            N_("How much an account, a homeserver and a network have searched for"),
            N_("so that nobody searches for everybody"),
            N_("of an account, until there is another pepper; else until an hour after the day; about %(time)s"),
            (
                Part(
                    N_("Matrix ID, homeserver, network (IPv4 /24, IPv6 /56)"),
                    (Form.KEYED,),
                    _in(budgets, "holder_digest"),
                ),
                Part(N_("numbers, day, pepper"), (Form.READABLE,), _in(budgets, "pepper_id day today once")),
            ),
            at_most_ms=lifetimes.pepper_ms,
            sweep=FORGET_LOOKUPS,
        ),
        Kept(
            N_("How many users of a homeserver an address is connected with, if they are many"),
            N_("because a homeserver may search for more if its users can be found"),
            N_("until they are counted again, within the hour"),
            (Part(N_("homeserver, number"), (Form.READABLE,), _in("bound_users", "kind name users")),),
            is_personal=False,
        ),
    )


def _journal(lifetimes: Lifetimes) -> tuple[Kept, ...]:
    said = "at_ms event server_name number"
    about = "salt key_id commitments"
    pending, chain = "audit_pending", "audit_chain"
    return (
        Kept(
            N_("The journal of what was connected, removed, or done by the operator; it names no one"),
            N_("so that the operator can account for what was done"),
            N_("%(time)s"),
            (
                Part(N_("whom an entry is about"), (Form.KEYED,), (*_in(pending, about), *_in(chain, about))),
                Part(
                    N_("what was done, when, how often; name of a homeserver that was never told"),
                    (Form.READABLE,),
                    (*_in(pending, f"id {said}"), *_in(chain, f"seq {said}")),
                ),
                Part(N_("proof that no entry was changed"), (Form.DIGEST,), _in(chain, "hash")),
            ),
            at_most_ms=lifetimes.audit_ms,
            sweep=PRUNE_AUDIT,
        ),
        Kept(
            N_("The signed end of the journal"),
            N_("so that whoever removes entries is found out"),
            N_("for good"),
            (Part(N_("number and proof of an entry"), (Form.READABLE,), _in("audit_heads", "name signed")),),
            is_personal=False,
        ),
    )


_RETIRED = "retired_keys"


def _housekeeping(lifetimes: Lifetimes) -> tuple[Kept, ...]:
    return (
        Kept(
            N_("Which connection was changed, and when"),
            N_("so that every process answers searches as things are"),
            N_("%(time)s; the last entry stays"),
            (
                Part(
                    N_("number of the connection, time; neither address nor Matrix ID"),
                    (Form.READABLE,),
                    _in("association_changes", "change_seq association_id kind at_ms"),
                ),
            ),
            at_most_ms=CHANGES_KEPT_MS,
            sweep=TRIM_CHANGES,
            is_personal=False,
        ),
        Kept(
            N_("The peppers of searches"),
            N_("because apps mix them into what they search for"),
            N_("until another has taken its place and a time of grace is over; about %(time)s"),
            (Part(N_("pepper, times"), (Form.READABLE,), _in("peppers", "id value created_at_ms retired_at_ms")),),
            at_most_ms=lifetimes.pepper_ms,
            sweep=DROP_PEPPERS,
            is_personal=False,
        ),
        Kept(
            N_("How far an import from Sydent has come"),
            N_("so that it goes on where it was when it is run again"),
            N_("for good"),
            (
                Part(
                    N_("source, table, row, time"),
                    (Form.READABLE,),
                    _in("imports", "source table_name last_row at_ms"),
                ),
            ),
            is_personal=False,
        ),
        Kept(
            N_("Fingerprints of the server's two keys"),
            N_("so that it isn't started with wrong ones"),
            N_("for good"),
            (
                Part(
                    N_("fingerprint, salt of a passphrase, time"),
                    (Form.READABLE,),
                    _in("server_keys", "name fingerprint salt created_at_ms"),
                ),
            ),
            is_personal=False,
        ),
        Kept(
            N_("What is left of an earlier key of the server, when another has taken its place"),
            N_("so that what was kept as a fingerprint made with it can still be compared"),
            N_("for good"),
            (
                Part(
                    N_("secrets that can be compared with, and open nothing"),
                    (Form.SEALED,),
                    _in(_RETIRED, "sealed_keys"),
                ),
                Part(N_("key, time"), (Form.READABLE,), _in(_RETIRED, "id key_id retired_at_ms")),
            ),
            is_personal=False,
        ),
        Kept(
            N_("Which process does not have the next key of the server yet"),
            N_("so that the key is not used before"),
            N_("until another key is prepared"),
            (
                Part(
                    N_("machine, process, file, time"),
                    (Form.READABLE,),
                    _in("key_holdouts", "holder expected_in at_ms"),
                ),
            ),
            is_personal=False,
        ),
        Kept(
            N_("Which terms are in force, and since when"),
            N_("so that everybody has time to accept them"),
            N_("until others take their place"),
            (
                Part(N_("documents and versions"), (Form.DIGEST,), _in("terms_in_force", "terms_digest")),
                Part(N_("since when"), (Form.READABLE,), _in("terms_in_force", "since_ms")),
            ),
            is_personal=False,
        ),
        Kept(
            N_("Which chore is done by which process, and when next"),
            N_("so that each is done once for all processes"),
            N_("for good"),
            (Part(N_("name, process, time"), (Form.READABLE,), _in("chores", "name holder run_at_ms")),),
            is_personal=False,
        ),
    )


_TOPICS: tuple[Callable[[Lifetimes], tuple[Kept, ...]], ...] = (
    _bindings,
    _confirmations,
    _invites,
    _deliveries,
    _privacy_page,
    _accounts,
    _limits,
    _lookups,
    _journal,
    _housekeeping,
)
