"""Which endpoints reach Advoware, and that none leaves its base; other parsers judge that."""

import posixpath
import random
import unicodedata
from urllib.parse import quote, unquote, urljoin, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from yarl import URL

from bitbylaw_advoware_proxy.domain.rules import Refusal, Target, target
from bitbylaw_common.clients.advoware import resource_path

PREFIX = "api/v1/advonet/"
BASE = "https://relay.example.org:90/firm"
GENERATED, ROUNDS = 10_000, 10


def asked(endpoint: str) -> Target | Refusal:
    """Ask for an endpoint as a client writes it: percent-encoded into the query, once."""
    return target(f"endpoint={quote(endpoint, safe='')}", PREFIX)


def written(found: Target) -> str:
    """Return the path as it goes on the wire."""
    return resource_path(PREFIX, found.endpoint)


@pytest.mark.parametrize(
    ("endpoint", "path"),
    [
        ("employees", "api/v1/advonet/employees"),
        ("appointments/12345", "api/v1/advonet/appointments/12345"),
        ("/Beteiligte/104860", "api/v1/advonet/Beteiligte/104860"),
        ("Beteiligte/104860/", "api/v1/advonet/Beteiligte/104860"),
        ("api/v1/Akten", "api/v1/Akten"),
        ("/api/v1/Akten", "api/v1/Akten"),
        ("API/v1/Akten", "API/v1/Akten"),
        ("api", "api/v1/advonet/api"),
        ("apiary/1", "api/v1/advonet/apiary/1"),
        ("Kontakte/Müller & Söhne", "api/v1/advonet/Kontakte/M%C3%BCller%20&%20S%C3%B6hne"),
        ("Kontakte/M%C3%BCller", "api/v1/advonet/Kontakte/M%C3%BCller"),
        ("Termine/2026-03-01T10:00", "api/v1/advonet/Termine/2026-03-01T10:00"),
        ("employ%65es", "api/v1/advonet/employees"),
    ],
)
def test_an_endpoint_is_a_path_under_the_prefix_unless_it_begins_with_api(
    endpoint: str, path: str
) -> None:
    found = asked(endpoint)
    assert isinstance(found, Target)
    assert written(found) == path


@pytest.mark.parametrize(
    ("endpoint", "refusal"),
    [
        ("", Refusal.MISSING),
        ("  ", Refusal.MISSING),
        ("http://evil.example/x", Refusal.EMPTY_SEGMENT),
        ("http:/evil.example/x", Refusal.ABSOLUTE),
        ("javascript:alert", Refusal.ABSOLUTE),
        ("//evil.example/x", Refusal.EMPTY_SEGMENT),
        ("///evil.example", Refusal.EMPTY_SEGMENT),
        ("employees//1", Refusal.EMPTY_SEGMENT),
        ("/", Refusal.EMPTY_SEGMENT),
        ("../Token", Refusal.DOTS),
        ("employees/../../Token", Refusal.DOTS),
        ("employees/./1", Refusal.DOTS),
        ("employees/.../1", Refusal.DOTS),
        ("employees/.. /1", Refusal.DOTS),
        ("employees./1", Refusal.DOTS),
        ("employees/ 1", Refusal.DOTS),
        ("%2e%2e/Token", Refusal.DOTS),
        ("..%2fToken", Refusal.ENCODED),
        ("%252e%252e/Token", Refusal.ENCODED),
        ("%25252e%25252e%25252fToken", Refusal.ENCODED),
        ("%2f%2fevil.example", Refusal.ENCODED),
        ("employees%2f1", Refusal.ENCODED),
        ("employees/%ff", Refusal.UNREADABLE),
        ("employees/%c0%ae%c0%ae/x", Refusal.UNREADABLE),
        ("employees/%", Refusal.UNREADABLE),
        ("employees/%u002e", Refusal.UNREADABLE),
        ("employees\\..\\Token", Refusal.CHARACTER),
        ("\\\\evil.example\\x", Refusal.CHARACTER),
        ("employees/%5c..%5cToken", Refusal.CHARACTER),
        ("employees\r\nHost: evil.example", Refusal.CHARACTER),
        ("employees/%0d%0aX: 1", Refusal.CHARACTER),
        ("employees/\x00", Refusal.CHARACTER),
        ("employees/\x7f", Refusal.CHARACTER),
        ("employees/\u2028x", Refusal.CHARACTER),
        ("employees/\u202ex", Refusal.CHARACTER),
        ("user:secret@evil.example/x", Refusal.CHARACTER),
        ("employees/a@evil.example", Refusal.CHARACTER),
        ("employees/..;/Token", Refusal.CHARACTER),
        ("employees?limit=10", Refusal.CHARACTER),
        ("employees#x", Refusal.CHARACTER),
        ("employees/\uff0e\uff0e/Token", Refusal.DOTS),
        ("employees/\u2025/Token", Refusal.DOTS),
        ("employees\uff0f..\uff0fToken", Refusal.CHARACTER),
        ("employees/\uff052e\uff052e", Refusal.CHARACTER),
        ("evil\uff20example", Refusal.CHARACTER),
        ("-rf", Refusal.ABSOLUTE),
        ("x" * 1025, Refusal.OVERSIZED),
        ("/".join("x" * 33), Refusal.OVERSIZED),
    ],
)
def test_what_could_leave_the_base_or_mean_two_things_is_refused(
    endpoint: str, refusal: Refusal
) -> None:
    assert asked(endpoint) is refusal


