"""The bad work of `tests.support.evil_work`, and what each platform alone could be asked for, on agents of containers.

All of it is refused before its platform hears anything, and before more is fetched than is needed to judge it. Without
the rule that refuses it, the same work comes as far as the platform: the wire would show it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from tests.integration.hostile.asked_of import ASKED, Ask
from tests.integration.hostile.platforms import PLATFORMS, Platform
from tests.support.evil_work import BAD, BUNDLE, LAUNCH, Bad, asking_for, faults_of

from heliograph.engine.codes import FailureCode
from heliograph_agents.performer import spec_of
from heliograph_agents.policy import Policy

OF_PROCESSES = ("mounts", "rights")
"""Kinds of bad work that are what local agents are asked for; platforms have their own."""

COMMON = {name: bad for name, bad in BAD.items() if bad.fetched != BUNDLE and name not in OF_PROCESSES}
"""What is judged before a container starts. Bundles are judged where the code will run: in it."""


class _All(tuple[str, ...]):
    """Words that hold all words."""

    __slots__ = ()

    def __contains__(self, _: object) -> bool:
        return True


OPEN: dict[str, dict[str, Any]] = {
    "images": {"images": None}, "require_image_digest": {"require_image_digest": False}, "env": {"env": None},
    "mounts": {"mounts": None}, "privileged": {"privileged": _All()}, "identities": {"identities": None},
    "options": {"options": None}, "max_cpu": {"max_cpu_millis": 0}, "max_memory": {"max_memory_bytes": 0},
}  # fmt: skip
"""The policy without one of its rules."""


@pytest.fixture(
    scope="module", params=[pytest.param(kind, marks=pytest.mark.xdist_group(f"evil-{kind}")) for kind in PLATFORMS]
)
def platform(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with pytest.MonkeyPatch.context() as patch:
        made = PLATFORMS[request.param](tmp_path_factory.mktemp(request.param), patch)
        made.start()
        try:
            yield made
        finally:
            made.close()


def bad_of(ask: Ask) -> Bad:
    reason = FailureCode.POLICY if ask.rules else FailureCode.LAUNCH_SETTINGS
    return Bad(asking_for(**ask.asked), reason, LAUNCH)


def judge(platform: Platform, bad: Bad, words: str = "") -> list[str]:
    """Offers bad work. Returns what the agent did that it should not have done."""
    platform.said.clear()
    fetched, deeds = len(platform.bucket.asked), len(platform.deeds())
    lease = bad.make(platform)
    platform.agent._launch_failures = 0
    if bad.reason is not None:
        platform.plane.offer(lease)
        platform.plane.wait_for(lease.flow_run.name)
    else:  # nothing is told of it: it is dealt with when what comes after it is
        next_one = platform.sign(platform.lease(), platform.stranger)
        platform.plane.offer(lease, next_one)
        platform.plane.wait_for(next_one.flow_run.name)
    seen = platform.plane.seen(lease.flow_run.name)
    faults = faults_of(bad, seen, platform.bucket.asked[fetched:], platform.mark)
    if done := platform.deeds()[deeds:]:
        faults.append(f"asked of the platform: {done}")
    if words not in (said := "\n".join(platform.said)):
        faults.append(f"not said: {words!r}, but {said}")
    if not platform.alive:
        faults.append("the agent died")
    return faults


def failing(platform: Platform, kinds: dict[str, tuple[Bad, str]]) -> dict[str, list[str]]:
    """Returns the faults, by kind of bad work."""
    found = {name: judge(platform, bad, words) for name, (bad, words) in kinds.items()}
    return {name: faults for name, faults in found.items() if faults}


def deeds_of(platform: Platform, policy: Policy, ask: Ask) -> list[str]:
    """Offers work to an agent with that policy. Returns what was asked of the platform then."""
    usual, platform.gate._policy = platform.gate._policy, policy
    try:
        before = len(platform.deeds())
        judge(platform, bad_of(ask))
        return platform.deeds()[before:]
    finally:
        platform.gate._policy = usual


def refusals(platform: Platform, policy: Policy, ask: Ask) -> list[str]:
    """Returns what a policy says to work."""
    settings = platform.settings(**ask.asked)
    return policy.refuse_plan(platform.agent._launcher.plan(spec_of(platform.lease()), settings).facts)


def without(policy: Policy, rules: tuple[str, ...]) -> Policy:
    return replace(policy, **{key: value for rule in rules for key, value in OPEN[rule].items()})


def test_bad_work_is_refused_before_the_platform_hears_of_it(platform: Platform, figure: Callable[[str], None]) -> None:
    asked = ASKED[platform.kind]
    assert failing(platform, {name: (bad, "") for name, bad in COMMON.items()}) == {}
    assert failing(platform, {name: (bad_of(ask), ask.words) for name, ask in asked.items()}) == {}
    assert deeds_of(platform, platform.policy, Ask({}, (), "")), "good work comes as far as the platform"
    figure(f"{platform.kind}: {len(COMMON)} kinds of bad work, {len(asked)} of its own: refused, nothing asked of it")


def test_each_is_refused_by_the_rule_that_is_for_it(platform: Platform) -> None:
    seen: set[tuple[str, ...]] = set()
    for name, ask in ASKED[platform.kind].items():
        if not ask.rules:
            continue
        open_to_it = without(platform.policy, ask.rules)
        assert refusals(platform, open_to_it, ask) == [], f"{name}: another rule refuses it too"
        for rule in ask.rules:
            others = tuple(one for one in ask.rules if one != rule)
            assert refusals(platform, without(platform.policy, others), ask), f"{name}: {rule} lets it pass"
        if ask.rules not in seen:
            assert deeds_of(platform, open_to_it, ask), f"{name}: it comes as far as the platform"
            seen.add(ask.rules)


def test_an_agent_that_asks_its_gate_nothing_is_found(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    async def admit(spec: Any) -> Any:
        return platform.settings()

    monkeypatch.setattr(platform.gate, "admit", admit)
    kinds = ("no signature", "another bucket", "a project that is not allowed", "other launch settings", "a pickle")
    found = failing(platform, {name: (BAD[name], "") for name in kinds})
    assert set(found) == set(kinds)
    assert all("asked of the platform" in faults[-1] for faults in found.values())


def test_an_agent_that_asks_its_gate_too_late_is_found(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    late: list[Any] = []
    judged, launch = platform.gate.judge, platform.agent._launcher.launch

    async def launched(plan: Any, credentials: Any) -> Any:
        try:
            return await launch(plan, credentials)
        finally:
            judged(late.pop())

    monkeypatch.setattr(platform.gate, "judge", late.append)
    monkeypatch.setattr(platform.agent._launcher, "launch", launched)
    ask = ASKED[platform.kind]["a variable"]
    [fault] = judge(platform, bad_of(ask), ask.words)
    assert fault.startswith("asked of the platform")
