"""Cross-validation folds of one list: grouped, stratified, and a function of the list alone.

Whether a file is there does not enter: a video is in the same fold on every machine.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace

from vidgn.data.datasets.listing import Listing, Split


def assign_folds(rows: Iterable[tuple[str, str, str]], *, folds: int, seed: int) -> dict[str, int]:
    """The fold of each id, 0 to `folds` - 1.

    Groups are taken in an order drawn from `seed` and their names, the largest first; each goes where its classes are
    fewest so far, then where fewest videos are.

    Args:
        rows: (id, label, group) of every row; videos of one group are in one fold.
    """
    members: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for id, label, group in rows:
        members[group].append((id, label))

    def order(group: str) -> tuple[int, bytes]:
        name = f"{seed}\0{group}".encode("utf-8", "surrogateescape")
        return -len(members[group]), hashlib.blake2b(name, digest_size=16).digest()

    of_class = [Counter[str]() for _ in range(folds)]
    found: dict[str, int] = {}
    for group in sorted(members, key=order):
        labels = Counter(label for _, label in members[group])

        def load(fold: int, labels: Counter[str] = labels) -> tuple[int, int, int]:
            return sum(of_class[fold][label] * n for label, n in labels.items()), of_class[fold].total(), fold

        fold = min(range(folds), key=load)
        of_class[fold].update(labels)
        found.update((id, fold) for id, _ in members[group])
    return found


def part_of(listing: Listing, fold_of: dict[str, int], split: Split, fold: int) -> Listing:
    """The rows of one fold (val), or of all others (train)."""

    def is_in(id: str) -> bool:
        return (fold_of[id] == fold) == (split == "val")

    return replace(
        listing.kept([index for index, id in enumerate(listing.ids) if is_in(id)]),
        missing=[id for id in listing.missing if is_in(id)],
        unreadable=[id for id in listing.unreadable if is_in(id)],
    )
