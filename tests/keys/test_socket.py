"""The socket itself: its name, its bounds, its end."""

import asyncio
import json
import socket
import stat
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from core.administration import KeyAdministration, KeyInfo
from core.errors import Conflict, Unavailable
from core.keys import KeyRing
from core.settings import MEMORY
from core.stores.keys import SqliteKeys
from tests.core.opening import until
from transports.control import server
from transports.control.client import RemoteKeys
from transports.control.server import ControlSocket
from transports.control.wire import NAME, REQUEST_BYTES

EPOCH = datetime.fromtimestamp(0, UTC)


@pytest.fixture
def ring() -> KeyRing:
    return KeyRing(SqliteKeys(MEMORY), principals=("shop",))


@pytest.fixture
async def control(ring: KeyRing, tmp_path: Path) -> AsyncIterator[ControlSocket]:
    async with ControlSocket(KeyAdministration(ring), str(tmp_path)) as control:
        yield control


async def connected(folder: Path) -> tuple[StreamReader, StreamWriter]:
    return await asyncio.open_unix_connection(str(folder / NAME))


async def told(folder: Path, *lines: bytes) -> list[Any]:
    """What is answered to these lines, sent at once."""
    reader, writer = await connected(folder)
    writer.write(b"".join(lines))
    writer.write_eof()
    answers = (await reader.read()).splitlines()
    writer.close()
    return [json.loads(answer) for answer in answers]


@pytest.mark.usefixtures("control")
async def test_one_line_asks_and_one_answers(tmp_path: Path) -> None:
    """As many as one likes, in order; what is no request is refused, and does not end the connection."""
    bad = [b"\n", b"[]\n", b"\xff\n", b'{"operation": "drop"}\n', b'{"operation": "revoke_key"}\n', b"[" * 4000 + b"\n"]
    bad += [b'{"operation": "create_key", "principal": "shop", "grants": ["#"]}\n']
    answers = await told(tmp_path, *bad, b'{"operation": "list_keys"}\n')
    assert [answer["error"]["code"] for answer in answers[:-1]] == ["invalid_argument"] * len(bad)
    assert {answer["error"]["field"] for answer in answers[:-1]} == {"request"}
    assert answers[-1] == {"result": {"keys": [], "next": None}, "error": None}


@pytest.mark.usefixtures("control")
async def test_a_long_line_is_refused(tmp_path: Path) -> None:
    """It takes no memory."""
    (answer,) = (await told(tmp_path, b"x" * (REQUEST_BYTES * 10) + b"\n"))[:1]
    assert answer["error"]["detail"] == f"must be at most {REQUEST_BYTES} bytes"


@pytest.mark.usefixtures("control")
async def test_errors_arrive_as_they_were_raised(tmp_path: Path) -> None:
    """With code, field and detail."""
    remote = RemoteKeys(tmp_path)
    await remote.connect()
    await remote.create_key("shop")
    await remote.create_key("shop", 0.5)
    with pytest.raises(Conflict, match="2 live keys"):
        await remote.create_key("shop")
    remote.close()


async def test_a_long_path_is_no_obstacle(ring: KeyRing, tmp_path: Path) -> None:
    """The kernel takes 107 bytes; a data directory may have more."""
    folder = tmp_path / ("d" * 100) / ("e" * 100)
    folder.mkdir(parents=True)
    async with ControlSocket(KeyAdministration(ring), str(folder)):
        mode = (folder / NAME).stat().st_mode
        assert (stat.S_ISSOCK(mode), stat.S_IMODE(mode)) == (True, 0o600)
        remote = RemoteKeys(folder)
        await remote.connect()
        assert (await remote.list_keys()).keys == ()
        remote.close()
    assert NAME not in [path.name for path in folder.iterdir()]


async def test_what_is_no_socket_is_left_alone(ring: KeyRing, tmp_path: Path) -> None:
    """An error names the file; a dead socket is replaced."""
    (tmp_path / NAME).write_text("mine")
    with pytest.raises(OSError, match=f"can't make .*{NAME}"):
        await ControlSocket(KeyAdministration(ring), str(tmp_path)).__aenter__()
    assert (tmp_path / NAME).read_text() == "mine"
    (tmp_path / NAME).unlink()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / NAME))
    async with ControlSocket(KeyAdministration(ring), str(tmp_path)):
        assert await told(tmp_path, b'{"operation": "list_keys"}\n')


async def test_what_was_asked_is_answered_before_the_end(tmp_path: Path) -> None:
    """Who is idle is not waited for."""
    asked, go = asyncio.Event(), asyncio.Event()

    class Slow(KeyAdministration):
        async def revoke_key(self, id: str) -> KeyInfo:
            asked.set()
            await go.wait()
            return KeyInfo(id=id, principal="shop", created=EPOCH)

    control = await ControlSocket(Slow(KeyRing(SqliteKeys(MEMORY))), str(tmp_path)).__aenter__()
    idle, idle_writer = await connected(tmp_path)
    remote = RemoteKeys(tmp_path)
    await remote.connect()
    async with asyncio.TaskGroup() as group:
        answer = group.create_task(remote.revoke_key("k"))
        await asked.wait()
        leaving = group.create_task(control.__aexit__(None, None, None))
        assert await idle.read() == b""
        assert not leaving.done()
        go.set()
    assert answer.result().id == "k"
    with pytest.raises(Unavailable, match="is not known"):
        await remote.list_keys()
    idle_writer.close()
    remote.close()


async def test_connections_are_few_and_short(
    control: ControlSocket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too many are turned away, and who says nothing is in time."""
    many = [await connected(tmp_path) for _ in range(server._CONNECTIONS)]
    await until(lambda: len(control._connections) == server._CONNECTIONS)
    assert await told(tmp_path) == []
    for _, writer in many:
        writer.close()
    await until(lambda: not control._connections)
    monkeypatch.setattr(server, "_SECONDS", 0.01)
    reader, writer = await connected(tmp_path)
    assert await reader.read() == b""
    writer.close()


async def test_half_an_answer_is_none(tmp_path: Path) -> None:
    """Of a service that is killed while it answers."""

    async def serve(reader: StreamReader, writer: StreamWriter) -> None:
        await reader.readline()
        writer.write(b'{"result": {"keys"')
        writer.close()

    async with await asyncio.start_unix_server(serve, str(tmp_path / NAME)):
        remote = RemoteKeys(tmp_path)
        await remote.connect()
        with pytest.raises(Unavailable, match="is not known"):
            await remote.list_keys()
        remote.close()
