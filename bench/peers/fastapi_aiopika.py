"""A FastAPI handler that publishes with aio-pika and answers once the broker has confirmed."""

import os
from contextlib import asynccontextmanager

import aio_pika
from fastapi import FastAPI
from pydantic import BaseModel


class Message(BaseModel):
    message: str


@asynccontextmanager
async def lifespan(app):
    async with await aio_pika.connect_robust(os.environ["AMQP_URL"]) as connection:
        app.state.channel = await connection.channel(publisher_confirms=True)
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/messages", status_code=201)
async def publish(message: Message):
    body = aio_pika.Message(message.message.encode(), delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
    await app.state.channel.default_exchange.publish(body, routing_key=os.environ["QUEUE"], mandatory=True)
    return {"published": True}
