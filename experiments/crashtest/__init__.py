"""The crash test: programs that train are killed, at every event of a file system; nothing may be lost."""
