"""Worker processes: bytes (`frame`), shared memory (`arena`), the child (`process`), the supervisor (`pool`)."""
