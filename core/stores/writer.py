"""The one connection that writes: it appends groups of messages and keeps the write-ahead log short."""

import errno
from collections.abc import Iterable, Iterator, Sequence

import apsw

from core.errors import Conflict, Internal, TooLarge, TriviumError, Unavailable
from core.messages import Message, Published, held, same_content
from core.ports import Clock
from core.stores import rows
from core.stores.groups import Cursors, StoreBroken, Unit, log
from core.stores.runs import Run


class _Insert:
    """An INSERT of any number of rows, in few statements.

    Each gives the interpreter lock away, and has to wait for it afterwards.
    """

    def __init__(self, table: str, columns: str, conflict: str) -> None:
        self.width = columns.count(",") + 1
        row = f"({','.join('?' * self.width)})"
        self._statements = tuple(
            (count * self.width, f"INSERT INTO {table} ({columns}) VALUES {','.join([row] * count)} {conflict}")  # noqa: S608
            for count in (256, 64, 16, 4, 1)
        )
        #: Of one row.
        _, self.one = self._statements[-1]

    def of(self, values: Sequence[object]) -> Iterator[tuple[str, Sequence[object]]]:
        """Statements, and what each takes of the rows that stand one behind another in `values`."""
        at = 0
        for size, statement in self._statements:
            while len(values) - at >= size:
                yield statement, values[at : at + size]
                at += size


_MESSAGES = _Insert("messages", rows.COLUMNS, "ON CONFLICT DO NOTHING")
_HEADS = _Insert("topics", "number, name, head", "ON CONFLICT (number) DO UPDATE SET head = excluded.head")
_FIND = f"SELECT {rows.STORED} FROM messages WHERE topic = ? AND id = ? AND source = ?"  # noqa: S608
_REMOVE = "DELETE FROM messages WHERE position > ? AND position <= ?"
_SAVE_CURSOR = (
    "INSERT INTO cursors (reader, topic, offset) VALUES (?,?,?) "
    "ON CONFLICT (reader, topic) DO UPDATE SET offset = excluded.offset"
)
#: Checkpoint an idle store above this, a busy one (readers are waited for) above that.
_CHECKPOINT_BYTES = 4 * 1024 * 1024
_CHECKPOINT_BUSY_BYTES = 64 * 1024 * 1024
#: For ours to end; somebody's backup, which takes longer, must not hold up publishing.
_READERS_MILLISECONDS = 200


class Topic:
    """A topic as the writer knows it; `head` runs ahead of the commit within a group."""

    __slots__ = ("committed", "head", "name", "number")

    def __init__(self, number: int, name: str, head: int) -> None:
        self.number = number
        self.name = name
        self.head = head
        self.committed = head


