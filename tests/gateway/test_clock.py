import random
import time
from datetime import UTC, datetime

from gateway.clock import now, rfc3339, timestamp


def test_times_are_written_as_rfc_3339_in_utc_with_milliseconds() -> None:
    assert rfc3339(0) == "1970-01-01T00:00:00.000Z"
    assert rfc3339(1_795_160_400_123) == "2026-11-20T07:40:00.123Z"
    assert rfc3339(1_795_160_400_007) == "2026-11-20T07:40:00.007Z"


def test_every_time_agrees_with_the_standard_library_in_whatever_order() -> None:
    chance = random.Random(5)
    for _ in range(2_000):
        at = chance.choice((chance.randrange(4_000_000_000_000), 1_700_000_000_000 + chance.randrange(3_000)))
        expected = datetime.fromtimestamp(at // 1000, UTC).replace(microsecond=at % 1000 * 1000)
        assert rfc3339(at) == expected.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def test_the_present_moment_is_the_clock_s() -> None:
    before = time.time()
    shown, milliseconds = datetime.fromisoformat(timestamp()), now()
    after = time.time()
    assert int(before * 1000) <= milliseconds <= after * 1000
    assert int(before * 1000) / 1000 <= shown.timestamp() <= after
