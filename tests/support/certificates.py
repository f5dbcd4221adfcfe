"""Certificates for tests: an authority, and one certificate of it."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Certificates:
    """An authority, and a certificate of it for an address and names.

    Attributes:
        ca, cert, key: The PEM files.
    """

    def __init__(self, folder: Path, name: str, *, address: str = "127.0.0.1", hosts: Sequence[str] = ()) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        now = dt.datetime.now(dt.UTC)
        self.ca, self.cert, self.key = (folder / f"{name}{end}" for end in ("-ca.pem", ".pem", ".key"))
        authority, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())

        def made(subject: str, key: Any, *, is_ca: bool) -> x509.Certificate:
            names = [x509.IPAddress(ipaddress.ip_address(address)), *(x509.DNSName(host) for host in hosts)]
            return (
                x509.CertificateBuilder()
                .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
                .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} authority")]))
                .public_key(key.public_key())
                .serial_number(x509.random_serial_number())
                .not_valid_before(now - dt.timedelta(days=1))
                .not_valid_after(now + dt.timedelta(days=1))
                .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
                .add_extension(x509.SubjectAlternativeName(names), critical=False)
                .sign(authority, hashes.SHA256())
            )

        self.ca.write_bytes(made(f"{name} authority", authority, is_ca=True).public_bytes(serialization.Encoding.PEM))
        self.cert.write_bytes(made(name, own, is_ca=False).public_bytes(serialization.Encoding.PEM))
        pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
        self.key.write_bytes(own.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
