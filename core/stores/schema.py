"""The tables of the log, as numbered migrations. A released one is never changed, only followed by another."""

from collections.abc import Sequence

import apsw

#: A message is found by one integer: the number of its topic above, its offset below.
OFFSET_BITS = 40

MIGRATIONS = (
    """
    CREATE TABLE topics (
        number INTEGER PRIMARY KEY,
        name   TEXT    NOT NULL UNIQUE,
        head   INTEGER NOT NULL          -- kept apart from the messages: an offset is never given twice
    );
    CREATE TABLE messages (
        position     INTEGER PRIMARY KEY,  -- topic << 40 | offset: appending and reading touch one b-tree
        topic        INTEGER NOT NULL,
        id           TEXT    NOT NULL,
        source       TEXT    NOT NULL,
        type         TEXT    NOT NULL,
        time         INTEGER NOT NULL,     -- microseconds since 1970 in UTC
        time_given   INTEGER NOT NULL,     -- 1 if the publisher gave the time
        content_type TEXT    NOT NULL,
        subject      TEXT,
        key          TEXT,
        attributes   TEXT,                 -- a JSON object, NULL if there are none
        data         BLOB    NOT NULL
    );
    -- the id first: ids of version 7 arrive in order, so the index grows at its end, whichever topics they are for
    CREATE UNIQUE INDEX identity ON messages (id, source, topic);
    CREATE TABLE cursors (
        reader TEXT    NOT NULL,
        topic  INTEGER NOT NULL,
        offset INTEGER NOT NULL,
        PRIMARY KEY (reader, topic)
    ) WITHOUT ROWID;
    """,
)


class UnknownSchema(Exception):
    """The data was written by a newer Trivium."""


def migrate(connection: apsw.Connection, migrations: Sequence[str] = MIGRATIONS) -> None:
    """Bring the database to the newest schema, one transaction per migration."""
    found = connection.pragma("user_version")
    if found > len(migrations):
        raise UnknownSchema(f"its schema is {found}, this Trivium knows {len(migrations)}: use a newer one")
    for number in range(found, len(migrations)):
        with connection:
            connection.execute(migrations[number])
            connection.pragma("user_version", number + 1)
