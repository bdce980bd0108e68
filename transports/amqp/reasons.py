"""Why there is no connection, in words for people."""

import re

from pika.adapters.utils.connection_workflow import AMQPConnectionWorkflowFailed, AMQPConnectorPhaseErrorBase
from pika.exceptions import AMQPConnectionError, AuthenticationError, ChannelClosed, ConnectionClosed

#: How OpenSSL names what went wrong. With TLS 1.3 an alert comes after the handshake, in a text that pika makes of it.
_TLS = re.compile(r"\[SSL: (?P<name>\w+)\]")
_UNVERIFIED = re.compile(r"certificate verify failed: (?P<why>.+?)\.? \(_ssl")
_ALERT = re.compile(r"ALERT_(?P<alert>\w+)")
_ALERTS = {
    "CERTIFICATE_REQUIRED": "the broker asks for a client certificate: set amqp_cert and amqp_key",
    "UNKNOWN_CA": "the broker does not trust the authority that signed amqp_cert",
    "HANDSHAKE_FAILURE": "the broker refuses the handshake: amqp_cert is missing, or not what it takes of a client",
    "PROTOCOL_VERSION": "the broker has no TLS 1.2 nor later",
}
_NAMES = {
    "WRONG_VERSION_NUMBER": "there is no TLS on this port: 5671 is the usual one",
    "UNSUPPORTED_PROTOCOL": _ALERTS["PROTOCOL_VERSION"],
}
#: By the mechanism that is ours.
_NOT_OFFERED = {
    "EXTERNAL": "the broker takes no login by certificate (SASL EXTERNAL): enable its rabbitmq_auth_mechanism_ssl",
    "PLAIN": "the broker takes no password (SASL PLAIN): set amqp_cert and amqp_key, and leave it out of the URL",
}


def explain(error: BaseException) -> str:
    """What went wrong, in a line. pika wraps causes several layers deep."""
    if isinstance(error, AMQPConnectionWorkflowFailed):
        return explain(error.exceptions[-1])
    if isinstance(error, AMQPConnectorPhaseErrorBase):
        return explain(error.exception)
    if isinstance(error, ConnectionClosed | ChannelClosed):
        return f"{error.reply_code} {error.reply_text}"
    if isinstance(error, AuthenticationError):
        return _NOT_OFFERED.get(error.args[0], f"the broker does not offer SASL {error.args[0]}")
    if isinstance(error, AMQPConnectionError) and error.args:
        cause = error.args[0]
        return explain(cause) if isinstance(cause, BaseException) else _of_tls(str(cause))
    if isinstance(error, OSError) and error.strerror:
        return _of_tls(error.strerror)
    return str(error) or type(error).__name__


def _of_tls(text: str) -> str:
    """The same, if it is not about TLS."""
    found = _TLS.search(text)
    if found is None:
        return text
    if unverified := _UNVERIFIED.search(text):
        why = unverified["why"]
        hint = "; amqp_ca names whom to trust" if "issuer" in why or "self-signed" in why else ""
        return f"the broker's certificate is not accepted: {why}{hint}"
    if alert := _ALERT.search(found["name"]):
        default = f"the broker refuses the handshake: {alert['alert'].lower().replace('_', ' ')}"
        return _ALERTS.get(alert["alert"], default)
    return _NAMES.get(found["name"], text)
