"""FastAPI with aiosqlite: one connection, a durable commit per message."""

import os
import uuid
from contextlib import asynccontextmanager

import aiosqlite
from fastapi import FastAPI
from pydantic import BaseModel


class Message(BaseModel):
    message: str


@asynccontextmanager
async def lifespan(app):
    async with aiosqlite.connect(os.environ["DATABASE"]) as database:
        await database.execute("PRAGMA journal_mode = wal")
        await database.execute("PRAGMA synchronous = full")
        await database.execute("CREATE TABLE messages (number INTEGER PRIMARY KEY, id TEXT UNIQUE, data TEXT)")
        await database.commit()
        app.state.database = database
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/")
async def hello():
    return {"message": "Hello World"}


@app.post("/messages", status_code=201)
async def publish(message: Message):
    id_ = str(uuid.uuid4())
    database = app.state.database
    await database.execute("INSERT INTO messages (id, data) VALUES (?, ?)", (id_, message.message))
    await database.commit()
    return {"id": id_}
