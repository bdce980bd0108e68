"""`python main.py keys`, with and without a service."""

import asyncio
import json
import signal
import stat
from collections import Counter
from pathlib import Path

import httpx2
import pytest

from tests.e2e.process import TriviumProcess, trivium_process
from tests.keys.clients import keys


@pytest.fixture(params=["folder", "service"])
def place(request: pytest.FixtureRequest, flags: list[str]) -> list[str]:
    """Flags for the command, which finds the keys in the folder or in the service that holds it."""
    if request.param == "service":
        request.getfixturevalue("service")
    return flags


def exists(path: Path) -> bool:
    return path.exists()


def write(policy: Path, text: str) -> None:
    policy.write_text(text)


async def test_a_key_is_made_listed_and_revoked(place: list[str]) -> None:
    """The key stands alone on stdout, and nowhere else, then or later."""
    made = await keys("create", "shop", "--days", "90", *place)
    assert made.code == 0, made.err
    key = made.out.removesuffix("\n")
    assert key.startswith("trv_")
    assert key.split() == [key]
    id_ = key.split("_")[1]
    assert f"key {id_} of shop, expires" in made.err
    listed = await keys("list", "--format", "json", *place)
    (info,) = json.loads(listed.out)
    assert (info["id"], info["principal"], info["revoked"]) == (id_, "shop", None)
    assert sorted(info) == ["created", "expires", "id", "last_used", "principal", "revoked"]
    ended = await keys("revoke", id_, *place)
    assert (ended.code, ended.out) == (0, "")
    again = await keys("revoke", id_, *place)
    assert again.code == 0
    shown = await keys("list", *place)
    header, row = shown.out.splitlines()
    assert header.split() == ["ID", "PRINCIPAL", "CREATED", "LAST", "USED", "STATE"]
    assert row.startswith(f"{id_}  shop ")
    assert "revoked 20" in row
    for one in (made.err, listed.out, listed.err, ended.err, shown.out, shown.err):
        assert key[17:] not in one


async def test_bad_commands_have_no_effect(place: list[str]) -> None:
    """2 for what can't be meant, 1 for what can't be done; each names what is wrong, and stdout stays empty."""
    for command, code, reason in [
        (
            ("create", "stranger"),
            2,
            "trivium: principal: 'stranger' is no principal of the policy, which has boss, shop",
        ),
        (("create", "shop", "--days", "0"), 2, "trivium: days: must be above 0"),
        (("create", "shop", "--days", "soon"), 2, "--days"),
        (("revoke", "unknown"), 1, "trivium: id: there is no key 'unknown'"),
        (("revoke",), 2, "ID"),
        (("grant", "shop"), 2, "grant"),
        ((), 2, "create|list|revoke"),
        (("list", "--format", "xml"), 2, "--format"),
    ]:
        ended = await keys(*command, *(place if command else ()))
        assert (ended.code, ended.out) == (code, ""), ended
        assert reason in ended.err
        assert "Traceback" not in ended.err
    assert (await keys("list", "--format", "json", *place)).out == "[]\n"


async def test_a_third_live_key_waits(place: list[str]) -> None:
    """Exit 1, and the error names the two; with one of them revoked there is room."""
    ids = [(await keys("create", "shop", *place)).out.split("_")[1] for _ in range(2)]
    third = await keys("create", "shop", *place)
    assert (third.code, third.out) == (1, "")
    assert all(id_ in third.err for id_ in ids)
    await keys("revoke", ids[0], *place)
    assert (await keys("create", "shop", *place)).code == 0


async def test_commands_at_once_take_turns(place: list[str]) -> None:
    """None is lost and no principal gets a third key, whoever is first."""
    wanted = ["shop", "boss"] * 4
    ended = await asyncio.gather(*(keys("create", principal, *place) for principal in wanted))
    assert Counter(one.code for one in ended) == {0: 4, 1: 4}
    assert all("live keys" in one.err for one in ended if one.code)
    listed = json.loads((await keys("list", "--format", "json", *place)).out)
    assert Counter(one["principal"] for one in listed) == {"shop": 2, "boss": 2}
    assert {one["id"] for one in listed} == {one.out.split("_")[1] for one in ended if not one.code}


