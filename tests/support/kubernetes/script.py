"""One script of requests for two API servers: whoever answers otherwise than the real one is wrong.

It has every kind of call that the launcher makes, and every refusal that it must understand. What is kept of an answer
is what a client could tell apart: the status, the words of a refusal, and the shape of objects: which fields are there
and what type each has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from tests.support.kubernetes.api import Api, Json, Refused

IMAGE = "nothing.invalid/none:1"
"""No node has it, so that pods of the script wait and do not end."""


@dataclass(slots=True)
class Answers:
    """What a server answered.

    Attributes:
        facts: What must be the same, by the step's name.
        shapes: Types of the fields of each answer, by the step's name and the field's path.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    shapes: dict[str, dict[str, str]] = field(default_factory=dict)


def job(name: str, **changes: Any) -> Json:
    """Returns a Job as the launcher sends one."""
    labels = {"heliograph.io/agent": "script", "heliograph.io/run-id": name}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": labels, "annotations": {"heliograph.io/epoch": "1"}},
        "spec": {
            "parallelism": 1,
            "completions": 1,
            "backoffLimit": 0,
            "ttlSecondsAfterFinished": 600,
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "restartPolicy": "Never",
                    "terminationGracePeriodSeconds": 5,
                    "automountServiceAccountToken": False,
                    "containers": [{"name": "flow", "image": IMAGE, "command": ["true"]}],
                    **changes,
                },
            },
        },
    }


def secret(name: str, owner: Json) -> Json:
    """Returns a Secret that belongs to a Job."""
    reference = {"apiVersion": "batch/v1", "kind": "Job", "name": owner["metadata"]["name"],
                 "uid": owner["metadata"]["uid"]}  # fmt: skip
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "ownerReferences": [reference]},
        "type": "Opaque",
        "data": {"token": "bm90aGluZw=="},
    }


def play(api: Api, nobody: Api, stranger: Api, namespace: str, forget: Callable[[], object] = lambda: None) -> Answers:
    """Sends the script.

    Args:
        api: The API as a user who may do everything.
        nobody: As somebody whom the server does not know.
        stranger: As a user without any right.
        namespace: An empty namespace.
        forget: Has the server forget its first changes, where it does not by itself.
    """
    answers = Answers()
    jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"
    core = f"/api/v1/namespaces/{namespace}"
    pods, secrets, events = f"{core}/pods", f"{core}/secrets", f"{core}/events"

    def ask(step: str, method: str, path: str, body: Json | None = None, *, by: Api = api) -> Json:
        status, answer = by.ask(method, path, body)
        answers.facts[step] = _facts(status, answer)
        answers.shapes[step] = dict(_shape("", answer))
        return answer

    ask("version", "GET", "/version")
    made = ask("create a Job", "POST", jobs, job("one"))
    ask("create it again", "POST", jobs, job("one"))
    ask("create a Job that restarts", "POST", jobs, job("bad", restartPolicy="Always"))
    ask("create a Job without containers", "POST", jobs, job("bad", containers=[]))
    ask("create a Job with a bad name", "POST", jobs, job("Bad_Name"))
    ask("create a Job with a bad quantity", "POST", jobs, job("bad", containers=[
        {"name": "flow", "image": IMAGE, "resources": {"limits": {"memory": "lots"}}}]))  # fmt: skip
    ask("create a Job of a wrong type", "POST", jobs, job("bad", containers="none"))
    ask("create it in no namespace", "POST", "/apis/batch/v1/namespaces/no-such/jobs", job("one"))
    ask("get a Job", "GET", f"{jobs}/one")
    ask("get no Job", "GET", f"{jobs}/none")
    ask("create a Secret", "POST", secrets, secret("one", made))
    ask("create it again too", "POST", secrets, secret("one", made))
    ask("list of no namespace", "GET", "/apis/batch/v1/namespaces/no-such/jobs")

    selector = quote("heliograph.io/agent=script")
    pod = api.until(f"{pods}?labelSelector={selector}", lambda found: (found.get("items") or [None])[0], "a pod")
    ask("list pods", "GET", f"{pods}?labelSelector={selector}&limit=500")
    ask("list pods of another", "GET", f"{pods}?labelSelector=heliograph.io%2Fagent%3Dother")
    ask("list with a bad selector", "GET", f"{pods}?labelSelector=%3D%3D")
    ask("get a pod", "GET", f"{pods}/{pod['metadata']['name']}")
    ask("the log of no pod", "GET", f"{pods}/none/log?container=flow&tailLines=5")
    ask("the log of no container", "GET", f"{pods}/{pod['metadata']['name']}/log?container=other")
    about = quote(f"involvedObject.uid={made['metadata']['uid']}")
    api.until(f"{events}?fieldSelector={about}", lambda found: found.get("items"), "an event of the Job")
    ask("list events of a Job", "GET", f"{events}?fieldSelector={about}")
    ask("list events of nothing", "GET", f"{events}?fieldSelector=involvedObject.uid%3Dnone")
    ask("list events by a bad field", "GET", f"{events}?fieldSelector=color%3Dred")

    ask("create another Job", "POST", jobs, job("two"))
    page = ask("list the first page", "GET", f"{jobs}?limit=1&labelSelector={selector}")
    following = page["metadata"]["continue"]
    ask("list the next page", "GET", f"{jobs}?limit=1&labelSelector={selector}&continue={quote(following)}")
    ask("list from a bad page", "GET", f"{jobs}?limit=1&continue=nonsense")

    version = ask("list Jobs", "GET", f"{jobs}?labelSelector={selector}")["metadata"]["resourceVersion"]
    wrong = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": "another"}}
    ask("delete a Job that is another", "DELETE", f"{jobs}/two", wrong)
    late = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
    ask("delete a Job", "DELETE", f"{jobs}/two", late)
    ask("delete it again", "DELETE", f"{jobs}/two", late)
    answers.facts["watch Jobs"] = _watched(api, f"{jobs}?labelSelector={selector}&resourceVersion={version}", "DELETED")
    forget()
    answers.facts["watch from a version of long ago"] = _first(api, f"{jobs}?resourceVersion=1")

    ask("delete a Job in the foreground", "DELETE", f"{jobs}/one", late | {"propagationPolicy": "Foreground"})
    api.until(f"{jobs}/one", lambda found: found.get("code") == 404, "the Job is gone")
    api.until(f"{pods}/{pod['metadata']['name']}", lambda found: found.get("code") == 404, "its pod is gone")
    api.until(f"{secrets}/one", lambda found: found.get("code") == 404, "its Secret is gone")
    ask("delete a Secret that is gone", "DELETE", f"{secrets}/one", late)

    ask("list as a stranger", "GET", jobs, by=stranger)
    ask("create as a stranger", "POST", jobs, job("three"), by=stranger)
    ask("list as nobody", "GET", jobs, by=nobody)
    ask("no such resource", "GET", f"/apis/batch/v1/namespaces/{namespace}/nothing")
    ask("no JSON", "POST", jobs)
    return answers


