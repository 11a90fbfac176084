"""What apps find at the public URL: name, certificate, proxy, CORS, and whether all of it reaches this server."""

from __future__ import annotations

from http import HTTPStatus

import orjson
from yarl import URL

from identity_server.doctor.advice import advice_for
from identity_server.doctor.findings import Finding, fault, fine, note, skipped, warning
from identity_server.doctor.patient import Patient
from identity_server.outbound.https import Answer, HttpsFailure, json_object

_PUBLIC = "public URL"
_PROXY = "proxy"
_CORS = "Access-Control-Allow-Origin"
_LARGE_BODY = b'{"addresses":["' + b"x" * 700_000 + b'"]}'
"""A lookup of thousands of addresses is as large."""
_SHOWN = 200
_GATEWAY = frozenset({HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT})


async def examine_public_url(patient: Patient) -> list[Finding]:
    """Ask the public URL as an app would."""
    base = patient.config.public_base_url
    findings = [_proxies(patient)]
    try:
        answer = await patient.visit(URL(f"{base}/_matrix/identity/versions"))
    except HttpsFailure as error:
        return [*findings, fault(_PUBLIC, f"{base} can't be reached", cause=str(error), fix=advice_for(str(error)))]
    wrong = _wrong_answer(base, answer)
    if wrong is not None:
        return [*findings, wrong]
    findings.append(fine(_PUBLIC, f"{base} leads here"))
    if not base.startswith("https:"):
        findings.append(
            warning(
                _PUBLIC,
                f"{base} isn't https",
                cause="tokens and addresses travel readable, and apps on https pages may not ask there",
                fix="put a proxy with a certificate in front, and set `client_http_base`",
            )
        )
    findings.append(_cors(answer))
    findings += await _large_bodies(patient, base)
    findings += await examine_published_terms(patient)
    return findings


def _wrong_answer(base: str, answer: Answer) -> Finding | None:
    what = f"{base} answers {answer.status} for /_matrix/identity/versions"
    if answer.status in _GATEWAY:
        return fault(
            _PUBLIC,
            what,
            cause="the proxy is there, and doesn't reach this server",
            fix="start the server, and compare the proxy's target with `clientapi.http.bind_address` and `.port`",
        )
    if HTTPStatus.MULTIPLE_CHOICES <= answer.status < HTTPStatus.BAD_REQUEST:
        return fault(_PUBLIC, what, cause="it redirects, which apps don't follow", fix=advice_for("redirect"))
    if answer.status != HTTPStatus.OK:
        return fault(
            _PUBLIC,
            what,
            cause="something else answers there, or the proxy doesn't hand /_matrix/identity/ on unchanged",
            fix="forward every path below /_matrix/identity/ to this server; contrib/ has examples",
        )
    if not isinstance(json_object(answer.body).get("versions"), list):
        return fault(
            _PUBLIC,
            f"{base} answers with something else than an identity server would",
            cause="another site, or a default page of the proxy",
            fix="forward every path below /_matrix/identity/ to this server; contrib/ has examples",
        )
    return None


def _cors(answer: Answer) -> Finding:
    values = answer.headers.getall(_CORS, [])
    if values == ["*"]:
        return fine("CORS", "browsers may ask")
    if not values:
        return fault(
            "CORS",
            f"the answer has no {_CORS}, so no browser may read it",
            cause="this server sends it, so the proxy removes it",
            fix="have the proxy pass the headers of answers on",
        )
    return fault(
        "CORS",
        f"the answer has {_CORS} {len(values)} times, and browsers refuse that"
        if len(values) > 1
        else f"the answer allows {values[0]!r} alone",
        cause="the proxy adds CORS headers of its own",
        fix="take them out of the proxy: this server sends them on every answer",
    )


