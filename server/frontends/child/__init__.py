"""A front-end process: HTTP here, the scheduler in the process that started it."""