def compare(real: Answers, other: Answers) -> list[str]:
    """Returns what the other server answers otherwise, and the fields that it makes up or gives another type."""
    found = [
        f"{step}: {other.facts.get(step)}, really {fact}"
        for step, fact in real.facts.items()
        if other.facts.get(step) != fact
    ]
    for step, shape in other.shapes.items():
        known = real.shapes.get(step, {})
        found += [
            f"{step}: {place} is {kind}, really {known.get(place, 'not there')}"
            for place, kind in shape.items()
            if known.get(place) != kind
        ]
    return found


def _facts(status: int, answer: Json) -> dict[str, Any]:
    facts: dict[str, Any] = {"status": status, "kind": answer.get("kind", "")}
    if answer.get("kind") == "Status":
        facts |= {name: answer.get(name) for name in ("reason", "code")}
    if "items" in answer:
        facts["items"] = len(answer["items"])
    return facts


def _shape(place: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yields the types of all fields. What all items of a list have is one; keys that are data are not fields."""
    if isinstance(value, dict):
        for key, one in value.items():
            if place.endswith(("labels", "annotations", ".data", ".f:metadata")) or key == "managedFields":
                continue
            yield from _shape(f"{place}.{key}", one)
    elif isinstance(value, list):
        for one in value:
            yield from _shape(f"{place}[]", one)
    else:
        yield place, type(value).__name__


def _watched(api: Api, path: str, last: str) -> list[str]:
    """Returns the kinds of changes up to one kind."""
    kinds: list[str] = []
    for change in api.watch(f"{path}&allowWatchBookmarks=true", seconds=60):
        kind = str(change["type"])
        if kind not in (*kinds, "MODIFIED", "BOOKMARK"):  # how often a Job is written varies
            kinds.append(kind)
        if kind == last:
            break
    return kinds


def _first(api: Api, path: str) -> dict[str, Any]:
    """Returns what a watch begins with."""
    try:
        for change in api.watch(path, seconds=5):
            told = change["object"] if change["type"] == "ERROR" else {}
            return {"type": change["type"], "code": told.get("code"), "reason": told.get("reason")}
    except Refused as refused:
        return {"http": refused.status, "reason": refused.answer.get("reason")}
    return {}
