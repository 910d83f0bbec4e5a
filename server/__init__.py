"""The server process: HTTP, scheduling, supervision of workers. It never imports torch."""
