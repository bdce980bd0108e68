"""`python main.py keys`: makes, lists and revokes API keys, in the service if it runs, else in its data directory."""

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import msgspec

from core.administration import KeyAdministration, KeyInfo, KeyService, all_keys
from core.errors import InvalidArgument, TriviumError, Unavailable
from core.keys import KeyRing
from core.logs import configure_logging
from core.policy import InvalidPolicy, Policy, read_policy
from core.settings import MEMORY, InvalidSettings, Settings
from core.stores.keys import SqliteKeys
from core.stores.lock import DirectoryLock, StoreLocked
from transports.control.client import RemoteKeys

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2
#: For another command to end, or for a service that starts to listen.
_PATIENCE_SECONDS = 10.0
_PAUSE_SECONDS = 0.05


def parser(settings: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The command line; `settings` has the flags of the service."""
    found = argparse.ArgumentParser(prog="trivium keys", description="Make, list and revoke API keys.")
    actions = found.add_subparsers(dest="action", metavar="create|list|revoke", required=True)
    add = partial(actions.add_parser, parents=[settings], allow_abbrev=False)
    create = add("create", description="Make a key and print it, once, on stdout.")
    create.add_argument("principal", metavar="PRINCIPAL", help="Whose key it is; the policy has to have it.")
    create.add_argument("--days", type=float, metavar="N", help="Days until it expires. Default: it does not.")
    listing = add("list", description="List all keys, the oldest first.")
    listing.add_argument("--format", choices=("text", "json"), default="text", help="Default: text")
    revoke = add("revoke", description="End a key, and all that was opened with it.")
    revoke.add_argument("id", metavar="ID", help="As `list` shows it.")
    return found


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """The exit code. Raises `InvalidSettings`."""
    if settings.data_dir == MEMORY:
        raise InvalidSettings(["--data-dir: what is in memory belongs to one process"])
    if settings.core:
        raise InvalidSettings(["--core: the keys are at the core, and administered there"])
    configure_logging("warning", settings.log_format)
    folder = Path(settings.data_dir)
    try:
        if arguments.action == "create":
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        elif not folder.is_dir():
            raise Unavailable(f"there is no data directory {folder}")
        asyncio.run(_run(arguments, settings))
    except InvalidPolicy as error:
        raise InvalidSettings([str(error)]) from error
    except (TriviumError, StoreLocked, OSError) as error:
        print(f"trivium: {error}", file=sys.stderr)
        return EXIT_USAGE if isinstance(error, InvalidArgument) else EXIT_FAILED
    return EXIT_OK


async def _run(arguments: argparse.Namespace, settings: Settings) -> None:
    async with _opened(settings) as keys:
        if arguments.action == "create":
            made = await keys.create_key(arguments.principal, arguments.days)
            print(made.key, flush=True)
            print(f"trivium: key {made.info.id} of {made.info.principal}, {_state(made.info)}", file=sys.stderr)
            print("trivium: it is told only now; keep it like a password", file=sys.stderr)
        elif arguments.action == "revoke":
            ended = await keys.revoke_key(arguments.id)
            print(f"trivium: key {ended.id} of {ended.principal}, {_state(ended)}", file=sys.stderr)
        else:
            _show([key async for key in all_keys(keys)], arguments.format)


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[KeyService]:
    """The keys, in the process that holds the folder or, if there is none, in the folder itself."""
    folder = Path(settings.data_dir)
    lock = DirectoryLock(folder)
    remote = await _locked_or_reached(lock, folder)
    if remote is not None:
        try:
            yield remote
        finally:
            remote.close()
        return
    try:
        policy = read_policy(Path(settings.policy)) if settings.policy else Policy()
        ring = KeyRing(SqliteKeys(settings.data_dir), principals=policy.principals)
        await ring.open()
        yield KeyAdministration(ring)
    finally:
        lock.release()


async def _locked_or_reached(lock: DirectoryLock, folder: Path) -> RemoteKeys | None:
    """Who holds the folder; None once it is this process."""
    until = asyncio.get_running_loop().time() + _PATIENCE_SECONDS
    remote = RemoteKeys(folder)
    while True:
        try:
            lock.acquire()
        except StoreLocked as error:
            holder = str(error)
        else:
            return None
        try:
            await remote.connect()
        except OSError as error:
            if asyncio.get_running_loop().time() > until:
                raise Unavailable(f"{holder}, which takes no commands: {error}") from error
        else:
            return remote
        await asyncio.sleep(_PAUSE_SECONDS)  # another command, or a service that begins or ends


def _show(keys: list[KeyInfo], form: str) -> None:
    if form == "json":
        print(msgspec.json.format(msgspec.json.encode(keys), indent=2).decode())
        return
    rows = [("ID", "PRINCIPAL", "CREATED", "LAST USED", "STATE")]
    rows += [(key.id, key.principal, _day(key.created), _day(key.last_used), _state(key)) for key in keys]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def _day(when: datetime | None) -> str:
    return "never" if when is None else f"{when:%Y-%m-%d %H:%M}"


def _state(key: KeyInfo) -> str:
    if key.revoked is not None:
        return f"revoked {_day(key.revoked)}"
    if key.expires is None:
        return "does not expire"
    return f"{'expired' if key.expires <= datetime.now(UTC) else 'expires'} {_day(key.expires)}"
