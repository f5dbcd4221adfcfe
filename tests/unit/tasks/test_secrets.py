"""Secret tasks: found at run time, never stored, scrubbed from text."""

import pytest

from heliograph import Flow, context
from heliograph.exceptions import SecretNotFoundError
from heliograph.logging import scrubber
from heliograph.tasks.secrets import EnvVarSecret, Secret


@pytest.fixture(autouse=True)
def _forget():
    yield
    scrubber.forget_all()


def test_an_environment_variable_is_read_at_run_time_and_scrubbed(monkeypatch):
    secret = EnvVarSecret("DATABASE_PASSWORD")
    assert secret.run() is None
    monkeypatch.setenv("DATABASE_PASSWORD", "correct-horse-7")
    assert secret.run() == "correct-horse-7"
    assert "correct-horse-7" not in scrubber.scrub("it is correct-horse-7.")


def test_cast_other_names_and_missing_ones(monkeypatch):
    monkeypatch.setenv("PORT_SECRET", "54321987")
    assert EnvVarSecret("OTHER", cast=int).run(name="PORT_SECRET") == 54321987
    with pytest.raises(SecretNotFoundError, match="NOT_THERE is not set"):
        EnvVarSecret("NOT_THERE", raise_if_missing=True).run()
    with pytest.raises(ValueError, match="needs a name"):
        EnvVarSecret().run()


def test_a_secret_from_the_context():
    with context(secrets={"token": "battery-staple-9"}):
        assert Secret("token").run() == "battery-staple-9"
    with pytest.raises(SecretNotFoundError):
        Secret("surely-not-there").run()


@pytest.mark.parametrize("options", [{"result": object()}, {"checkpoint": True}])
def test_it_is_never_stored(options):
    with pytest.raises(ValueError, match="never stored"):
        Secret("x", **options)


def test_in_a_flow(monkeypatch):
    monkeypatch.setenv("A_SECRET", "battery-staple-10")
    with Flow("f") as flow:
        found = EnvVarSecret("A_SECRET")()
    assert found.name == "A_SECRET"
    assert flow.run().result[found].result == "battery-staple-10"
