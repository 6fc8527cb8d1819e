"""The crash test: training programs are killed at every event of a file system; nothing may be lost."""
