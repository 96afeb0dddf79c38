"""What an operator lives with: serving, logs, numbers, backups, checks, certificates."""
