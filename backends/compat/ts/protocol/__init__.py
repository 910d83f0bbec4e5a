"""The old home of the streaming helper."""