async def test_the_settings_are_read_as_the_service_reads_them(policy: Path, data: Path, tmp_path: Path) -> None:
    """From the environment and from TOML too."""
    env = {"TRIVIUM_DATA_DIR": str(data), "TRIVIUM_POLICY": str(policy)}
    assert (await keys("create", "shop", env=env)).code == 0
    toml = tmp_path / "trivium.toml"
    toml.write_text(f'data_dir = "{data}"\npolicy = "{policy}"')
    assert (await keys("create", "shop", "--config", str(toml))).code == 0
    assert len(json.loads((await keys("list", "--format=json", env={"TRIVIUM_CONFIG": str(toml)})).out)) == 2


async def test_what_can_not_be_opened(data: Path, policy: Path) -> None:
    """Exit 1 where the folder is at fault, 2 where the settings are."""
    ended = await keys("list", "--data-dir", str(data))
    assert ended == (1, "", f"trivium: there is no data directory {data}\n")
    assert not exists(data)
    ended = await keys("list", "--data-dir", ":memory:")
    assert (ended.code, ended.err) == (2, "trivium: --data-dir: what is in memory belongs to one process\n")
    write(policy, "[principals.shop]\ngrants = 1")
    ended = await keys("create", "shop", "--data-dir", str(data), "--policy", str(policy))
    assert ended.code == 2
    assert str(policy) in ended.err
    ended = await keys("create", "shop", "--data-dir", str(data))
    assert (ended.code, ended.err.splitlines()[0]) == (
        2,
        "trivium: principal: 'shop' is no principal of the policy, which has none",
    )


async def test_a_key_expires(service: TriviumProcess, flags: list[str]) -> None:
    """The service refuses it from then on, and the list says so."""
    key = (await keys("create", "shop", "--days", "1e-5", *flags)).out.strip()
    async with httpx2.AsyncClient(base_url=service.rest, headers={"X-API-Key": key}, timeout=30) as http:
        while (answer := await http.get("/api/topics")).status_code == 200:
            pass
    assert answer.status_code == 401
    assert "expired" in answer.json()["detail"]
    assert "expired 20" in (await keys("list", *flags)).out


async def test_the_socket_is_for_its_owner_alone(service: TriviumProcess, data: Path) -> None:
    """It goes with the service; the one that a killed service left is replaced."""
    socket = data / "admin.sock"
    assert stat.S_ISSOCK(socket.stat().st_mode)
    assert stat.S_IMODE(socket.stat().st_mode) == 0o600
    before = socket.stat().st_ino
    await service.end(signal.SIGKILL)
    assert socket.stat().st_ino == before
    assert (await keys("list", f"--data-dir={data}")).code == 0
    async with trivium_process(f"--data-dir={data}", "--no-amqp", "--no-grpc") as second:
        assert (await keys("list", f"--data-dir={data}")).code == 0
        assert await second.end(signal.SIGTERM) == 0
    assert not socket.exists()


async def test_uses_are_written_down_at_the_end(service: TriviumProcess, flags: list[str]) -> None:
    """The list tells them at once, and after a restart."""
    key = (await keys("create", "shop", *flags)).out.strip()
    async with httpx2.AsyncClient(base_url=service.rest, headers={"X-API-Key": key}, timeout=30) as http:
        (await http.get("/api/topics")).raise_for_status()
    running = (await keys("list", "--format=json", *flags)).out
    assert json.loads(running)[0]["last_used"]
    assert await service.end(signal.SIGTERM) == 0
    assert (await keys("list", "--format=json", *flags)).out == running


async def test_another_policy_counts_from_sighup_on(service: TriviumProcess, flags: list[str], policy: Path) -> None:
    """One that can't be read is told, and the one before it stays."""
    key = (await keys("create", "shop", *flags)).out.strip()
    async with httpx2.AsyncClient(base_url=service.rest, headers={"X-API-Key": key}, timeout=30) as http:
        assert (await http.get("/api/topics/stock/messages")).status_code == 403
        write(policy, "[principals.shop]\nread = [")
        service.process.send_signal(signal.SIGHUP)
        line = await service.logged("the new policy can't be used, the old one stays")
        assert str(policy) in str(line["trivium.reason"])
        assert (await http.get("/api/topics/orders.new/messages")).status_code == 200
        write(policy, '[principals.shop]\nread = ["stock"]\n[principals.new]\n')
        service.process.send_signal(signal.SIGHUP)
        await service.logged("policy is reloaded")
        assert (await http.get("/api/topics/stock/messages")).status_code == 200
        assert (await http.get("/api/topics/orders.new/messages")).status_code == 403
    assert (await keys("create", "new", *flags)).code == 0
    assert (await keys("create", "boss", *flags)).code == 2
