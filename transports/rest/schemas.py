"""The schemas of the OpenAPI document (JSON Schema 2020-12)."""

from typing import Any

from core.errors import TriviumError
from core.limits import MAX_OFFSET

Schema = dict[str, Any]

_TIME = "2026-01-31T12:00:00.500000Z"
OFFSET: Schema = {"type": "integer", "format": "int64", "minimum": 1, "maximum": MAX_OFFSET}
CURSOR: Schema = {**OFFSET, "minimum": 0}
_EXTENSION: Schema = {"type": ["string", "integer", "boolean", "null"]}

EVENT: Schema = {
    "specversion": "1.0",
    "id": "0199-17",
    "source": "urn:shop",
    "type": "order.placed",
    "time": _TIME,
    "datacontenttype": "application/json",
    "partitionkey": "customer-7",
    "data": {"order": 17},
}
STORED: Schema = {**EVENT, "topic": "orders", "offset": "42"}
PUBLISHED: Schema = {"topic": "orders", "offset": 42, "id": "0199-17", "duplicate": False}
DATA: Schema = {
    "message": "hello",
    "topic": "data",
    "offset": 1,
    "id": "01a20a29-3cf7-7f48-99ea-f6dc765f99bd",
    "source": "urn:trivium",
    "time": _TIME,
}

KEY: Schema = {
    "id": "NoViSVheiSNX",
    "principal": "shop",
    "created": "2026-01-31T12:00:00Z",
    "expires": "2026-05-01T12:00:00Z",
    "revoked": None,
    "last_used": None,
}
NEW_KEY: Schema = {"key": "trv_NoViSVheiSNX_...", **KEY}


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _text(description: str, **rules: Any) -> Schema:
    return {"type": "string", "description": description, **rules}


def _object(properties: Schema, *, optional: tuple[str, ...] = (), **rules: Any) -> Schema:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False, **rules}


def _attributes() -> Schema:
    short = {"minLength": 1, "maxLength": 255}
    return {
        "specversion": {"const": "1.0"},
        "id": _text("Names the message within its topic and source.", **short),
        "source": _text("Where it comes from.", **short),
        "type": _text("What it is about.", **short),
        "time": _text("RFC 3339; with microseconds.", format="date-time"),
        "datacontenttype": _text("The content type of the data.", **short),
        "subject": _text("What within the source it is about.", **short),
        "partitionkey": _text("For its readers; without effect on the order here.", **short),
        "dataschema": _text("What the data adheres to.", format="uri-reference"),
        "data": {"description": "JSON for JSON types, a string for text and form types."},
        "data_base64": _text("Any other data.", contentEncoding="base64"),
    }


def _event() -> Schema:
    """What a publisher sends."""
    extras = ("time", "datacontenttype", "subject", "partitionkey", "dataschema", "data", "data_base64")
    schema = _object(_attributes(), optional=extras)
    return {
        **schema,
        "description": "A CloudEvent 1.0 in JSON. Other members are extensions; `topic` and `offset` are dropped.",
        "propertyNames": {"pattern": "^([a-z0-9]{1,20}|data_base64)$"},
        "additionalProperties": _EXTENSION,
        "examples": [EVENT],
    }


def _stored_event() -> Schema:
    own = {
        "topic": ref("Topic"),
        "offset": _text(
            "The place in the topic; a string, since CloudEvents' integers have 32 bits.", pattern="^[0-9]+$"
        ),
    }
    extras = ("subject", "partitionkey", "dataschema", "data", "data_base64")
    schema = _object({**_attributes(), **own}, optional=extras)
    return {
        **schema,
        "description": "A stored message as a CloudEvent 1.0 in JSON format. Other members are extensions.",
        "additionalProperties": {"type": "string"},
        "examples": [STORED],
    }