def test_every_other_parameter_goes_on_in_order_and_byte_for_byte() -> None:
    query = "b=2&a=%c3%BC+x&endpoint=employees&a=%2F..%2F&&c&d=&e==%26&path=x"
    assert target(query, PREFIX) == Target(
        "employees",
        ("api", "v1", "advonet", "employees"),
        "b=2&a=%c3%BC+x&a=%2F..%2F&&c&d=&e==%26&path=x",
    )


def test_path_stands_in_for_endpoint_where_that_is_missing() -> None:
    assert target("limit=1&path=employees", PREFIX) == target("limit=1&endpoint=employees", PREFIX)


@pytest.mark.parametrize("query", ["", "limit=10", "endpoint", "endpoint=", "endpoints=x", "path="])
def test_without_an_endpoint_there_is_nothing_to_ask_for(query: str) -> None:
    assert target(query, PREFIX) is Refusal.MISSING


@pytest.mark.parametrize("query", ["endpoint=a&endpoint=b", "endpoint=a&%65ndpoint=b"])
def test_an_endpoint_named_twice_is_none(query: str) -> None:
    assert target(query, PREFIX) is Refusal.TWICE


@pytest.mark.parametrize(
    "query", ["endpoint=a&b=\x00", "endpoint=a&b=x y", "endpoint=a#b", "endpoint=a&b=ü", "a=\udcff"]
)
def test_a_query_that_is_no_query_is_refused(query: str) -> None:
    assert target(query, PREFIX) is Refusal.QUERY


def test_an_endless_query_is_refused() -> None:
    assert target("endpoint=a&b=" + "x" * 8_000, PREFIX) is Refusal.OVERSIZED


# -- the judge ------------------------------------------------------------------------------------


def leaves_base(base: str, path: str, query: str) -> str:
    """Return why an address is outside of `base`, by parsers that know nothing of our rules.

    Whatever a server between us and Advoware may do to a path is done to it: decode it, up to five
    times, fold wide characters, take a backslash for a slash, drop path parameters, resolve dots.
    """
    wanted = urlsplit(base)
    address = f"{base}/{path}" + (f"?{query}" if query else "")
    for parsed in (urlsplit(address), urlsplit(urljoin(f"{base}/", path))):
        if (parsed.scheme, parsed.netloc) != (wanted.scheme, wanted.netloc):
            return f"another host: {parsed.netloc}"
        if parsed.fragment or parsed.username or parsed.password:
            return "a login or a fragment"
    url = URL(address)  # normalises as browsers do
    if (url.scheme, url.host, url.port, url.user) != ("https", "relay.example.org", 90, None):
        return f"another origin by yarl: {url}"
    if any(ord(character) < 0x21 or ord(character) > 0x7E for character in path):
        return "bytes that have no place in a request line"
    form = f"{wanted.path}/{path}"
    for _ in range(6):
        folded = unicodedata.normalize("NFKC", form).replace("\\", "/")
        plain = "/".join(_as_windows(one.partition(";")[0]) for one in folded.split("/"))
        for one in (form, folded, plain):
            if not (posixpath.normpath(one) + "/").lower().startswith(f"{wanted.path}/api/"):
                return f"outside of the base: {one!r}"
            if "//" in one or any(ord(character) < 0x20 for character in one):
                return f"more than one reading: {one!r}"
        form = unquote(form)
    return ""


