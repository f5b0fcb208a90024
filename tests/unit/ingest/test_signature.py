"""Signatures, by the vectors of EspoCRM's formula."""

import base64
import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitbylaw_ingest.domain.signature import Refusal, Refused, Verified, verify

WEBHOOK = "65f0c1d2e3a4b5c6d"
SECRET = "0123456789abcdef0123456789abcdef"
SECRETS = {WEBHOOK: (SECRET,)}

BODY_A = b'[{"id":"69a68b9cd4c01ad4c","name":"Klage.pdf","dateiStatus":"Neu"}]'
SIGNATURE_A = (
    "NjVmMGMxZDJlM2E0YjVjNmQ6OWU2YWRjYWNkODZiNWMyNjk1ZDBiZjI5MDRkZGU0ZmJhZWIxODlmZGFhMDNmNjEzMmE1"
    "ZTlmOWU2OTRhNjM5MA=="
)
LEGACY_A = "NjVmMGMxZDJlM2E0YjVjNmQ6nmrcrNhrXCaV0L8pBN3k+66xif2qA/YTKl6fnmlKY5A="
BODY_B = rb'[{"id":"1","dateiStatus":"Ge\u00e4ndert","url":"https:\/\/a\/b"}]'
SIGNATURE_B = (
    "NjVmMGMxZDJlM2E0YjVjNmQ6NjVhMWVkM2M5NDFkZmFkMWJmZTU4YjY2YjkxNDA3YWQ5Yjk4ZWE1YTcxMWJlNTUxZGE5"
    "ZmNiOGM3NzZiNTBjMg=="
)
LEGACY_B = "NjVmMGMxZDJlM2E0YjVjNmQ6ZaHtPJQd+tG/5YtmuRQHrZuY6lpxG+VR2p/LjHdrUMI="
BODY_COLON = b'[{"id":"t12"}]'
LEGACY_COLON = "NjVmMGMxZDJlM2E0YjVjNmQ6iT911w3XKyfFPgY3dfZ2Qxg6dH08b5difUn30VeuK/I="


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (BODY_A, {"signature": SIGNATURE_A}),
        (BODY_B, {"signature": SIGNATURE_B}),
        (BODY_A, {"signature": SIGNATURE_A, "x-signature": LEGACY_A}),
        (BODY_A, {"signature": SIGNATURE_A, "x-signature": "nonsense"}),
    ],
)
def test_espo_01_the_crm_s_own_signatures_are_believed(
    body: bytes, headers: dict[str, str]
) -> None:
    assert verify(body, headers, SECRETS) == Verified(WEBHOOK)


@pytest.mark.parametrize(("body", "legacy"), [(BODY_A, LEGACY_A), (BODY_B, LEGACY_B)])
def test_espo_02_the_older_header_alone_is_enough(body: bytes, legacy: str) -> None:
    assert verify(body, {"x-signature": legacy}, SECRETS) == Verified(WEBHOOK)


def test_espo_03_another_body_s_signature_does_not_fit() -> None:
    assert verify(BODY_A, {"signature": SIGNATURE_B}, SECRETS) == Refused(Refusal.MISMATCH)


def test_espo_04_the_same_json_in_other_bytes_does_not_fit() -> None:
    reencoded = BODY_B.replace(rb"\u00e4", "ä".encode())
    assert reencoded != BODY_B
    assert verify(reencoded, {"signature": SIGNATURE_B}, SECRETS) == Refused(Refusal.MISMATCH)


def test_espo_05_a_webhook_without_a_secret_here_is_unknown() -> None:
    others = {"another": (SECRET,), WEBHOOK: ()}
    assert verify(BODY_A, {"signature": SIGNATURE_A}, others) == Refused(Refusal.UNKNOWN_WEBHOOK)


def test_espo_06_a_proof_that_contains_a_colon_is_split_at_the_first_only() -> None:
    assert b":" in base64.b64decode(LEGACY_COLON).partition(b":")[2]
    assert verify(BODY_COLON, {"x-signature": LEGACY_COLON}, SECRETS) == Verified(WEBHOOK)


def test_espo_07_the_newer_header_decides_when_both_are_there() -> None:
    headers = {"signature": SIGNATURE_B, "x-signature": LEGACY_A}
    assert verify(BODY_A, headers, SECRETS) == Refused(Refusal.MISMATCH)
    headers = {"signature": "", "x-signature": LEGACY_A}
    assert verify(BODY_A, headers, SECRETS) == Refused(Refusal.MALFORMED)


def test_espo_08_no_header_is_missing() -> None:
    assert verify(BODY_A, {"content-type": "application/json"}, SECRETS) == Refused(Refusal.MISSING)


@pytest.mark.parametrize("secrets", [("new", SECRET), (SECRET, "new")])
def test_espo_09_while_a_secret_is_exchanged_both_are_valid(secrets: tuple[str, ...]) -> None:
    assert verify(BODY_A, {"signature": SIGNATURE_A}, {WEBHOOK: secrets}) == Verified(WEBHOOK)
    assert verify(BODY_A, {"x-signature": LEGACY_A}, {WEBHOOK: secrets}) == Verified(WEBHOOK)


@pytest.mark.parametrize(
    "header",
    [
        "not base64!",
        "ümlaut",
        base64.b64encode(b"no colon at all").decode(),
        base64.b64encode(b":" + b"0" * 64).decode(),
        base64.b64encode("wébhook:".encode() + b"0" * 64).decode(),
        SIGNATURE_A[:-1],
    ],
)
def test_a_header_that_is_no_signature_is_malformed(header: str) -> None:
    assert verify(BODY_A, {"signature": header}, SECRETS) == Refused(Refusal.MALFORMED)


def test_the_older_proof_is_not_taken_in_the_newer_header_nor_the_other_way_round() -> None:
    assert verify(BODY_A, {"signature": LEGACY_A}, SECRETS) == Refused(Refusal.MISMATCH)
    assert verify(BODY_A, {"x-signature": SIGNATURE_A}, SECRETS) == Refused(Refusal.MISMATCH)


@given(
    body=st.binary(max_size=200),
    headers=st.dictionaries(
        st.sampled_from(["signature", "x-signature", "content-type"]),
        st.text(max_size=80)
        | st.binary(max_size=60).map(lambda raw: base64.b64encode(raw).decode())
        | st.binary(max_size=60).map(
            lambda raw: base64.b64encode(WEBHOOK.encode() + b":" + raw).decode()
        ),
    ),
)
def test_whatever_is_sent_without_the_secret_is_refused_and_never_raises(
    body: bytes, headers: dict[str, str]
) -> None:
    assert isinstance(verify(body, headers, SECRETS), Refused)


@given(body=st.binary(max_size=2000), secret=st.text(min_size=1, max_size=40), legacy=st.booleans())
def test_whatever_is_signed_with_the_secret_is_believed(
    body: bytes, secret: str, legacy: bool
) -> None:
    mac = hmac.new(secret.encode(), body, hashlib.sha256)
    proof = mac.digest() if legacy else mac.hexdigest().encode()
    header = base64.b64encode(WEBHOOK.encode() + b":" + proof).decode()
    headers = {"x-signature" if legacy else "signature": header}
    assert verify(body, headers, {WEBHOOK: (secret,)}) == Verified(WEBHOOK)
    assert verify(body + b" ", headers, {WEBHOOK: (secret,)}) == Refused(Refusal.MISMATCH)
