"""What an operator may set, from where it is read, and how it is checked."""
