"""The face of lpc.store."""

from lpc.store.run_store import RunStore as RunStore
