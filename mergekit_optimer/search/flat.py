"""When a study may end early: the best has not risen for a while. Decided from the trials alone, so again the same."""

from __future__ import annotations

from mergekit_optimer.search.ledger import Ledger, best_at

# Trials without a rise, per vector.
WINDOW = 3


def is_flat(ledger: Ledger, n_vectors: int) -> bool:
    """Say whether none of the last 3 K trials raised the best by more than a standard error.

    A rise is measured sample by sample against the best before those trials. Never before the warm starts and 3 K
    trials more are through.
    """
    window = WINDOW * n_vectors
    records = ledger.records()
    if sum(not record.is_warm_start and record.origin is None for record in records) < window:
        return False
    before, last = records[:-window], records[-window:]
    best = best_at(ledger.first_rung, before)
    if best is None:
        return False
    for record in last:
        if record.stopped is None and record.kept[ledger.first_rung]:
            rise = ledger.difference(record.scores, best)
            if rise.value > rise.stderr:
                return False
    return True
