"""HTTP: three listeners, one thin module per dialect, and one place per dialect where an error becomes a status."""
