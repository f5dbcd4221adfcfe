"""What storages do that keep bundles' bytes: writers at the same time, writers that are killed, and repairs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.contract.storages.ground import HoldingGround
from tests.contract.storages.killed import author
from tests.support.forms import forms

from heliograph.client.diagnosis import storage_finding
from heliograph.core.flow import Flow
from heliograph.exceptions import BundleChangedError, HeliographError, StorageError
from heliograph.storage import BundleRef, LaunchSettings

FILES = {"data.bin": "x" * 200_000}


def test_writers_at_the_same_time_agree(holding: HoldingGround) -> None:
    flow = holding.flow(files=FILES)
    bundle = holding.storage().make_bundle(flow)
    gate = threading.Barrier(4)

    def write(number: int) -> BundleRef:
        storage = holding.storage()
        gate.wait(60)
        return storage.put_bundle(bundle, LaunchSettings(env={"A": "1"}, cpu_millis=number % 2))

    with ThreadPoolExecutor(4) as pool:
        refs = list(pool.map(write, range(4)))
        if not holding.one_maker:
            # The first ones may each have a salt; every one of them is sound, and those who come then agree.
            for number, ref in enumerate(refs):
                holding.check(ref, cache=f"first-{number}")
                assert holding.reader(ref).fetch_launch(ref).env == {"A": "1"}
            refs = list(pool.map(write, range(4)))
    assert refs[0] == refs[2]
    assert refs[1] == refs[3]
    assert {ref.digest for ref in refs} == {bundle.manifest.digest}
    for number, ref in enumerate(refs[:2]):
        holding.check(ref, cache=f"cache-{number}")
        settings = holding.reader(ref).fetch_launch(ref)
        assert (settings.env, settings.salt) == ({"A": "1"}, holding.salt())
    if holding.one_maker:
        assert len(holding.objects()) == 5, "archive, manifest, two launch settings, one salt"


@forms("stride", quick=3, full=1)
def test_an_author_who_is_killed_leaves_nothing_or_all_of_it(
    holding: HoldingGround, stride: int, figure: Callable[[str], None]
) -> None:
    storage = holding.storage()
    bundle = storage.make_bundle(holding.flow(files=FILES))
    settings = LaunchSettings(env={"A": "1"})
    steps, kills, whole = 1 - stride, 0, 0
    with author() as writer:
        while True:
            steps += stride
            assert steps < 200, "it does not end"
            done = writer.put(storage, bundle, settings, steps)
            complete = _is_complete(holding, bundle.manifest.digest)
            whole += complete
            assert complete or not done
            # Whatever is left: the next registration is a sound one.
            ref = storage.put_bundle(bundle, settings)
            holding.check(ref, cache=f"after-{steps}")
            if done:
                break
            kills += 1
            holding.vanish()
    assert whole >= 1, "nothing was ever stored before the end"
    assert steps > 4
    figure(f"{holding.kind}: killed {kills} times between {steps} steps: {whole - 1} whole, the others unreachable")


def _is_complete(holding: HoldingGround, digest: str) -> bool:
    """True when an agent that knew the reference would find all of it; nothing half is ever found."""
    ref = holding.stored(digest)
    reader = holding.reader(ref)
    try:
        manifest = reader.fetch_manifest(ref)
    except BundleChangedError as error:
        pytest.fail(f"half a manifest can be reached: {error}")
    except StorageError:
        return False
    try:
        folder = reader.fetch(ref, holding.folder / f"complete-{len(list(holding.folder.iterdir()))}")
    except StorageError as error:
        pytest.fail(f"a manifest without its archive can be reached: {error}")
    assert len([path for path in folder.rglob("*") if path.is_file()]) == len(manifest.files)
    return True


def test_registering_again_repairs_what_was_damaged(holding: HoldingGround) -> None:
    flow = holding.flow()
    ref = holding.register(flow)
    if not holding.repairs:
        _is_said_or_made_anew(holding, flow, ref)
        return
    for number, damage in enumerate(list(holding.damages(ref))[::4]):
        damage.do()
        assert holding.register(flow) == ref, damage.name
        folder = holding.check(ref, cache=f"repaired-{number}")
        assert any(path.name.startswith("flow_") for path in folder.iterdir()), damage.name
        damage.undo()


def _is_said_or_made_anew(holding: HoldingGround, flow: Flow, ref: BundleRef) -> None:
    """Where damaged bytes stay, no registration gives a reference to them."""
    said = []
    for number, damage in enumerate(holding.damages(ref)):
        damage.do()
        anew, refused = _registered(holding, flow)
        if refused is not None:
            assert "damaged copy" in str(refused), damage.name
            assert "delete" in refused.hint, damage.name
            said.append(damage.name)
        if anew is not None:
            holding.check(anew, cache=f"anew-{number}")
            assert holding.reader(anew).fetch_launch(anew).salt == holding.salt()
        damage.undo()
        holding.check(ref, cache=f"undone-{number}")
    assert said, "the place repairs after all"


def _registered(holding: HoldingGround, flow: Flow) -> tuple[BundleRef | None, StorageError | None]:
    try:
        return holding.register(flow), None
    except StorageError as error:
        return None, error


def test_a_salt_that_is_there_stays(holding: HoldingGround) -> None:
    flow = holding.flow()
    refs = {holding.register(flow, env={"A": "1"}).launch_digest for _ in range(2)}
    assert len(refs) == 1
    salt = holding.salt()
    if isinstance(holding, HoldingGround):
        assert holding.make_salt("another") is False
    assert holding.register(flow, env={"A": "1"}).launch_digest in refs
    assert holding.salt() == salt


def test_one_of_many_makes_the_salt(holding: HoldingGround) -> None:
    gate = threading.Barrier(4)

    def make(number: int) -> bool:
        gate.wait(60)
        return holding.make_salt(f"salt {number}")

    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(make, range(4)))
    stands = holding.salt()
    assert stands in {f"salt {number}" for number in range(4) if made[number]}, made
    if holding.one_maker:
        assert made.count(True) == 1, made
    # Whoever had it first: everybody who comes then has the one that stands.
    flow = holding.flow()
    refs = {holding.register(flow, env={"A": "1"}) for _ in range(2)}
    assert {holding.reader(ref).fetch_launch(ref).salt for ref in refs} == {stands}


def test_a_pickle_is_kept_like_source(holding: HoldingGround) -> None:
    storage = holding.storage()
    storage.pickle = True
    flow = holding.flow()
    source, ref = holding.register(flow), holding.register(flow, storage)
    assert source.digest != ref.digest
    assert holding.run(ref) == "one"


def test_a_reference_to_an_empty_place_is_no_damage(holding: HoldingGround) -> None:
    ref = holding.register(holding.flow())
    holding.vanish()
    with pytest.raises(HeliographError) as caught:
        holding.check(ref)
    assert "is not there" in str(caught.value)
    assert not isinstance(caught.value, BundleChangedError)


def test_the_doctor_reads_it_and_says_what_is_wrong(holding: HoldingGround) -> None:
    location = holding.register(holding.flow()).location
    named = location if holding.kind in location or location.startswith(("/", "gs:")) else f"{holding.kind}:{location}"
    assert storage_finding(named).good, storage_finding(named)
    for refusal in holding.refusals():
        if refusal.fetches and refusal.reference is None and holding.kind != "local":
            with refusal.there():
                found = storage_finding(named)
            assert not found.good, refusal.name
            assert found.advice, refusal.name
            for secret in holding.secrets:
                assert secret not in f"{found}"
