"""Flask with sqlite3: a connection per thread, a durable commit per message. On its own server: the seed's REST."""

import json
import os
import sqlite3
import threading
import uuid

from flask import Flask, request

from bench.peers.document import DOCUMENT

app = Flask(__name__)
local = threading.local()


def database():
    if not hasattr(local, "connection"):
        local.connection = sqlite3.connect(os.environ["DATABASE"], timeout=60)
        local.connection.execute("PRAGMA journal_mode = wal")
        local.connection.execute("PRAGMA synchronous = full")
        local.connection.execute(
            "CREATE TABLE IF NOT EXISTS messages (number INTEGER PRIMARY KEY, id TEXT UNIQUE, data TEXT)"
        )
    return local.connection


def store(data):
    id_ = str(uuid.uuid4())
    with database() as connection:
        connection.execute("INSERT INTO messages (id, data) VALUES (?, ?)", (id_, data))
    return id_


@app.get("/api/data")
def get_data():
    return DOCUMENT


@app.post("/messages")
def publish():
    return {"id": store(request.get_json()["message"])}, 201


@app.post("/batches")
def publish_batch():
    return {"ids": [store(json.dumps(event["data"])) for event in request.get_json(force=True)]}, 201
