"""Checksums of the store's files, by which a reader recognises a file that was cut or in which a bit has flipped.

A file that is replaced as a whole begins with its checksum; each line that is added to a file ends with that of the
file up to there; a snapshot has it in its header. Files of earlier versions have none, and are read as they are.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

# Hexadecimal digits that are kept of a SHA-256.
DIGITS = 16
_MISMATCH = "its checksum is not that of its content"
_LINE_CHECK = b', "check": "'
_LINE_CHECKS = re.compile(_LINE_CHECK + rb'[0-9a-f]{8}"')
# Bytes after the text that a line's checksum is of: eight digits and the end of the line.
_LINE_END = len('01234567"}\n')


def _digest(*parts: bytes | memoryview) -> str:
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(part)
    return hashed.hexdigest()[:DIGITS]


@dataclass(frozen=True)
class Seal:
    """Where files of one kind have their checksum: at the beginning, between two constants.

    replaces: the beginning of the content that the sealed file does not repeat.
    """

    before: bytes
    after: bytes
    replaces: bytes = b""

    def close(self, content: bytes) -> bytes:
        """Return content with its checksum."""
        content = content.removeprefix(self.replaces)
        return b"".join((self.before, _digest(content).encode(), self.after, content))

    def open(self, content: bytes) -> bytes:
        """Return content without its checksum, as it is if it has none; raises ValueError if the checksum is wrong."""
        size = len(self.before) + DIGITS + len(self.after)
        found, rest = content[:size], content[size:]
        digest = _digest(memoryview(rest)).encode()
        if found == self.before + digest + self.after:
            return self.replaces + rest
        # A bit that has flipped in the checksum or beside it leaves one of the two as it was.
        if found.startswith(self.before) or digest in found:
            raise ValueError(_MISMATCH)
        return content


# YAML has it in a comment, JSON as the first key.
YAML = Seal(b"# sha256 ", b"\n")
JSON = Seal(b'{"sha256": "', b'",', b"{")
BINARY = Seal(b"sha256 ", b"\n")


def seal_line(line: str, running: int) -> tuple[bytes, int]:
    """Return a JSON object as a line with the CRC-32 of the file up to there, and the CRC-32 of the file after it.

    running: the CRC-32 of the file before the line.
    """
    text = line.removesuffix("}").encode() + _LINE_CHECK
    check = zlib.crc32(text, running)
    end = b'%08x"}\n' % check
    return text + end, zlib.crc32(end, check)


def open_lines(content: bytes) -> str:
    """Return the lines of a file without their checksums and without an incomplete last line, separated by newlines.

    Only the last whole line's checksum is compared, since it is that of the whole file. Raises ValueError.
    """
    whole, newline, incomplete = content.rpartition(b"\n")
    whole += newline
    # A write that was cut off ends at the latest with the brace.
    if b"}" in incomplete[:-1]:
        raise ValueError(_MISMATCH)
    if _LINE_CHECK in whole:
        end = b'%08x"}\n' % zlib.crc32(memoryview(whole)[:-_LINE_END])
        if not whole.endswith(_LINE_CHECK + end):
            raise ValueError(_MISMATCH)
        whole = _LINE_CHECKS.sub(b"", whole)
    return whole.decode().rstrip("\n")


def seal_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    """Return tensors as a safetensors file with a checksum of names, types, shapes and values in its metadata."""
    import safetensors.torch

    plain = safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    header, values = _parts_of_tensors(plain)
    metadata = {"__metadata__": {"sha256": _digest_of_tensors(header, values)}}
    text = json.dumps(metadata | header, separators=(",", ":")).encode()
    # The values begin at a multiple of eight bytes.
    text += b" " * (-len(text) % 8)
    return b"".join((len(text).to_bytes(8, "little"), text, values))


def open_tensors(content: bytes) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file; raises ValueError or SafetensorError if it is damaged."""
    import safetensors.torch

    tensors = safetensors.torch.load(content)
    header, values = _parts_of_tensors(content)
    metadata = header.pop("__metadata__", None)
    if metadata is not None and metadata.get("sha256") != _digest_of_tensors(header, values):
        raise ValueError(_MISMATCH)
    return tensors


def _parts_of_tensors(content: bytes) -> tuple[dict[str, Any], memoryview]:
    """Return the header and the values of a safetensors file, which begins with the length of the header."""
    end = 8 + int.from_bytes(content[:8], "little")
    return dict(json.loads(content[8:end])), memoryview(content)[end:]


def _digest_of_tensors(header: Mapping[str, Any], values: memoryview) -> str:
    return _digest(json.dumps(header, sort_keys=True).encode(), values)
