"""What users do, and do wrong, at every door, bounded and all the time."""

import asyncio
import itertools
from contextlib import AsyncExitStack

import aio_pika
import grpc.aio
import httpx2

from proto.trivium.v1 import messages_pb2 as pb
from proto.trivium.v1.messages_pb2_grpc import MessagesStub

TOPIC = "traffic"
#: Between two rounds; a round is about a dozen requests.
PAUSE_SECONDS = 0.02


class Traffic:
    """Rounds of requests to one Trivium, until it is cancelled. It bears with any failure: faults are the point."""

    def __init__(self, rest: str, grpc_target: str, amqp_url: str) -> None:
        self._rest, self._grpc, self._amqp_url = rest, grpc_target, amqp_url
        self.rounds = 0

    async def run(self) -> None:
        async with AsyncExitStack() as stack:
            http = await stack.enter_async_context(httpx2.AsyncClient(base_url=self._rest, timeout=10))
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(self._grpc))
            connection = await stack.enter_async_context(await aio_pika.connect_robust(self._amqp_url))
            broker = await connection.channel(publisher_confirms=False)
            queue = await broker.declare_queue(TOPIC, durable=True, arguments={"x-max-length": 1000})
            await queue.bind("trivium.out", TOPIC)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._follow(MessagesStub(channel)), name="follow")
                tasks.create_task(self._stream(), name="stream")
                tasks.create_task(self._repeat(self._http_round, http), name="rest")
                tasks.create_task(self._repeat(self._grpc_round, MessagesStub(channel)), name="grpc")
                tasks.create_task(self._repeat(self._amqp_round, broker), name="amqp")

    async def _repeat(self, one_round, client) -> None:  # type: ignore[no-untyped-def]
        for number in itertools.count():
            try:
                await one_round(client, number)
            except (OSError, httpx2.HTTPError, grpc.aio.AioRpcError, aio_pika.exceptions.AMQPError, RuntimeError):
                await asyncio.sleep(0.2)
            self.rounds += 1
            await asyncio.sleep(PAUSE_SECONDS)

    async def _http_round(self, http: httpx2.AsyncClient, number: int) -> None:
        path = f"/api/topics/{TOPIC}/messages"
        await http.post(path, content=b"x" * 256)
        for _ in range(2):  # the second is a repetition
            await http.post(path, content=b"same", headers={"idempotency-key": f"r{number}"})
        await http.get(path, params={"limit": 10})
        await http.get(path, params={"after": "no number"})
        await http.get(f"{path}/999999999")
        await http.get("/api/data", params={"topic": TOPIC})
        await http.get("/api/topics")

    async def _grpc_round(self, stub: MessagesStub, number: int) -> None:
        batch = [pb.Message(data=b"y" * 256, content_type="application/octet-stream") for _ in range(20)]
        await stub.Publish(pb.PublishRequest(topic=TOPIC, messages=batch), timeout=10)
        await stub.GetData(pb.GetDataRequest(topic=TOPIC), timeout=10)
        await stub.ReadMessages(pb.ReadMessagesRequest(topic=TOPIC, limit=10), timeout=10)

    async def _amqp_round(self, channel: aio_pika.abc.AbstractChannel, number: int) -> None:
        into = await channel.get_exchange("trivium.in")
        await into.publish(aio_pika.Message(b"from a producer", message_id=f"a{number}"), TOPIC)
        rpc = aio_pika.Message(b'{"topic": "traffic"}', type="GetData", reply_to="nobody", correlation_id="1")
        await channel.default_exchange.publish(rpc, "trivium.rpc")

    async def _follow(self, stub: MessagesStub) -> None:
        while True:
            try:
                async for _ in stub.Follow(pb.FollowRequest(topic=TOPIC)):
                    pass
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.2)

    async def _stream(self) -> None:
        while True:
            try:
                async with (
                    httpx2.AsyncClient(base_url=self._rest, timeout=10) as http,
                    http.stream("GET", f"/api/topics/{TOPIC}/stream") as answer,
                ):
                    async for _ in answer.aiter_bytes():
                        pass
            except httpx2.HTTPError:
                await asyncio.sleep(0.2)
