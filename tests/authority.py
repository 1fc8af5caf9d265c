"""A local certificate authority, for servers of 127.0.0.1."""

import datetime as dt
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


def certificates(directory: Path) -> tuple[Path, Path]:
    """Make an authority and a certificate of it for 127.0.0.1; return the authority's file and the server's."""
    now = dt.datetime.now(dt.UTC)

    def issue(
        name: str, key: ec.EllipticCurvePrivateKey, issuer: str, by: ec.EllipticCurvePrivateKey, *, ca: bool
    ) -> x509.Certificate:
        builder = x509.CertificateBuilder(
            issuer_name=x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)]),
            subject_name=x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]),
            public_key=key.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=now - dt.timedelta(hours=1),
            not_valid_after=now + dt.timedelta(days=1),
        )
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key())
        builder = builder.add_extension(authority, critical=False)
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        return builder.add_extension(x509.SubjectAlternativeName([address]), critical=False).sign(by, hashes.SHA256())

    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = issue("local authority", root_key, "local authority", root_key, ca=True)
    mine = issue("rayhaul", key, "local authority", root_key, ca=False)
    pem = serialization.Encoding.PEM
    authority_path, server_path = directory / "authority.pem", directory / "tls.pem"
    authority_path.write_bytes(root.public_bytes(pem))
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    server_path.write_bytes(mine.public_bytes(pem) + private)
    return authority_path, server_path
