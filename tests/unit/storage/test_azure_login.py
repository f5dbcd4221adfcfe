"""Which login Azure storage sends where: nothing that somebody else wrote into a location gets one."""

from __future__ import annotations

import pytest

from heliograph.config import set_temporary_config
from heliograph.context import context
from heliograph.exceptions import ConfigurationError, InvalidArgumentError, StorageError
from heliograph.storage import Azure, from_reference
from heliograph.utilities.azure_blobs import Login, account_url_of, azure_login, split_account

KEY = "c2VjcmV0LWtleQ=="
STRING = f"DefaultEndpointsProtocol=https;AccountName=acme;AccountKey={KEY};EndpointSuffix=core.windows.net"
ACME = "https://acme.blob.core.windows.net"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING", raising=False)


@pytest.mark.parametrize(
    ("text", "account"),
    [
        (STRING, ACME),
        ("AccountName=acme;AccountKey=x", ACME),
        ("BlobEndpoint=https://Acme.blob.core.windows.net/;SharedAccessSignature=sv=1&sig=x", ACME),
        ("BlobEndpoint=http://127.0.0.1:10000/dev;AccountName=dev;AccountKey=x", "http://127.0.0.1:10000/dev"),
    ],
)
def test_a_connection_string_names_its_account(text: str, account: str) -> None:
    assert account_url_of(text) == account


def test_what_is_no_connection_string_is_not_repeated() -> None:
    with pytest.raises(StorageError) as caught:
        account_url_of("hunter2")
    assert "hunter2" not in f"{caught.value}{caught.value.hint}"


@pytest.mark.parametrize(
    "account",
    ["https://evil.example", "https://acme.blob.core.windows.net.evil.example", "https://evilblob.core.windows.net",
     "http://127.0.0.1:1/acme", "https://other.blob.core.windows.net"],
)  # fmt: skip
def test_a_key_goes_to_its_own_account_alone(account: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Login(STRING).credential_for(account)
    assert KEY not in f"{caught.value}{caught.value.hint}"
    assert Login(STRING).credential_for(ACME) == {"account_name": "acme", "account_key": KEY}


@pytest.mark.parametrize(
    ("account", "sent"),
    [
        (ACME, True),
        ("https://acme.blob.core.chinacloudapi.cn", True),
        ("https://evil.example", False),
        ("https://blob.core.windows.net.evil.example", False),
        ("https://evil.example/x.blob.core.windows.net", False),
        ("http://127.0.0.1:10000/acme", False),
    ],
)
def test_an_identitys_token_goes_to_azure_alone(account: str, sent: bool) -> None:
    if sent:
        assert type(Login().credential_for(account)).__name__ == "DefaultAzureCredential"
        return
    with pytest.raises(ConfigurationError, match="which is not Azure's"):
        Login().credential_for(account)


@pytest.mark.parametrize(
    "location",
    ["http://acme.blob.core.windows.net/c", "https://user:pw@acme.blob.core.windows.net/c", "ftp://x/c", "acme/c", "https:///c",
     "https://Acme.blob.core.windows.net/c", "https://acme.blob.core.windows.net/c?sig=hunter2", "http://127.0.0.1:1"],
)  # fmt: skip
def test_addresses_that_are_none(location: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        split_account(location)
    assert "hunter2" not in str(caught.value)
    with pytest.raises(StorageError):
        from_reference("azure", location)


def test_an_agents_owner_binds_a_login_to_an_account(monkeypatch: pytest.MonkeyPatch) -> None:
    other = STRING.replace("acme", "other")
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", other)
    assert azure_login(ACME).account_url == "", "the environment's is for another account"
    assert azure_login("https://other.blob.core.windows.net").account_url == "https://other.blob.core.windows.net"
    with (
        context(secrets={"ACME": STRING}),
        set_temporary_config({"storage.tokens": ["acme.blob.core.windows.net=ACME"]}),
    ):
        assert azure_login(ACME).account_url == ACME


def test_the_account_is_known_from_the_login_or_said() -> None:
    with context(secrets={"ACME": STRING}):
        storage = Azure("flows", connection_string_secret="ACME")
        assert storage.location == f"{ACME}/flows/heliograph"
        assert storage.ledger()["account_url"] == ACME
    assert KEY not in repr(storage)
    with pytest.raises(StorageError, match="does not know its account"):
        _ = Azure("flows").location
    assert from_reference("azure", f"{ACME}/flows/a/b").location == f"{ACME}/flows/a/b"
