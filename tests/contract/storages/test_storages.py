"""What every kind of storage does: one suite, on a real place of each kind."""

from __future__ import annotations

import contextlib
import pickle
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.contract.storages.ground import Ground, moved

from heliograph.config import set_temporary_config
from heliograph.exceptions import BundleChangedError, HeliographError, StorageError
from heliograph.storage import BundleRef, LaunchSettings

FILES = {
    "data/empty.txt": "",
    "data/Grüße an alle.txt": "heliographs — 日光\r\nno newline at the end",
    "data/big.bin": "".join(f"{number:07d}\n" for number in range(40_000)),
}


def told(error: BaseException) -> str:
    """Returns everything that a person or a log could be shown of an error."""
    hint = getattr(error, "hint", "")
    return f"{error}\n{hint}\n{''.join(traceback.format_exception(error, chain=False))}\n{error!r}"


def silent(ground: Ground, *texts: object) -> None:
    """Looks that no text has a credential in it."""
    for text in texts:
        for secret in ground.secrets:
            assert secret not in str(text), f"a credential is told: {text}"


def test_what_is_registered_passes_an_agents_checks_and_runs(ground: Ground) -> None:
    flow = ground.flow("zwölf", files=FILES)
    ref = ground.register(flow)
    assert ref.storage == ground.kind
    folder = ground.check(ref)
    for name, text in FILES.items():
        assert (folder / name).read_bytes() == text.encode(), name
    assert ground.run(ref) == "zwölf"
    silent(ground, ref)


def test_the_same_content_again_stores_nothing(ground: Ground) -> None:
    flow = ground.flow(files=FILES)
    ref = ground.register(flow)
    before = ground.snapshot()
    assert ground.register(flow) == ref
    assert ground.snapshot() == before
    other = ground.register(ground.flow("two"))
    assert other.digest != ref.digest
    assert ground.run(other) == "two"
    assert ground.run(ref) == "one", "an earlier version stays what it was"


def test_a_fetched_folder_is_shared_and_written_by_nobody(ground: Ground) -> None:
    folder = ground.check(ground.register(ground.flow()))
    for path in [folder, *folder.rglob("*")]:
        assert path.stat().st_mode & 0o222 == 0, path


def test_the_cache_needs_no_storage(ground: Ground) -> None:
    ref = ground.register(ground.flow())
    assert ground.run(ref) == "one"
    ground.vanish()
    assert ground.run(ref) == "one"
    error = ground.refused(ref, cache="another")
    assert not isinstance(error, BundleChangedError)
    assert error.hint, told(error)


def test_fetches_at_the_same_time_share_one_copy(ground: Ground) -> None:
    ref = ground.register(ground.flow(files=FILES))
    gate = threading.Barrier(4)

    def fetch(_: int) -> tuple[Path, int]:
        gate.wait(60)
        folder = ground.reader(ref).fetch(ref, ground.folder / "shared")
        return folder, folder.stat().st_ino

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(fetch, range(4)))) == 1
    folder = ground.reader(ref).fetch(ref, ground.folder / "shared")
    assert (folder / "data/big.bin").read_text() == FILES["data/big.bin"]


def test_what_is_not_as_registered_is_refused(ground: Ground, figure: Callable[[str], None]) -> None:
    ref = ground.register(ground.flow())
    count = 0
    for number, damage in enumerate(ground.damages(ref)):
        damage.do()
        error = ground.refused(ref, cache=f"damaged-{number}")
        assert isinstance(error, damage.error), f"{damage.name}: {told(error)}"
        assert error.hint, f"{damage.name}: no hint: {error}"
        silent(ground, told(error))
        damage.undo()
        count += 1
    assert count >= 3
    assert ground.run(ref) == "one"
    figure(f"{ground.kind}: {count} damages, each refused")


def test_another_digest_is_refused(ground: Ground) -> None:
    """What an evil control plane could do: ask for a bundle that is there, under a digest that is another one's."""
    one, two = ground.register(ground.flow("one")), ground.register(ground.flow("two"))
    crossed = BundleRef(
        **{**{name: getattr(one, name) for name in one.__slots__}, "launch_digest": f"sha256:{'0' * 64}"}
    )
    assert ground.refused(crossed, cache="a")
    if one.location != two.location:  # else it is the digest that says what is meant
        assert ground.refused(moved(one, two.location), cache="b")
    assert ground.run(one) == "one"


