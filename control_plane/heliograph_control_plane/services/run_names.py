"""Two words for people, by which runs without a name are called."""

from __future__ import annotations

from hashlib import sha256

_FIRST = """
amber azure bold brave breezy bright brisk calm candid chalk clear clever cobalt copper coral crisp curious
daring deft eager early fair fleet fond frank fresh gentle gilded glad golden grand hardy hazel humble indigo
ivory jade jolly keen kind lively loyal lucid lunar mellow merry mild misty modest neat nimble noble opal
patient placid plain proud quick quiet rapid rosy ruby sage scarlet serene silver sleek smart solar solid
sonic stark steady still sunny swift tidy topaz trusty vivid warm wise witty young zesty
""".split()  # noqa: SIM905  # a list of a hundred literals is harder to read
_SECOND = """
acorn alder anchor arrow aspen badger banner basin beacon birch bison breeze bridge brook canyon cedar cliff
comet condor coral crane creek delta dune eagle ember falcon fern field finch fjord flame forest fox garden
glacier grove harbor hare hawk heron hill island jaguar juniper kestrel lagoon lantern lark laurel ledge
linden lynx maple marten meadow mesa mirror moon oak ocean orchid osprey otter owl palm pebble peak pine
plover pond prairie quartz rain raven reef ridge river robin sail seal shore sparrow spruce star stone stream
summit swan thistle tide valley violet walnut wave willow wind wren
""".split()  # noqa: SIM905  # a list of a hundred literals is harder to read


def two_words(run_id: str) -> str:
    """Returns a name such as `brisk-heron`, always the same for the same id."""
    digest = sha256(run_id.encode()).digest()
    first = int.from_bytes(digest[:4], "big") % len(_FIRST)
    second = int.from_bytes(digest[4:8], "big") % len(_SECOND)
    return f"{_FIRST[first]}-{_SECOND[second]}"
