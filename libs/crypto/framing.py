"""How sealed bytes are laid out, read without trust, and what is bound to them."""

from libs.crypto.errors import MalformedSealedValueError

ALGORITHM_AES_256_GCM = 1
KEY_BYTES = 32
# AES-GCM takes other lengths too, by hashing them down, which loses the bound on collisions
# (NIST SP 800-38D, section 8.2). Only this one is ever written or read.
NONCE_BYTES = 12
TAG_BYTES = 16


def canonical(*parts: bytes) -> bytes:
    """The parts, each led by its length: no two different lists give the same bytes."""
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def short_text(text: str) -> bytes:
    """ASCII text led by its length in one byte."""
    encoded = text.encode("ascii")
    assert 0 < len(encoded) < 256
    return bytes([len(encoded)]) + encoded


class Reader:
    """Takes bytes from the front and refuses to run past the end.

    Every method raises MalformedSealedValueError where the bytes do not suffice.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        end = self._at + count
        if end > len(self._data):
            raise MalformedSealedValueError("cut short")
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def byte(self) -> int:
        """The next byte."""
        return self.take(1)[0]

    def short_text(self) -> str:
        """Text as `short_text` writes it."""
        try:
            return self.take(self.byte()).decode("ascii")
        except UnicodeDecodeError:
            raise MalformedSealedValueError("an id is not ASCII") from None

    def ciphertext(self) -> bytes:
        """The rest: ciphertext and tag."""
        rest = self._data[self._at :]
        if len(rest) < TAG_BYTES:
            raise MalformedSealedValueError("cut short")
        return rest
