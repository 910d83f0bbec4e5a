from __future__ import annotations

import os
import threading

from jitney.server.ipc.board import PLACES, Board


def test_what_one_side_notes_the_other_reads() -> None:
    board = Board.create()
    other = Board.of(os.dup(board.region.fd))
    other.note(3, works=True)
    other.note(5, works=False)
    other.note(PLACES - 1, works=True)
    assert board.working(range(PLACES)) == {3, PLACES - 1}
    assert board.working([5, 6]) == set()
    assert board.of_thread(threading.get_ident(), range(PLACES)) == {3, 5, PLACES - 1}
    assert board.of_thread(threading.get_ident(), [4, 5]) == {5}
    board.clear(3)
    other.note(PLACES - 1, works=False)
    assert board.working(range(PLACES)) == set() and board.of_thread(threading.get_ident(), [3]) == set()
    board.close()
    other.close()
