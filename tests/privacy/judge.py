"""Compares what was found with what the table says, sink by sink and for equality."""

from __future__ import annotations

from collections.abc import Iterator

from tests.privacy.session import Session
from tests.privacy.slots import WHOLE_ON_DISK, Slot

Findings = dict[str, set[str]]
"""Sink to what is wrong there: `slot leaks into place`, `slot is missing in place`."""


def judge(session: Session) -> Findings:
    """Returns all that differs from the table; nothing where the promise is kept and the scan sees.

    Messages, the bytes of the connections and the rows of the database are compared for equality, each by field or
    column. The files of the database may lack what it compresses or has thrown away, the memory what was overwritten:
    nothing may be there that did not cross, and what is certain to be there must be found.
    """
    found: Findings = {}

    def note(sink: str, slot: str, here: set[str], must: set[str], may: set[str]) -> None:
        wrong = {f"{slot} leaks into {place}" for place in here - may}
        wrong |= {f"{slot} is missing in {place}" for place in must - here}
        if wrong:
            found.setdefault(sink, set()).update(wrong)

    for slot, name, ending in _slots(session):
        here = {sink: hits.get(name, set()) for sink, hits in session.found.items()}
        must = slot.must_cross(session.mode, ending)
        crosses = bool(must)
        stored = slot.stored_in(session.mode, ending)
        note("messages", name, here["messages"], must, slot.may_cross(session.mode, ending))
        note("wire", name, here["wire"], _if(crosses, "wire"), _if(crosses, "wire"))
        note("dump", name, here["dump"], stored, stored)
        # What was overwritten may still be in a journal, so all may be there that crossed to be stored.
        place = "database files"
        note(place, name, here[place], _if(bool(stored & WHOLE_ON_DISK), place), _if(crosses and _kept(slot), place))
        note("memory", name, here["memory"], _if(slot.name in _IN_MEMORY, "memory"), _if(crosses, "memory"))
        note("output", name, here["output"], set(), set())
        note("other files", name, here["other files"], set(), set())
    return found


_IN_MEMORY = {"agent_name", "agent_label"}
"""What a control plane that serves an agent has in its memory at any moment."""

NOT_STORED = {"refused_value", "asked_name"}
"""Slots that cross and that nothing keeps."""


def _kept(slot: Slot) -> bool:
    return slot.name not in NOT_STORED


def _if(condition: bool, place: str) -> set[str]:
    return {place} if condition else set()


def _slots(session: Session) -> Iterator[tuple[Slot, str, str]]:
    """Yields every slot with the name of its canary and the ending that it belongs to; none for shared ones."""
    for slot in session.slots:
        if slot.shared:
            yield slot, slot.name, ""
        else:
            yield from ((slot, f"{ending}.{slot.name}", ending) for ending in session.runs)
