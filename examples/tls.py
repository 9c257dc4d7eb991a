"""TLS: the traffic is encrypted, the client checks the server, and the server checks the client.

You see a connection that is let in, and two that are refused, with the reason. Without certificates of
your own (--ca, --cert) it makes some for the occasion, by `pip install trustme`.
"""

import argparse
import ssl
import tempfile
from pathlib import Path

import numpy as np

import igtl


def certificates(folder: Path) -> tuple[Path, Path, Path]:
    """An authority, and certificates of it for a server and a client."""
    import trustme

    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    for name, identity in (("server", "localhost"), ("client", "console@example.org")):
        issued = authority.issue_cert(identity)
        issued.private_key_and_cert_chain_pem.write_to_path(str(folder / f"{name}.pem"))
    return folder / "ca.pem", folder / "server.pem", folder / "client.pem"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ca", type=Path, help="PEM of the authority")
    parser.add_argument("--cert", type=Path, help="PEM of the server, with its key")
    parser.add_argument("--client-cert", type=Path, help="PEM of the client, with its key")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        ca, cert, own = args.ca, args.cert, args.client_cert
        if not (ca and cert and own):
            ca, cert, own = certificates(Path(folder))
        context = igtl.tls.server(cert, client_ca=ca)  # files are read again when they are renewed
        with igtl.serve("localhost", 0, ssl=context) as server:
            server.broadcast(igtl.Transform(np.eye(4), device_name="Probe"), latch=True)
            with igtl.connect("localhost", server.port, ssl=igtl.tls.client(ca, cert=own)) as link:
                print("let in:", link.recv(timeout=5).device_name)
            for what, context in (
                ("a client without a certificate", igtl.tls.client(ca)),
                ("a client that does not know the authority", igtl.tls.client(cert=own)),
            ):
                try:
                    with igtl.connect("localhost", server.port, ssl=context) as link:
                        link.recv(timeout=5)
                except (ssl.SSLError, igtl.ConnectionClosed) as error:
                    print(f"{what}: refused, {getattr(error, 'reason', None) or error}")


if __name__ == "__main__":
    main()
