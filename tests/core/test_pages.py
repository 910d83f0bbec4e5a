import ctypes
import mmap
from pathlib import Path

import pytest

from jitney.core.pages import give_back

PAGE = mmap.PAGESIZE


def resident() -> int:
    """Bytes of the process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def begin(memory: bytearray) -> int:
    """Its address."""
    return ctypes.addressof((ctypes.c_char * len(memory)).from_buffer(memory))


def test_private_memory_is_given_back_and_may_be_used_on() -> None:
    memory = bytearray(b"x") * (64 << 20)
    before = resident()
    give_back(memory, len(memory), mmap.MADV_DONTNEED)
    assert resident() <= before - (60 << 20)
    assert memory[32 << 20] == 0
    memory[32 << 20] = 7
    assert memory[32 << 20] == 7


def test_only_whole_pages_among_the_first_bytes_are_given_back() -> None:
    memory = mmap.mmap(-1, 4 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[:] = b"x" * len(memory)
    give_back(memory, 2 * PAGE + 100, mmap.MADV_DONTNEED)
    assert memory[:] == bytes(2 * PAGE) + b"x" * 2 * PAGE
    give_back(memory, 100, mmap.MADV_DONTNEED)
    give_back(memory, 0, mmap.MADV_DONTNEED)
    assert memory[2 * PAGE :] == b"x" * 2 * PAGE


def test_the_page_in_which_private_memory_begins_is_kept() -> None:
    memories = [bytearray(b"x") * (2 * PAGE)]
    while begin(memories[-1]) % PAGE == 0:  # which is rare: it begins behind the head of its block
        memories.append(bytearray(b"x") * (2 * PAGE))
    memory = memories[-1]
    give_back(memory, len(memory), mmap.MADV_DONTNEED)
    assert memory[:1] == b"x" and memory[-1:] == b"x"


def test_what_the_system_refuses_is_said() -> None:
    memory = mmap.mmap(-1, PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with pytest.raises(OSError, match=f"{PAGE} bytes of memory cannot be given back: Invalid argument"):
        give_back(memory, PAGE, mmap.MADV_REMOVE)


def test_a_mapping_that_is_closed_is_refused() -> None:
    memory = mmap.mmap(-1, PAGE)
    memory.close()
    with pytest.raises(ValueError):
        give_back(memory, PAGE, mmap.MADV_REMOVE)