def _problem() -> Schema:
    codes = sorted(error.code for error in TriviumError.__subclasses__())
    properties = {
        "type": _text("A URN of the code.", format="uri"),
        "title": _text("The code in words."),
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": _text("What is wrong, for people."),
        "instance": _text("The path of the request."),
        "code": {"enum": codes},
        "field": _text("The input at fault."),
        "retry_after": {"type": "number", "description": "Seconds after which to repeat."},
        "request_id": _text("As in the header X-Request-Id; the log has it too."),
        "checks": ref("Checks"),
    }
    optional = ("instance", "field", "retry_after", "request_id", "checks")
    return _object(properties, optional=optional, description="An error as RFC 9457 has it.")


def _keys() -> Schema:
    time = {"type": "string", "format": "date-time"}
    or_never = {"type": ["string", "null"], "format": "date-time"}
    info = {
        "id": _text("The part of the key that is no secret."),
        "principal": _text("Whose it is."),
        "created": time,
        "expires": {**or_never, "description": "null: never."},
        "revoked": {**or_never, "description": "null: it was not."},
        "last_used": {**or_never, "description": "null: never yet."},
    }
    days = {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 36_500}
    return {
        "KeyRequest": _object(
            {
                "principal": _text("A principal of the policy."),
                "days": {**days, "description": "Days until it expires; null: never."},
            },
            optional=("days",),
            examples=[{"principal": "shop", "days": 90}],
        ),
        "Key": _object(info, examples=[KEY]),
        "CreatedKey": _object({"key": _text("The key itself; it is told only here."), **info}, examples=[NEW_KEY]),
        "Keys": _object(
            {
                "keys": {"type": "array", "items": ref("Key")},
                "next": {"type": ["string", "null"], "description": "What to pass as `after`."},
            },
            examples=[{"keys": [KEY], "next": None}],
        ),
    }


def schemas() -> Schema:
    """All of them, by name."""
    published = {
        "topic": ref("Topic"),
        "offset": OFFSET,
        "id": {"type": "string"},
        "duplicate": {"type": "boolean", "description": "It was stored before, at this offset."},
    }
    data = {
        "message": _text("The data: as it is if it is UTF-8, else in base64."),
        "topic": ref("Topic"),
        "offset": {**CURSOR, "description": "0 for the greeting."},
        "id": {"type": "string"},
        "source": {"type": "string"},
        "time": {"type": "string", "format": "date-time"},
        "encoding": {"const": "base64"},
    }
    status = {"status": {"const": "ok"}, "checks": ref("Checks")}
    return {
        "Topic": {
            "type": "string",
            "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$",
            "minLength": 1,
            "maxLength": 200,
            "examples": ["orders"],
        },
        "Data": _object(data, optional=("id", "source", "time", "encoding"), examples=[DATA]),
        "Text": _object({"message": {"type": "string"}}, examples=[{"message": "hello"}]),
        "Event": _event(),
        "StoredEvent": _stored_event(),
        "Batch": {
            "type": "array",
            "description": "At most as many as the service is set to take: 1,000, unless it is set otherwise.",
            "items": ref("Event"),
            "minItems": 1,
        },
        "Published": _object(published, examples=[PUBLISHED]),
        "PublishedBatch": _object({"messages": {"type": "array", "items": ref("Published")}}),
        "Page": _object(
            {
                "messages": {"type": "array", "items": ref("StoredEvent")},
                "next": {**CURSOR, "description": "What to pass as `after`."},
            },
            examples=[{"messages": [STORED], "next": 42}],
        ),
        "Topics": _object(
            {
                "topics": {"type": "array", "items": _object({"topic": ref("Topic"), "head": OFFSET})},
                "next": {"anyOf": [ref("Topic"), {"type": "null"}], "description": "What to pass as `after`."},
            },
            examples=[{"topics": [{"topic": "orders", "head": 42}], "next": None}],
        ),
        **_keys(),
        "Status": _object(status, optional=("checks",), examples=[{"status": "ok"}]),
        "Checks": {
            "type": "object",
            "additionalProperties": _object(
                {"state": {"enum": ["ok", "degraded", "failed"]}, "detail": {"type": "string"}}
            ),
        },
        "Problem": _problem(),
    }
