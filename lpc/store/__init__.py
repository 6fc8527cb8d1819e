"""The store of runs: results on disk by run key, shared by many programs on one machine or on many.

``RunStore`` reads and writes it. A program that trains has a ``Lease`` of its runs; ``Held`` is raised if
another program has them, ``LostLease`` if another one has taken over.
"""

from typing import TYPE_CHECKING

from lpc._front.faces import face

if TYPE_CHECKING:
    from lpc.store.holders import Attempt as Attempt
    from lpc.store.holders import Holder as Holder
    from lpc.store.ownership import Held as Held
    from lpc.store.ownership import Lease as Lease
    from lpc.store.ownership import LostLease as LostLease
    from lpc.store.probes import Probe as Probe
    from lpc.store.run_store import RunStore as RunStore
else:
    __getattr__, __dir__ = face(__name__)
