"""python -m tests.deploy.live.image NAME: the image serves all doors, as nobody and on a read-only root.

It needs podman, and takes the ports of this machine; beside it there is a RabbitMQ. What podman has to be told of the
machine stands in its own configuration (`CONTAINERS_CONF`).
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import pika

from core.settings import Settings
from proto.trivium.v1 import messages_pb2 as pb
from proto.trivium.v1.messages_pb2_grpc import MessagesStub
from tools.rabbitmq import Node

NAME, VOLUME, TOPIC = "trivium-check", "trivium-check", "checked"
SECRET = "/run/secrets/trivium/amqp-url"
DEFAULTS = Settings()
PATIENCE_SECONDS = 60.0


def podman(*arguments: str) -> str:
    done = subprocess.run(["podman", *arguments], capture_output=True, text=True, check=False)  # noqa: S607
    if done.returncode:
        raise AssertionError(f"podman {' '.join(arguments)}: {done.stderr}")
    return done.stdout.strip()


def start(image: str, secret: Path) -> float:
    """The seconds until it was ready."""
    begun = time.monotonic()
    hardened = ["--read-only", "--read-only-tmpfs=false", "--tmpfs=/tmp", "--cap-drop=all"]
    hardened += ["--security-opt=no-new-privileges", "--network=host", f"--volume={VOLUME}:/data"]
    given = [f"--volume={secret}:{SECRET}:ro", f"--env=TRIVIUM_AMQP_URL_FILE={SECRET}", "--env=TRIVIUM_INSECURE=true"]
    podman("run", "--detach", f"--name={NAME}", "--no-healthcheck", *hardened, *given, image)
    ready(lambda _: True)
    return time.monotonic() - begun


def ready(enough: Any) -> None:
    """Until it is, and `enough` holds of its checks."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{DEFAULTS.admin_port}/readyz?verbose", timeout=1) as answer:
                if enough(json.load(answer)["checks"]):
                    return
        except OSError:
            pass
        time.sleep(0.01)
    raise AssertionError(podman("logs", NAME))


def use_all_doors(url: str) -> None:
    """A message through each, in one order for every reader."""
    path = f"http://127.0.0.1:{DEFAULTS.rest_port}/api/topics/{TOPIC}/messages"
    urllib.request.urlopen(urllib.request.Request(path, data=b"REST")).close()
    with grpc.insecure_channel(f"127.0.0.1:{DEFAULTS.grpc_port}") as channel:
        stub = MessagesStub(channel)
        stub.Publish(pb.PublishRequest(topic=TOPIC, messages=[pb.Message(data=b"gRPC")]))
        with pika.BlockingConnection(pika.URLParameters(url)) as connection:
            broker = connection.channel()
            broker.queue_declare(TOPIC, durable=True)
            broker.queue_bind(TOPIC, "trivium.out", TOPIC)
            broker.basic_publish("trivium.in", TOPIC, b"AMQP")
            taken = [
                body for _, (_, _, body) in zip(range(3), broker.consume(TOPIC, inactivity_timeout=30), strict=False)
            ]
        read = [message.data for message in stub.ReadMessages(pb.ReadMessagesRequest(topic=TOPIC)).messages]
    assert taken == read == [b"REST", b"gRPC", b"AMQP"], (taken, read)


def check(image: str, node: Node, folder: Path) -> None:
    secret = folder / "amqp-url"
    secret.write_text(node.url)
    secret.chmod(0o444)
    first = start(image, secret)
    ready(lambda checks: checks.get("broker", {}).get("state") == "ok")
    use_all_doors(node.url)
    print(podman("exec", NAME, "python", "main.py", "healthcheck"))
    pid = podman("inspect", NAME, "--format={{.State.Pid}}")
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    assert "0" not in status["Uid"].split(), status["Uid"]
    assert int(status["CapEff"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    podman("stop", "--time=30", NAME)
    assert podman("inspect", NAME, "--format={{.State.ExitCode}}") == "0"
    podman("rm", NAME)
    again = start(image, secret)
    size = int(podman("image", "inspect", image, "--format={{.Size}}"))
    print(f"{size / 1e6:.0f} MB; ready after {first:.2f} s, and {again:.2f} s; uid {status['Uid'].split()[0]}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.deploy.live.image", description="Checks an image.")
    parser.add_argument("image")
    image = parser.parse_args().image
    with tempfile.TemporaryDirectory() as name, Node(Path(name, "rabbitmq")) as node:
        try:
            check(image, node, Path(name))
        finally:
            podman("rm", "--force", "--time=30", "--ignore", NAME)
            podman("volume", "rm", "--force", VOLUME)
    return 0


if __name__ == "__main__":
    sys.exit(main())
