"""The `[scheme]` of the kinds that public keys belong to: asymmetric and jwt. reading.py says what stands in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from relay.schemes.asymmetric import Asymmetric, CertificateUrl, PublicKeys
from relay.schemes.base import Scheme
from relay.schemes.encodings import DECODE
from relay.schemes.jwt import HashClaim, Jwt, KeyDocument
from relay.schemes.parts import read_part, read_signature, read_timestamp, read_values
from relay.schemes.places import Template, parse_place, parse_template
from relay.schemes.public_keys import ALGORITHMS, FORMS
from relay.schemes.tables import Table
from relay.schemes.token_claims import ClaimRule, Times

TOKEN_ALGORITHMS: Final = (
    *("HS256", "HS384", "HS512"),
    *("RS256", "RS384", "RS512"),
    *("PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512"),
    "EdDSA",
)


def read_asymmetric(table: Table, common: Mapping[str, Any]) -> Scheme:
    signature = read_signature(table)
    values, names = read_values(table, signature["signature"].place)
    content = table.compiled("content", table.text("content"), lambda text: parse_template(text, names))
    inner = required_table(table, "key")
    keys = PublicKeys(inner.choice("form", list(FORMS)), inner.texts("strip") or ())
    certificate = read_certificate_url(inner)
    inner.done()
    return Asymmetric(
        **common,
        **signature,
        algorithm=table.choice("algorithm", list(ALGORITHMS)),
        encoding=table.choice("encoding", list(DECODE)),
        keys=keys,
        certificate=certificate,
        values=values,
        content=content,
        timestamp=read_timestamp(table, names),
        sign_headers=tuple(table.mapping("sign").items()),
    )


def read_certificate_url(table: Table) -> CertificateUrl | None:
    place = table.text("certificate", None)
    if place is None:
        return None
    allow = table.expression("allow")
    if allow is None:
        raise table.error("is required: which URLs of certificates are the provider's own", "allow")
    names, hosts = table.texts("common_names") or (), table.texts("hosts") or ()
    return CertificateUrl(table.compiled("certificate", place, parse_place), allow, names, hosts)


def read_jwt(table: Table, common: Mapping[str, Any]) -> Scheme:
    inner = required_table(table, "token")
    token = read_part(inner)
    inner.done()
    return Jwt(
        **common,
        token=token,
        algorithms=read_algorithms(table),
        required=table.texts("required") or (),
        claims=read_claims(table),
        times=Times(table.seconds("max_age_seconds"), table.seconds("leeway_seconds", 0.0) or 0.0),
        body_hash=read_hash_claim(table, "body_hash"),
        url_hash=read_hash_claim(table, "url_hash"),
        document=read_document(table),
        sign_headers=tuple(table.mapping("sign").items()),
    )


def read_algorithms(table: Table) -> tuple[str, ...]:
    algorithms = table.texts("algorithms") or ()
    unknown = [name for name in algorithms if name not in TOKEN_ALGORITHMS]
    if unknown or not algorithms:
        raise table.error(f"must be a list of some of {', '.join(TOKEN_ALGORITHMS)}", "algorithms")
    return algorithms


def read_claims(table: Table) -> tuple[ClaimRule, ...]:
    optional = table.texts("optional_claims") or ()
    claims: dict[str, Any] = table.get("claims", {}, dict, "a table of claims")
    for name in optional:
        if name not in claims:
            raise table.error(f"{name!r} is none of the claims", "optional_claims")
    rules: list[ClaimRule] = []
    for name, value in claims.items():
        expected = tuple(read_expected(table, name, one) for one in (value if isinstance(value, list) else [value]))
        rules.append(ClaimRule(name, expected, name in optional))
    return tuple(rules)


def read_expected(table: Table, name: str, value: Any) -> Template | bool:
    if isinstance(value, bool):
        return value
    if not isinstance(value, str) or not value:
        raise table.error("must be a text, true or false, or a list of them", f"claims.{name}")
    return table.compiled(f"claims.{name}", value, parse_template)


def read_hash_claim(table: Table, name: str) -> HashClaim | None:
    inner = table.table(name)
    if inner is None:
        return None
    claim = HashClaim(inner.text("claim"), inner.choice("encoding", list(DECODE)))
    inner.done()
    return claim


def read_document(table: Table) -> KeyDocument | None:
    inner = table.table("keys")
    if inner is None:
        return None
    urls = inner.mapping("urls") or {"": inner.text("url")}
    if not all(url.startswith("https://") for url in urls.values()):
        raise inner.error("must be https:// URLs", "urls")
    post = inner.mapping("post")
    document = KeyDocument(
        tuple(urls.items()),
        inner.text("chosen_by", None) or "",
        tuple((name, inner.compiled(f"post.{name}", text, parse_post)) for name, text in post.items()),
    )
    inner.done()
    return document


def parse_post(text: str) -> Template:
    return parse_template(text, {"kid": "the token's key id"})


def required_table(table: Table, name: str) -> Table:
    return table.table(name) or Table({}, table.file, table.path(name))