def test_launch_settings_come_back_and_their_digest_tells_nothing(ground: Ground) -> None:
    flow = ground.flow()
    if not ground.has_values:
        settings = LaunchSettings(labels=("gpu",), cpu_millis=500)
        storage = ground.storage()
        ref = storage.put_bundle(storage.make_bundle(flow), settings)
        found = ground.reader(ref).fetch_launch(ref)
        assert (found.labels, found.cpu_millis) == (("gpu",), 500)
        with pytest.raises(StorageError) as refused:
            ground.register(flow, env={"PASSWORD": "guess-me"})
        assert "guess-me" not in f"{refused.value} {refused.value.hint}"
        return
    ref = ground.register(flow, env={"PASSWORD": "guess-me"})
    found = ground.reader(ref).fetch_launch(ref)
    assert dict(found.env) == {"PASSWORD": "guess-me"}
    assert "guess-me" not in str(ref)
    assert ground.register(flow, env={"PASSWORD": "guess-me"}).launch_digest == ref.launch_digest
    unsalted = found.with_salt("").digest
    assert ref.launch_digest != unsalted, "whoever guesses the value could prove it"
    assert len(found.salt) >= 32


def test_what_is_too_large_is_not_fetched(ground: Ground) -> None:
    ref = ground.register(ground.flow(files=FILES))
    with set_temporary_config({"storage.hard_limit_bytes": 1000}):
        error = ground.refused(ref, cache="small")
    assert "1,000" in str(error) or "1000" in str(error), told(error)
    assert "storage.hard_limit_bytes" in error.hint
    assert ground.run(ref) == "one"


def test_what_cannot_be_used_says_what_to_do_and_no_secret(
    ground: Ground, caplog: pytest.LogCaptureFixture, figure: Callable[[str], None]
) -> None:
    import re

    caplog.set_level("INFO")
    flow = ground.flow()
    sound = ground.register(flow)
    names = []
    for refusal in ground.refusals():
        errors: list[HeliographError] = []
        with refusal.there():
            if refusal.registers:
                with pytest.raises(HeliographError) as caught:
                    ground.register(
                        ground.flow() if ground.holds else flow, refusal.storage() if refusal.storage else None
                    )
                errors.append(caught.value)
            if refusal.fetches:
                ref = refusal.reference(sound) if refusal.reference else sound
                errors.append(ground.refused(ref, cache=f"cache of {refusal.name}"))
        assert errors
        for error in errors:
            assert re.search(refusal.says, str(error)), f"{refusal.name}: {told(error)}"
            assert error.hint, f"{refusal.name}: no hint: {error}"
            assert re.search(refusal.hints, error.hint), f"{refusal.name}: {told(error)}"
            silent(ground, told(error))
        names.append(refusal.name)
    silent(ground, caplog.text)
    assert names
    assert ground.run(sound) == "one"
    figure(f"{ground.kind}: refused with what to do: {', '.join(names)}")


def test_a_location_has_one_spelling(ground: Ground) -> None:
    ref = ground.register(ground.flow())
    reader = ground.reader(ref)
    assert ground.named(reader.location) == ground.named(ref.location)
    assert (reader.kind, reader.host) == (ref.storage, ref.host)
    for location in ground.outside(ground.named(ref.location)):
        rest = ref.location.removeprefix(ground.named(ref.location))
        evil = moved(ref, location + rest)
        with contextlib.suppress(HeliographError):
            assert ground.reader(evil).location == evil.location, f"taken for something else: {location!r}"


def test_a_policy_lets_through_what_is_below_and_nothing_else(ground: Ground) -> None:
    ref = ground.register(ground.flow())
    place = ground.named(ref.location)
    above = place.rpartition("/")[0]
    assert ground.admits(ref, (place,))
    assert ground.admits(ref, (f"{place}/",))
    assert ground.admits(ref, (above,))
    assert ground.admits(ref, (ground.kind,))
    assert ground.admits(ref, (f"{ground.kind}:{place}",)) or "://" in place
    assert not ground.admits(ref, ())
    assert not ground.admits(ref, (f"{place}-other", f"{place}/below", place[:-1], f"{above}-"))
    for kind in {"local", "s3", "git"} - {ground.kind}:
        assert not ground.admits(ref, (kind,))
    rest = ref.location.removeprefix(place)
    for location in ground.outside(place):
        evil = moved(ref, location + rest)
        assert not ground.admits(evil, (place, f"{place}/")) or not _is_opened(ground, evil), repr(location)


def _is_opened(ground: Ground, ref: BundleRef) -> bool:
    try:
        ground.reader(ref)
    except HeliographError:
        return False
    return True


def test_a_storage_travels_with_its_flow(ground: Ground) -> None:
    storage = ground.storage()
    ref = ground.register(ground.flow(), storage)
    carried = pickle.dumps(storage)
    for secret in ground.secrets:
        assert secret.encode() not in carried
    again = pickle.loads(carried)
    assert again == storage
    assert again.location == storage.location
    silent(ground, repr(storage))
    assert ground.run(ref) == "one"
