"""Sends back what comes, to one peer after another: `python -m bench.echo PORT`."""

import socket
import sys


def main(port: int) -> None:
    with socket.create_server(("127.0.0.1", port)) as listener:
        while True:
            connection, _ = listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with connection:
                while data := connection.recv(4096):
                    connection.sendall(data)


if __name__ == "__main__":
    main(int(sys.argv[1]))
