"""The worker process: its main loop, what it reads, and the batch that it runs."""
