"""The picture, the warnings, and device tokens: found in memory, gone within seconds."""

from __future__ import annotations

import asyncio
import itertools
import re
import secrets
from pathlib import Path

import pytest

from gateway.auth import AnyOf, Identity, StaticTokens, token_digest, users_of
from gateway.devicetokens import CODE_SECONDS, DeviceTokens, TokenRevoked
from gateway.errors import LimitExceeded, NotFound, StoreUnavailable
from gateway.pairing import QUIET_ZONE, Picture, pair_url, reach_warning
from gateway.settings import Settings
from gateway.store.pairing import CODES_PER_USER, DEVICES_PER_USER
from gateway.store.records import DeviceTokens as KnownTokens
from gateway.store.records import NewDeviceToken, PairCode
from gateway.store.sql import SqlStore

USERS = frozenset(("alice", "bob", "owner"))


@pytest.fixture
def tokens(store: SqlStore) -> DeviceTokens:
    return DeviceTokens(store, USERS)


async def paired(tokens: DeviceTokens, user: str = "alice", name: str = "phone") -> tuple[str, str]:
    """A token and its id."""
    code, _ = await tokens.new_code(user)
    token, kept = await tokens.pair(code, name)
    return token, kept.token_id


async def test_a_code_gives_a_token_once(tokens: DeviceTokens) -> None:
    code, kept = await tokens.new_code("alice")
    assert len(code) * 6 >= 128
    assert kept.expires_at - kept.created_at == CODE_SECONDS * 1000 == 120_000
    token, device = await tokens.pair(code, "phone")
    assert await tokens.authenticate(token) == Identity("alice", token_id=device.token_id)
    assert await tokens.authenticate(code) is None
    with pytest.raises(NotFound):
        await tokens.pair(code, "phone")
    with pytest.raises(NotFound):
        await tokens.pair("guessed", "phone")


async def test_of_many_that_hand_in_one_code_at_once_one_gets_a_token(store: SqlStore, tokens: DeviceTokens) -> None:
    code, _ = await tokens.new_code("alice")
    others = [DeviceTokens(store, USERS) for _ in range(8)]  # as other processes would
    ended = await asyncio.gather(*(one.pair(code, "phone") for one in others), return_exceptions=True)
    assert sum(isinstance(one, NotFound) for one in ended) == 7
    assert len(await store.device_tokens("alice")) == 1


async def test_a_code_is_worth_nothing_two_minutes_later(store: SqlStore) -> None:
    await store.add_pair_code(PairCode(digest=b"c" * 32, user_id="alice", created_at=1_000, expires_at=121_000))
    late = NewDeviceToken(token_id="d-1", digest=b"t" * 32, name="", created_at=121_000)
    assert await store.pair(b"c" * 32, late) is None
    await store.add_pair_code(PairCode(digest=b"c" * 32, user_id="alice", created_at=121_000, expires_at=241_000))
    in_time = NewDeviceToken(token_id="d-1", digest=b"t" * 32, name="", created_at=240_999)
    assert (await store.pair(b"c" * 32, in_time)).user_id == "alice"  # type: ignore[union-attr]  # fails on None, too


async def test_neither_code_nor_token_is_in_the_database(store: SqlStore, tokens: DeviceTokens, tmp_path: Path) -> None:
    unused, _ = await tokens.new_code("alice")
    token, _ = await paired(tokens)
    kept = b"".join((tmp_path / name).read_bytes() for name in ("store.db", "store.db-wal"))
    assert token_digest(token) in kept
    assert token_digest(unused) in kept
    for secret in (unused, token):
        assert secret.encode() not in kept


async def test_codes_and_devices_of_a_user_are_bounded(store: SqlStore, tokens: DeviceTokens) -> None:
    codes = [(await tokens.new_code("alice"))[0] for _ in range(CODES_PER_USER + 1)]
    with pytest.raises(NotFound):
        await tokens.pair(codes[0], "the oldest gave way")
    await tokens.pair(codes[-1], "phone")
    for number in range(DEVICES_PER_USER - 1):
        digest = number.to_bytes(32)
        await store.add_pair_code(PairCode(digest=digest, user_id="alice", created_at=0, expires_at=2))
        new = NewDeviceToken(token_id=f"d-{number}", digest=digest, name="", created_at=1)
        assert await store.pair(digest, new) is not None
    code, _ = await tokens.new_code("alice")
    with pytest.raises(LimitExceeded):
        await tokens.pair(code, "one too many")


