"""Maps of files that hold no descriptor; those of Python's mmap module keep a copy of it."""

import ctypes
import mmap
import os

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.msync.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)

_MS_SYNC = 4
_FAILED = ctypes.c_void_p(-1).value


class Map:
    """A shared map of the first `size` bytes of an open file, which may be closed then."""

    def __init__(self, descriptor: int, size: int, *, writable: bool = False) -> None:
        self.size = size
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        address = _libc.mmap(None, size, protection, mmap.MAP_SHARED, descriptor, 0)
        if address == _FAILED:
            raise _error()
        self._address: int = address

    def read(self, start: int, end: int) -> bytes:
        """What is in it; reading what the file does not have any more ends the process."""
        assert 0 <= start <= end <= self.size
        return ctypes.string_at(self._address + start, end - start)

    def write(self, start: int, data: bytes) -> None:
        assert 0 <= start <= start + len(data) <= self.size
        ctypes.memmove(self._address + start, data, len(data))

    def sync(self) -> None:
        if _libc.msync(self._address, self.size, _MS_SYNC):
            raise _error()

    def close(self) -> None:
        _libc.munmap(self._address, self.size)


def _error() -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code))
