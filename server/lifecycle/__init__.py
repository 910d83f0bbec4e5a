"""Models come and go: loading, unloading, registering, scaling, snapshots, polling."""
