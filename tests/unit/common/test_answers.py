from datetime import UTC, datetime

from bitbylaw_common.http.answers import date_of


def test_a_date_header_is_read_or_is_none() -> None:
    assert date_of({"Date": "Mon, 09 Mar 2026 08:00:00 GMT"}) == datetime(2026, 3, 9, 8, tzinfo=UTC)
    for headers in ({}, {"Date": "yesterday"}, {"Date": "Mon, 09 Mar 2026 08:00:00 -0000"}):
        assert date_of(headers) is None
