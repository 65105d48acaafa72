"""The site's keys: for encryption at rest, for images, for metadata; and fresh tokens and secrets."""

from __future__ import annotations

import secrets
import string
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from provisioner.errors import TrustError
from provisioner.system.files import create_file

ENCRYPTION_KEY = "encryption.key"
SIGNING_KEY = "signing.key"
METADATA_KEY = "metadata.key"


class PublicKey:
    """Another site's half of a signing key."""

    def __init__(self, key: Ed25519PublicKey) -> None:
        self._key = key

    @classmethod
    def read(cls, pem: bytes) -> PublicKey:
        """:raises TrustError: it is not an Ed25519 key."""
        try:
            key = serialization.load_pem_public_key(pem)
        except ValueError as error:
            raise TrustError("this is no public key", cause=str(error)) from error
        if not isinstance(key, Ed25519PublicKey):
            raise TrustError("this is no Ed25519 key")
        return cls(key)

    def verify(self, data: bytes, signature: bytes) -> None:
        """:raises TrustError: the signature is not of this key, or the data changed since."""
        try:
            self._key.verify(signature, data)
        except InvalidSignature as error:
            raise TrustError("the signature does not hold") from error

    @property
    def public_key_pem(self) -> bytes:
        return self._key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


class SiteKeys:
    """The keys of one site, kept in a folder that only its owner can read.

    Encryption is Fernet (AES-128-CBC with HMAC-SHA256); signatures are Ed25519 (RFC 8032).
    """

    def __init__(self, encryption: bytes, signing: bytes) -> None:
        self._fernet = Fernet(encryption)
        key = serialization.load_pem_private_key(signing, password=None)
        if not isinstance(key, Ed25519PrivateKey):
            raise TrustError("the signing key is not an Ed25519 key", where=SIGNING_KEY)
        self._signing = key

    @classmethod
    def ensure(cls, folder: Path) -> SiteKeys:
        """Read the keys of ``folder``; make them first where they are missing.

        :raises TrustError: others may read a key, or it is not one.
        """
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        encryption = _ensure_key(folder / ENCRYPTION_KEY, Fernet.generate_key())
        signing = _ensure_key(
            folder / SIGNING_KEY,
            Ed25519PrivateKey.generate().private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )
        try:
            return cls(encryption, signing)
        except ValueError as error:
            raise TrustError(
                "a key of the site cannot be read", where=str(folder), cause=str(error), hint="restore it from a backup"
            ) from error

    def encrypt(self, text: str) -> str:
        return self._fernet.encrypt(text.encode()).decode()

    def decrypt(self, token: str) -> str:
        """The inverse of :meth:`encrypt`.

        :raises TrustError: it was encrypted with another key, or changed since.
        """
        try:
            return self._fernet.decrypt(token.encode()).decode()
        except InvalidToken as error:
            raise TrustError(
                "a secret on record cannot be decrypted", hint="restore the keys that belong to these records"
            ) from error

    def sign(self, data: bytes) -> bytes:
        return self._signing.sign(data)

    def verify(self, data: bytes, signature: bytes) -> None:
        """:raises TrustError: the signature is not this site's, or the data changed since."""
        self.public_key.verify(data, signature)

    @property
    def public_key(self) -> PublicKey:
        """What other sites check this one's signatures with."""
        return PublicKey(self._signing.public_key())

    @property
    def public_key_pem(self) -> bytes:
        return self.public_key.public_key_pem


class MetadataKey:
    """Signs what instances configure themselves from: ECDSA over P-256 with SHA-256 (FIPS 186-5), since the program
    ``openssl`` of every distribution checks that."""

    def __init__(self, pem: bytes) -> None:
        key = serialization.load_pem_private_key(pem, password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TrustError("the key of metadata is not an elliptic curve's", where=METADATA_KEY)
        self._key = key

    @classmethod
    def ensure(cls, folder: Path) -> MetadataKey:
        """Read the key of ``folder``, or make it. :raises TrustError: others may read it, or it is not one."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        try:
            return cls(_ensure_key(folder / METADATA_KEY, fresh))
        except ValueError as error:
            raise TrustError(
                "the key of metadata cannot be read", where=str(folder), cause=str(error), hint="restore a backup"
            ) from error

    def sign(self, data: bytes) -> bytes:
        """The signature, as DER (SEC 1, C.8)."""
        return self._key.sign(data, ec.ECDSA(hashes.SHA256()))

    @property
    def public_key_pem(self) -> str:
        """What instances check it with."""
        return (
            self._key.public_key()
            .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
            .decode()
        )


def _ensure_key(path: Path, fresh: bytes) -> bytes:
    """Read a key file, or make it; the same for all who start at once."""
    key = create_file(path, fresh, mode=0o600)
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise TrustError(f"others may read this key (mode {mode:04o})", where=str(path), hint=f"chmod 0600 {path}")
    return key


def new_token() -> str:
    """``ID.SECRET``: 16 hex digits that may be seen, 43 characters (256 bits) that may not."""
    return f"{secrets.token_hex(8)}.{secrets.token_urlsafe(32)}"


def new_secret() -> str:
    """A password of 32 letters and digits (190 bits): safe in any configuration file."""
    alphabet = string.ascii_letters + string.digits
    return "".join(secrets.choice(alphabet) for _ in range(32))