class Writer:
    """A `Committer` on SQLite. It is the only writer, so it gives offsets from memory."""

    def __init__(self, connection: apsw.Connection, clock: Clock, max_topics: int) -> None:
        self._connection = connection
        self._cursor = connection.cursor()
        self._clock = clock
        self._max_topics = max_topics
        self.wal_bytes = 0  # read by others too, for metrics
        self._checkpoint_at = _CHECKPOINT_BUSY_BYTES
        self._page_bytes: int = connection.pragma("page_size")
        self.topics = {
            name: Topic(number, name, head)
            for number, name, head in connection.execute("SELECT number, name, head FROM topics ORDER BY number")
        }
        self._last_number = max((topic.number for topic in self.topics.values()), default=0)
        self._free_numbers: list[int] = []  # of topics whose first message was refused: there are only 2**23
        connection.set_wal_hook(self._wal_grew)

    def commit(self, units: Sequence[Unit], cursors: Cursors) -> None:
        touched: set[Topic] = set()
        try:
            self._cursor.execute("BEGIN IMMEDIATE")
            if not self._append_together(units, touched):
                self._append_each(units, touched)
            self._save_heads(touched)
            self._save_cursors(cursors)
            self._cursor.execute("COMMIT")
        except BaseException as error:
            self._undo(touched)
            self._translate(error)
            raise
        for topic in touched:
            topic.committed = topic.head

    def tidy(self, *, idle: bool) -> None:
        if self.wal_bytes > self._checkpoint_at:
            self._checkpoint(apsw.SQLITE_CHECKPOINT_RESTART)
        elif idle and self.wal_bytes > _CHECKPOINT_BYTES:
            self._checkpoint(apsw.SQLITE_CHECKPOINT_PASSIVE)

    def _new_topic(self, name: str) -> Topic:
        if len(self.topics) >= self._max_topics:
            raise TooLarge(f"there are {self._max_topics} topics already (max_topics)", field="topic")
        if self._free_numbers:
            number = self._free_numbers.pop()
        else:
            number = self._last_number = self._last_number + 1
        topic = self.topics[name] = Topic(number, name, 0)
        return topic

    def _forget_empty(self, touched: set[Topic]) -> None:
        for topic in [topic for topic in touched if not topic.head]:
            touched.remove(topic)
            del self.topics[topic.name]
            self._free_numbers.append(topic.number)

    def _append_together(self, units: Sequence[Unit], touched: set[Topic]) -> bool:
        """Append what is new from end to end, as nearly every group is; else do nothing, and say so."""
        try:
            values = self._placed(units, touched)
            if values is not None and self._insert(values):
                return True
        except apsw.Error:
            raise  # the group fails as a whole
        except Exception:  # noqa: BLE001, S110 - a message can't be stored: one by one it fails alone, and is told of
            pass
        for topic in touched:
            self._remove(topic, topic.committed)
        return False

    def _placed(self, units: Sequence[Unit], touched: set[Topic]) -> list[object] | None:
        """The rows of a group, one behind another, as if all of it were new; None if a topic is."""
        now = self._clock.now()
        now_micros = rows.to_micros(now)
        values: list[object] = []
        for unit in units:
            topic = self.topics.get(unit.topic)
            if topic is None:
                return None
            touched.add(topic)
            first = topic.head + 1
            rows.append_to(values, topic.number, first, now_micros, unit.messages)
            topic.head += len(unit.messages)
            unit.stored = Run(topic.name, first, now, unit.messages, unit.bytes)
            unit.published = tuple(
                [Published(topic.name, offset, one.id, False) for offset, one in enumerate(unit.messages, first)]
            )
        return values

    def _insert(self, values: Sequence[object]) -> bool:
        """Whether all of these rows could be inserted, one behind another in `values`."""
        for statement, some in _MESSAGES.of(values):
            self._cursor.execute(statement, some)
            if self._connection.changes() * _MESSAGES.width < len(some):
                return False
        return True

    def _remove(self, topic: Topic, head: int) -> None:
        """Take back what this group appended to a topic above `head`."""
        self._cursor.execute(_REMOVE, (rows.position(topic.number, head), rows.position(topic.number, topic.head)))
        topic.head = head

    def _append_each(self, units: Sequence[Unit], touched: set[Topic]) -> None:
        for unit in units:
            unit.stored, unit.published = None, ()
            try:
                topic = self.topics.get(unit.topic) or self._new_topic(unit.topic)
                touched.add(topic)
                self._append(topic, unit)
            except TriviumError as error:
                unit.error = error.bare()
                self._forget_empty(touched)

    def _append(self, topic: Topic, unit: Unit) -> None:
        first = topic.head
        now = self._clock.now()
        stored: list[Message] = []
        published: list[Published] = []
        try:
            for index, message in enumerate(unit.messages):
                offset = topic.head + 1
                row: list[object] = []
                rows.append_to(row, topic.number, offset, rows.to_micros(now), (message,))
                self._cursor.execute(_MESSAGES.one, row)
                if self._connection.changes():
                    topic.head = offset
                    stored.append(message)
                    published.append(Published(topic.name, offset, message.id, False))
                else:
                    offset = self._repeated(topic, message, index if len(unit.messages) > 1 else None)
                    published.append(Published(topic.name, offset, message.id, True))
        except Exception as error:
            if isinstance(error, apsw.Error):
                raise  # the group fails as a whole
            self._remove(topic, first)
            if isinstance(error, TriviumError):
                raise
            log.exception("a message can't be stored", topic=topic.name)
            raise Internal("the message could not be stored") from error
        unit.stored = Run(topic.name, first + 1, now, stored, sum(map(held, stored))) if stored else None
        unit.published = tuple(published)

    def _repeated(self, topic: Topic, message: Message, index: int | None) -> int:
        """The offset of the message that has this identity; `Conflict` if it says something else."""
        found = self._cursor.execute(_FIND, (topic.number, message.id, message.source))
        (first,) = rows.page_of(topic.name, found, 0)
        if same_content(first.message, message):
            return first.offset
        field = "id" if index is None else f"messages[{index}].id"
        raise Conflict(f"was published before with other content, at offset {first.offset}", field=field)

    def _save_heads(self, topics: Iterable[Topic]) -> None:
        values: list[object] = []
        for topic in topics:
            if topic.head > topic.committed:
                values += (topic.number, topic.name, topic.head)
        for statement, some in _HEADS.of(values):
            self._cursor.execute(statement, some)

    def _save_cursors(self, cursors: Cursors) -> None:
        for reader, offsets in cursors.items():
            self._cursor.execute(_SAVE_CURSOR, (reader, 0, 0))  # remembers that there is such a reader
            self._cursor.executemany(
                _SAVE_CURSOR,
                [(reader, self.topics[name].number, offset) for name, offset in offsets.items() if name in self.topics],
            )

    def _undo(self, touched: set[Topic]) -> None:
        for topic in touched:
            topic.head = topic.committed
        self._forget_empty(touched)
        if self._connection.in_transaction:  # SQLite ends it by itself after some errors
            try:
                self._cursor.execute("ROLLBACK")
            except apsw.Error as error:
                raise StoreBroken(f"a group can't be rolled back: {error}") from error

    def _wal_grew(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        self.wal_bytes = pages * self._page_bytes
        return apsw.SQLITE_OK

    def _checkpoint(self, mode: int) -> None:
        patience = self._connection.pragma("busy_timeout")
        self._connection.set_busy_timeout(_READERS_MILLISECONDS)
        try:
            frames, done = self._connection.wal_checkpoint(mode=mode)
        except apsw.Error as error:
            if not isinstance(error, apsw.BusyError) and not self._is_full(error):
                raise StoreBroken(f"a checkpoint failed: {error}") from error
            log.warning("checkpoint put off", reason=str(error))
            self._checkpoint_at = self.wal_bytes + _CHECKPOINT_BUSY_BYTES  # it waits for readers: not at every group
            return
        finally:
            self._connection.set_busy_timeout(patience)
        if frames == done:
            self.wal_bytes = 0
            self._checkpoint_at = _CHECKPOINT_BUSY_BYTES

    def _translate(self, error: BaseException) -> None:
        """Raise what an error of a group means for those who wait for it, where that is known."""
        if self._is_full(error):
            raise Unavailable("the disk is full, nothing was stored", retry_after=5.0) from error
        if isinstance(error, apsw.BusyError | apsw.LockedError):
            raise Unavailable("another program holds the database, nothing was stored") from error
        if isinstance(error, apsw.IOError | apsw.CorruptError | apsw.NotADBError):
            # after a failed fsync the kernel may have dropped the pages: a retry could seem to succeed
            raise StoreBroken(f"the store failed: {error}") from error

    def _is_full(self, error: BaseException) -> bool:
        """Whether the disk is, or somebody's share of it, which SQLite takes for a broken one."""
        code = getattr(error, "extendedresult", 0)
        over_quota = code == apsw.SQLITE_IOERR_WRITE and self._connection.system_errno == errno.EDQUOT
        return over_quota or code == apsw.SQLITE_IOERR_SHMSIZE or isinstance(error, apsw.FullError)
