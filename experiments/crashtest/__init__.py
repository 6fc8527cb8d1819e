"""The crash test: kills training programs at every kind of file-system event; nothing may be lost."""