async def test_a_token_is_good_only_while_the_settings_know_its_user(store: SqlStore, tokens: DeviceTokens) -> None:
    token, _ = await paired(tokens, "bob")
    without_bob = DeviceTokens(store, users_of(Settings.model_validate({"auth": {"tokens": {"alice": "a"}}})))
    await without_bob.refresh()
    assert await tokens.authenticate(token) is not None
    assert await without_bob.authenticate(token) is None


async def test_a_paired_device_of_the_owner_has_the_owners_rights_beside_static_tokens(tokens: DeviceTokens) -> None:
    either = AnyOf(StaticTokens({"alice": "a"}), tokens)
    token, token_id = await paired(tokens, "owner")
    assert await either.authenticate("a") == Identity("alice")
    assert await either.authenticate(token) == Identity("owner", owner=True, token_id=token_id)
    assert await either.authenticate("b") is None


async def test_what_another_process_does_is_known_after_a_refresh(store: SqlStore, tokens: DeviceTokens) -> None:
    other = DeviceTokens(store, USERS)
    first, first_id = await paired(other)
    second, _ = await paired(other, "bob")
    await tokens.refresh()
    assert await tokens.authenticate(first) is not None
    await other.revoke("alice", first_id)
    third, _ = await paired(other)  # as many as before: the mark must tell nevertheless
    await tokens.refresh()
    assert await tokens.authenticate(first) is None
    assert await tokens.authenticate(second) is not None
    assert await tokens.authenticate(third) is not None


async def test_what_is_given_here_and_revoked_elsewhere_before_the_next_look_is_gone_with_it(
    store: SqlStore, tokens: DeviceTokens
) -> None:
    await tokens.refresh()
    token, token_id = await paired(tokens)
    other = DeviceTokens(store, USERS)
    await other.revoke("alice", token_id)  # now the store's mark is the one from before
    await tokens.refresh()
    assert await tokens.authenticate(token) is None