async def _large_bodies(patient: Patient, base: str) -> list[Finding]:
    url = URL(f"{base}/_matrix/identity/v2/lookup")
    try:
        answer = await patient.visit(url, method="POST", body=_LARGE_BODY)
    except HttpsFailure as error:
        return [warning(_PROXY, "a large lookup gets no answer", cause=str(error), fix=advice_for(str(error)))]
    if answer.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return [
            fault(
                _PROXY,
                "large lookups are refused (413)",
                cause="the proxy takes bodies of less than 1 MiB only",
                fix="raise its limit to 1 MiB (nginx: client_max_body_size 1m)",
            )
        ]
    return [fine(_PROXY, "large lookups come through")]


def _proxies(patient: Patient) -> Finding:
    http = patient.config.http
    if http.proxy_networks:
        return fine(_PROXY, "X-Forwarded-For is believed from " + ", ".join(map(str, http.proxy_networks)))
    if http.clientapi_https_certfile is not None:
        return note(_PROXY, "none is expected: this server speaks TLS itself")
    return warning(
        _PROXY,
        "`trusted_proxies` is empty",
        cause="every request then comes from the proxy's address, and all people share one client's limits",
        fix="set `trusted_proxies` in [http] to the proxy's address as this server sees it",
    )


async def examine_published_terms(patient: Patient) -> list[Finding]:
    """Whether everybody can read what they must accept."""
    base = patient.config.public_base_url
    try:
        answer = await patient.visit(URL(f"{base}/_matrix/identity/v2/terms"))
        policies = json_object(answer.body).get("policies")
        if answer.status != HTTPStatus.OK or not isinstance(policies, dict):
            return [fault("terms", f"GET …/v2/terms answers {answer.status}, without policies")]
        urls = {
            text["url"]
            for policy in policies.values()
            for text in policy.values()
            if isinstance(text, dict) and isinstance(text.get("url"), str)
        }
        statuses = {url: (await patient.visit(URL(url), follow=True)).status for url in sorted(urls)}
        unreadable = [
            f"{url} can't be opened: {status}" for url, status in statuses.items() if status != HTTPStatus.OK
        ]
    except HttpsFailure as error:
        return [fault("terms", "they can't be read", cause=str(error), fix=advice_for(str(error)))]
    if unreadable:
        return [fault("terms", unreadable[0], fix="correct the URL in the terms, or what serves it")]
    if not urls:
        return [
            note("terms", "nobody has to accept any", fix="set `terms.path`: contrib has none, terms/ has examples")
        ]
    return [fine("terms", f"{len(urls)} documents, all of which can be opened")]


async def examine_client_domain(patient: Patient) -> list[Finding]:
    """Whether apps of people at a domain are led here."""
    about, domain = "apps", patient.questions.client_domain
    if domain is None:
        return [skipped(about, "--client-domain DOMAIN looks whether .well-known/matrix/client there leads here")]
    url = URL(f"https://{domain}/.well-known/matrix/client")
    try:
        answer = await patient.visit(url, follow=True)
    except HttpsFailure as error:
        return [fault(about, f"{url} can't be read", cause=str(error), fix=advice_for(str(error)))]
    return [_client_file(patient.config.public_base_url, url, answer)]


def _client_file(base: str, url: URL, answer: Answer) -> Finding:
    about, wanted = "apps", orjson.dumps({"m.identity_server": {"base_url": base}}).decode()
    if answer.status != HTTPStatus.OK:
        return fault(about, f"{url} answers {answer.status}", fix=f"publish a file there with {wanted} in it")
    section = json_object(answer.body).get("m.identity_server")
    told = section.get("base_url") if isinstance(section, dict) else None
    if told is None:
        cause = "apps then ask for none, or use one of their own choice"
        return warning(about, f"{url} names no identity server", cause=cause, fix=f"add {wanted} to it")
    if not isinstance(told, str) or told.rstrip("/") != base.rstrip("/"):
        return fault(about, f"{url} leads to {str(told)[:_SHOWN]!r}", fix=f"have it say {wanted}")
    if answer.headers.getall(_CORS, []) != ["*"]:
        cause = f"it isn't served with exactly one `{_CORS}: *`"
        return fault(about, f"apps in browsers can't read {url}", cause=cause, fix="add that header to this file")
    return fine(about, f"{url} leads here")
