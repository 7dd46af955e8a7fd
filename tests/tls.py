"""TLS before a server that has none, as the embedded ones have not: a certificate and a terminator."""

import socket
import ssl
import subprocess
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

SSL_REQUEST = bytes.fromhex("0000000804d2162f")
"""What a client of Postgres sends before TLS; the answer is one letter."""

CHUNK = 65536


@dataclass(frozen=True)
class Certificate:
    """A certificate for the name `localhost` that has signed itself, and its key."""

    file: Path
    key: Path


def certificate(folder: Path) -> Certificate:
    made = Certificate(folder / "server.crt", folder / "server.key")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", made.key, "-out", made.file),
        ],
        check=True,
        capture_output=True,
    )
    return made


@contextmanager
def terminator(shown: Certificate, server: Path, *, is_postgres: bool = False) -> Generator[int]:
    """Take connections with TLS on a port of this machine, and pass on to a server's socket what comes.

    Yields:
        The port.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(shown.file, shown.key)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        Thread(target=serve, args=(listening, context, server, is_postgres), daemon=True).start()
        yield listening.getsockname()[1]


def serve(listening: socket.socket, context: ssl.SSLContext, server: Path, is_postgres: bool) -> None:  # noqa: FBT001
    with suppress(OSError):  # it was closed
        while True:
            client, _ = listening.accept()
            Thread(target=pass_on, args=(client, context, server, is_postgres), daemon=True).start()


def pass_on(client: socket.socket, context: ssl.SSLContext, server: Path, is_postgres: bool) -> None:  # noqa: FBT001
    with suppress(OSError), client, socket.socket(socket.AF_UNIX) as behind:
        if is_postgres:
            if client.recv(len(SSL_REQUEST)) != SSL_REQUEST:
                return
            client.sendall(b"S")
        with context.wrap_socket(client, server_side=True) as safe:
            behind.connect(str(server))
            safe.settimeout(None)
            Thread(target=copy, args=(behind, safe), daemon=True).start()
            copy(safe, behind)


def copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while some := source.recv(CHUNK):
            target.sendall(some)
    with suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)
