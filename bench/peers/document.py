"""What peers answer to `GET /api/data`: as long as Trivium's answer about a message of 256 bytes."""

DOCUMENT = {
    "message": "m" * 256,
    "topic": "data",
    "offset": 1,
    "id": "01920000-0000-7000-8000-000000000000",
    "source": "urn:trivium",
    "time": "2026-01-01T00:00:00.000000Z",
}
