"""A plain fan-out: starlette with sse-starlette, a queue per follower, nothing stored."""

import asyncio

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

followers = set()
head = 0


async def follow(request):
    queue = asyncio.Queue()
    followers.add(queue)

    async def events():
        try:
            yield ServerSentEvent(id="0", data="")
            while True:
                number, message = await queue.get()
                yield ServerSentEvent(message, id=str(number), event="message")
        finally:
            followers.discard(queue)

    return EventSourceResponse(events())


async def publish(request):
    global head
    message = (await request.body()).decode()
    head += 1
    for queue in followers:
        queue.put_nowait((head, message))
    return JSONResponse({"offset": head}, 201)


app = Starlette(
    routes=[
        Route("/api/topics/t/stream", follow),
        Route("/api/topics/t/messages", publish, methods=["POST"]),
    ]
)