async def test_a_token_that_another_process_has_just_given_is_good_at_once(
    store: SqlStore, tokens: DeviceTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = DeviceTokens(store, USERS)
    for _ in range(3):
        token, token_id = await paired(other)
        assert await tokens.authenticate(token) == Identity("alice", token_id=token_id)
    unheard, _ = await paired(other)
    monkeypatch.setattr(tokens, "_look", nothing)
    assert await tokens.authenticate(unheard) is None, "without the look into the store"


async def nothing() -> None:
    pass


async def test_however_many_unknown_tokens_are_shown_the_store_is_asked_ten_times_a_second(
    store: SqlStore, tokens: DeviceTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    time = asyncio.get_running_loop().time
    look = store.all_device_tokens

    async def counted(unless: tuple[int, int] | None) -> KnownTokens | None:
        asked.append(time())
        return await look(unless)

    monkeypatch.setattr(store, "all_device_tokens", counted)
    began = time()
    async with asyncio.timeout(10):
        while time() < began + 0.5:
            shown = [secrets.token_urlsafe(32) for _ in range(100)]
            assert await asyncio.gather(*map(tokens.authenticate, shown)) == [None] * 100
    assert 4 <= len(asked) <= (time() - began) * 10 + 1
    assert all(later - earlier > 0.09 for earlier, later in itertools.pairwise(asked))
    before = len(asked)
    for odd in ("", "x", "x" * 42, "x" * 100_000):
        assert await tokens.authenticate(odd) is None
    assert len(asked) == before, "what no token looks like is not looked for"


async def test_unknown_tokens_are_no_good_while_the_store_does_not_answer(
    store: SqlStore, tokens: DeviceTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, _ = await paired(tokens)

    async def down(unless: tuple[int, int] | None) -> KnownTokens | None:
        raise StoreUnavailable

    monkeypatch.setattr(store, "all_device_tokens", down)
    assert await tokens.authenticate(known) is not None
    assert await tokens.authenticate(secrets.token_urlsafe(32)) is None

    async def hangs(unless: tuple[int, int] | None) -> KnownTokens | None:
        await asyncio.Event().wait()
        return None

    monkeypatch.setattr(store, "all_device_tokens", hangs)
    monkeypatch.setattr("gateway.devicetokens.LOOK_WAIT_SECONDS", 0.2)
    async with asyncio.timeout(1):
        assert await asyncio.gather(*(tokens.authenticate(secrets.token_urlsafe(32)) for _ in range(50))) == [None] * 50
        assert await tokens.authenticate(known) is not None


async def test_nobody_revokes_anothers_device(tokens: DeviceTokens) -> None:
    token, token_id = await paired(tokens)
    with pytest.raises(NotFound):
        await tokens.revoke("bob", token_id)
    assert await tokens.authenticate(token) is not None


async def test_a_watched_block_ends_when_its_token_is_revoked_and_no_other(tokens: DeviceTokens) -> None:
    _, mine = await paired(tokens)
    _, other = await paired(tokens)

    async def watching(token_id: str, *revoked: str) -> None:
        async with asyncio.timeout(5), tokens.watch(token_id):
            for one in revoked:
                await asyncio.sleep(0.01)
                await tokens.revoke("alice", one)
            await asyncio.Event().wait()

    with pytest.raises(TokenRevoked):
        await watching(mine, other, mine)
    with pytest.raises(TokenRevoked):
        await watching(mine)  # it was revoked before


async def test_a_connection_that_has_shown_another_token_meanwhile_stays(tokens: DeviceTokens) -> None:
    _, old = await paired(tokens)
    _, new = await paired(tokens)
    async with asyncio.timeout(5), tokens.watch(old) as watch:
        watch.token_id = new
        await tokens.revoke("alice", old)
        await asyncio.sleep(0.01)
        watch.token_id = None
        await tokens.revoke("alice", new)
        await asyncio.sleep(0.01)


async def test_a_timeout_of_the_block_itself_is_no_revocation(tokens: DeviceTokens) -> None:
    _, token_id = await paired(tokens)
    with pytest.raises(TimeoutError):
        async with tokens.watch(token_id), asyncio.timeout(0.01):
            await asyncio.Event().wait()


# The picture


def test_the_picture_on_a_terminal_and_as_a_path_show_the_same_modules() -> None:
    picture = Picture.of(pair_url("https://chat.example.org", "c" * 22))
    size = picture.size
    assert all(len(row) == size for row in picture.rows)
    border = [*picture.rows[:QUIET_ZONE], *picture.rows[-QUIET_ZONE:]]
    assert not any(any(row) for row in border), "a quiet zone"
    drawn = [[0] * size for _ in range(size)]
    for x, y, width in re.findall(r"M(\d+) (\d+)h(\d+)v1h-\3z", picture.path):
        for column in range(int(x), int(x) + int(width)):
            drawn[int(y)][column] = 1
    assert tuple(map(tuple, drawn)) == picture.rows
    shown = []
    for line in picture.lines(colours=False):
        shown.append([int(half in "▀█") for half in line])
        shown.append([int(half in "▄█") for half in line])
    assert tuple(map(tuple, shown[:size])) == picture.rows
    coloured = picture.lines(colours=True)
    assert all(line.startswith("\x1b[38;5;16;48;5;231m") and line.endswith("\x1b[0m") for line in coloured)


@pytest.mark.parametrize(
    ("url", "public_url", "warning"),
    [
        ("https://chat.example.org", True, None),
        ("http://127.0.0.1:8080", False, "only this machine"),
        ("http://[::1]:8080", True, "only this machine"),
        ("http://localhost:8080", True, "only this machine"),
        ("http://0.0.0.0:8080", False, "only this machine"),
        ("http://192.168.1.5:8080", False, "only devices in the same network"),
        ("http://192.168.1.5:8080", True, None),
        ("http://100.101.102.103:8080", False, "only devices in the same network"),
        ("http://100.101.102.103:8080", True, None),
        ("http://box.local:8080", False, "only devices in the same network"),
        ("http://box:8080", False, "only devices in the same network"),
        ("http://chat.example.org", True, "is not encrypted"),
        ("https://93.184.215.14", False, None),
    ],
)
def test_a_url_that_phones_may_not_reach_is_warned_of(url: str, public_url: bool, warning: str | None) -> None:
    said = reach_warning(url, public_url=public_url)
    assert said is None if warning is None else warning in (said or "")