def _as_windows(name: str) -> str:
    """Return a name as Windows takes it: without dots and spaces at its end, unless it is dots."""
    return name.rstrip(". ") or name


@pytest.mark.parametrize(
    "path",
    [
        "../Token", "api/../../x", "api/%2e%2e/%2e%2e/x", "api/%252e%252e%252f..%252fx", "api/..\\..\\x",
        "//evil.example/x", "api//evil.example", "http://evil.example/", "api/x#y", "api/a b", "api/%0d%0ax",
        "api/..;/../x", "api/%EF%BC%8E%EF%BC%8E/%EF%BC%8E%EF%BC%8E/x", "api/x\r\ny", "Token",
    ],
)  # fmt: skip
def test_the_judge_knows_an_escape_when_it_sees_one(path: str) -> None:
    assert leaves_base(BASE, path, "")


WORDS = (
    "employees", "Beteiligte", "104860", "api", "v1", "advonet", "Token", "a", "x:y", "ü", "München", " ", "+",
    "/", "/", "/", "//", ".", "..", "...", "../", "/..", "%2e", "%2E%2e", "%252e", "%25", "%", "%2f", "%252f",
    "%5c", "\\", "\r\n", "%0d%0a", "\x00", "\t", "%00", "%09", "@", "user:pw@", ":", ";", "?", "#", "&", "=",
    "http:", "https://", "//evil.example", "evil.example", "[::1]", "127.0.0.1", "%ff", "%c0%ae", "\uff05", "\uff0f",
    "\uff0e", "\u2025", "\uff20", "\u2215", "\u202e", "\ufeff", "\u00a0", "*", "~", "$", "'", '"', "<", "{", "|", "^", "`",
)  # fmt: skip
"""What endpoints are put together from."""


def generated(chance: random.Random) -> str:
    """Return the text of an endpoint: half of them all but harmless, each encoded 0 to 3 times."""
    harmless = chance.random() < 0.5
    words = [chance.choice(WORDS[:12] if harmless else WORDS) for _ in range(chance.randint(1, 7))]
    text = chance.choice(("/", "/", "")).join(words)
    if chance.random() < 0.1:
        place = chance.randint(0, len(text))
        text = text[:place] + chr(chance.randrange(0x3000)) + text[place:]
    for _ in range(chance.choice((0, 0, 0, 1, 2, 3))):
        text = quote(text, safe=chance.choice(("", "/", "/.")))
    return text


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_of_100_000_generated_endpoints_none_leaves_the_base(seed: int) -> None:
    chance = random.Random(seed)
    accepted: set[str] = set()
    refused: set[Refusal] = set()
    for _ in range(GENERATED):
        endpoint = generated(chance)
        raw = quote(endpoint, safe=chance.choice(("", "/", "/:.@;%?", "/:.\\@;%=")))
        found = target(f"endpoint={raw}&n=%2F..%2F", PREFIX)
        if isinstance(found, Refusal):
            refused.add(found)
            continue
        if found.address not in accepted:
            accepted.add(found.address)
            assert leaves_base(BASE, written(found), found.query) == "", endpoint
    # and it does not hold just because nothing is let through, or nothing dangerous was tried
    assert len(accepted) > 500
    assert refused >= set(Refusal) - {Refusal.TWICE, Refusal.OVERSIZED, Refusal.QUERY}


@settings(max_examples=400, deadline=None)
@given(
    st.text(max_size=60),
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=60),
)
def test_whatever_text_is_asked_for_it_stays_under_the_base_or_is_refused(
    endpoint: str, raw: str
) -> None:
    for found in (asked(endpoint), target(f"endpoint={raw}", PREFIX), target(raw, PREFIX)):
        if isinstance(found, Target):
            assert leaves_base(BASE, written(found), "") == ""
            assert asked(found.address) == Target(found.address, found.segments)
