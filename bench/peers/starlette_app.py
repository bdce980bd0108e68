"""Starlette, on whichever server runs it."""

from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from bench.peers.document import DOCUMENT


async def get_data(request):
    return JSONResponse(DOCUMENT)


app = Starlette(routes=[Route("/api/data", get_data)])
