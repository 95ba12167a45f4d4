"""What is sent to which server: keys and headers of the environment, and prompts."""

from __future__ import annotations

import logging
import traceback

import pytest

from tests.helpers.faulty import FaultyServer, serving
from tests.helpers.openai_proposer import ask
from w2s_chains import Hypothesis, RemoteGuide
from w2s_chains.backend.remote.credentials import Credentials, named_by_environment
from w2s_chains.errors import ConfigError, PromptError, ServerError
from w2s_chains.proposers import OpenAIConfig, OpenAIProposer

SECRETS = {
    "OPENAI_API_KEY": "sk-hush-1",
    "OPENAI_ORG_ID": "org-hush-2",
    "OPENAI_PROJECT_ID": "project-hush-3",
    "OPENAI_ADMIN_KEY": "admin-hush-4",
    "OPENAI_CUSTOM_HEADERS": "X-Gateway: gateway-hush-5\nauthorization: Bearer other-hush-6",
}
QUICK = {"max_retries": 0, "timeout": 5.0}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


def connect(server: FaultyServer, **options: object) -> OpenAIProposer:
    return OpenAIProposer("m", base_url=server.url, **{**QUICK, **options})


def sent(server: FaultyServer) -> str:
    assert server.headers
    return str(server.headers)


def test_a_server_that_a_config_names_gets_nothing_of_the_environment() -> None:
    with serving() as server:
        ask(connect(server), "x")
        RemoteGuide("m", base_url=server.url, **QUICK).loglikelihood(
            [Hypothesis.root("x").extend(" y", None)]
        )
        assert "hush" not in sent(server)
        assert {one["authorization"] for one in server.headers} == {"Bearer no-key"}


def test_the_server_that_the_environment_names_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control."""
    with serving() as server, serving() as other:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        ask(connect(server), "x")
        for secret in ("org-hush-2", "project-hush-3", "gateway-hush-5", "other-hush-6"):
            assert secret in sent(server)
        ask(connect(other), "x")  # another port is another server
        assert "hush" not in sent(other)
        monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "")
        server.headers.clear()
        ask(connect(server), "x")
        assert {one["authorization"] for one in server.headers} == {"Bearer sk-hush-1"}


@pytest.mark.parametrize(
    ("url", "set_to", "named"),
    [
        ("https://api.openai.com/v1", "", True),
        ("https://API.openai.com:443/v1", "", True),
        ("http://api.openai.com/v1", "", False),
        ("https://api.openai.com:8443/v1", "", False),
        ("https://api.openai.com.evil.org/v1", "", False),
        ("https://evil.org/api.openai.com", "", False),
        ("https://api.openai.com/v1", "https://proxy.here/v1", False),
        ("https://proxy.here/v2", "https://proxy.here/v1", True),
        ("http://proxy.here/v1", "https://proxy.here/v1", False),
        ("https://proxy.here/v1", "proxy.here/v1", False),
        ("https://proxy.here:99999999/v1", "https://proxy.here/v1", False),
    ],
)
def test_which_server_the_environment_names(
    url: str, set_to: str, named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", set_to)
    assert named_by_environment(url) == named
    assert OpenAIConfig(model="m", base_url=url).key_variable == (
        "OPENAI_API_KEY" if named else None
    )


@pytest.mark.parametrize("status_is", ["redirect", "circle"])
def test_prompts_stay_with_their_server(status_is: str) -> None:
    with serving(status_is) as server, serving() as other:
        server.other, server.on = other.url, True
        with pytest.raises(ServerError, match="redirects") as caught:
            ask(connect(server, max_retries=3), "x")
        assert other.requests == 0
        assert server.requests == {"redirect": 1, "circle": 4}[status_is]
        if status_is == "redirect":
            assert other.url.removesuffix("/v1") in str(caught.value)


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("sk-hush\n", "a line break"),
        (" sk-hush", "a space"),
        ("sk-\nhush", "printable ASCII"),
        ("sk-schlüssel-hush", "printable ASCII"),
    ],
)
def test_a_key_that_cannot_be_sent(key: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", key)
    for options in ({"api_key": key}, {"api_key_env": "MY_KEY"}):
        with pytest.raises(ConfigError, match=told) as caught:
            OpenAIProposer("m", base_url="http://127.0.0.1:9/v1", **options)
        assert "hush" not in "".join(traceback.format_exception(caught.value))
        assert ("MY_KEY" in str(caught.value)) == ("api_key_env" in options)


def test_broken_headers_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X hush: 1")
    with pytest.raises(ConfigError, match="'Name: value'"):
        OpenAIProposer("m")
    OpenAIProposer("m", base_url="http://127.0.0.1:9/v1")  # not for this one


@pytest.mark.parametrize("fault", ["key refused", "breaks", "busy for ever", "web page"])
def test_secrets_that_a_server_repeats(
    fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with serving(fault) as server:
        server.on = True
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        with pytest.raises(ServerError) as caught:
            ask(connect(server, max_retries=1), "x")
    told = "".join(traceback.format_exception(caught.value)) + caplog.text
    assert "hush" not in told
    if fault in ("key refused", "breaks"):
        assert "***" in told, "control: it did"


def test_hiding_secrets_leaves_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Version: 1\nX-Token: Token abc-def")
    hidden = Credentials("https://api.openai.com/v1", None, "OPENAI_API_KEY")
    assert hidden.redacted("HTTP 401: sk-hush-1, abc-def") == "HTTP 401: ***, ***"
    assert "hush" not in repr(hidden)


def test_a_prompt_that_is_no_text() -> None:
    with serving() as server:
        proposer = connect(server)
        with pytest.raises(PromptError, match="surrogate"):
            ask(proposer, "x\ud800")
        assert ask(proposer, "x")
