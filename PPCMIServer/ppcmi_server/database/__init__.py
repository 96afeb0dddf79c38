"""The server's data model, engine and migrations."""
