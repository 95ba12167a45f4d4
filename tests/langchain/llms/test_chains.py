"""W2SLLM as part of chains, and what callbacks are told."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import PromptTemplate
from langchain_core.runnables import ConfigurableField, RunnableParallel

from tests.helpers.llms import PROMPT, PROMPTS, BadScorer, Recorder
from w2s_chains import W2SLLM, BestOfN, Hypothesis, Sampling
from w2s_chains.errors import ConfigError

# As part of chains.


def test_in_chains(llm: W2SLLM) -> None:
    prompt = PromptTemplate.from_template("The movie {what}")
    chain = prompt | llm | StrOutputParser()
    answer = llm.invoke("The movie was")
    assert chain.invoke({"what": "was"}) == answer
    assert "".join(chain.stream({"what": "was"})) == answer
    assert len(list(chain.stream({"what": "was"}, config={"tags": ["t"]}))) >= 1
    assert chain.batch([{"what": "was"}, {"what": "is"}])[0] == answer
    both = RunnableParallel(guided=llm, base=llm.bind(strategy=Sampling()))
    assert both.invoke(PROMPT) == {
        "guided": llm.invoke(PROMPT),
        "base": llm.invoke(PROMPT, strategy=Sampling()),
    }
    assert llm.with_config(tags=["x"], run_name="y").invoke("The movie was") == answer
    assert llm.with_fallbacks([llm]).invoke("The movie was") == answer


def test_configurable_fields_reload_nothing(llm: W2SLLM) -> None:
    open_llm = llm.configurable_fields(
        temperature=ConfigurableField(id="t"), strategy=ConfigurableField(id="s")
    )
    assert open_llm.invoke(PROMPT) == llm.invoke(PROMPT)
    cold = open_llm.with_config(configurable={"t": 0.0})
    assert cold.invoke(PROMPT) == llm.invoke(PROMPT, temperature=0) != llm.invoke(PROMPT)
    for strategy in (BestOfN(n=2), {"type": "best_of_n", "n": 2}):
        other = open_llm.with_config(configurable={"s": strategy})
        assert other.invoke(PROMPT) == llm.invoke(PROMPT, strategy=strategy)
    assert "".join(cold.stream(PROMPT)) == llm.invoke(PROMPT, temperature=0)
    with pytest.raises(ConfigError, match=r"temperature.*greater than or equal to 0.*-1"):
        open_llm.with_config(configurable={"t": -1}).invoke(PROMPT)


def test_with_retry_tries_again(llm: W2SLLM) -> None:
    tries: list[int] = []

    def fail_once(hypotheses: Sequence[Hypothesis]) -> list[float]:
        tries.append(1)
        if len(tries) == 1:
            raise RuntimeError("not now")
        return [0.0] * len(hypotheses)

    shaky = W2SLLM(proposer=llm.proposer, scorer=BadScorer(fail_once), max_tokens=8, seed=0)
    answer = shaky.with_retry(stop_after_attempt=2, wait_exponential_jitter=False).invoke("bad")
    assert isinstance(answer, str)
    assert len(tries) > 1


# Callbacks.


def test_new_tokens_are_told_while_streaming_only(llm: W2SLLM) -> None:
    recorder = Recorder()
    config: Any = {"callbacks": [recorder]}
    answer = llm.invoke(PROMPT, config)
    llm.batch([PROMPT, "x"], config)
    llm.batch([PROMPT, "x"], config, return_exceptions=True)
    assert recorder.tokens == []
    assert (recorder.starts, recorder.ends, recorder.errors) == (5, 5, 0)
    assert "".join(llm.stream(PROMPT, config)) == "".join(recorder.tokens) == answer
    assert recorder.ends == 6


def test_callbacks_may_be_an_empty_list(llm: W2SLLM) -> None:
    answer = llm.invoke(PROMPT)
    assert llm.invoke(PROMPT, {"callbacks": []}) == answer
    assert llm.batch([PROMPT], {"callbacks": []}) == [answer]
    assert "".join(llm.stream(PROMPT, {"callbacks": []})) == answer


def test_a_run_id_is_used_once_in_a_batch(llm: W2SLLM) -> None:
    import uuid

    seen: list[Any] = []

    class Ids(BaseCallbackHandler):
        def on_llm_start(self, *args: Any, run_id: Any, **kwargs: Any) -> None:
            seen.append(run_id)

    config: Any = {"callbacks": [Ids()], "run_id": uuid.uuid4()}
    with pytest.warns(RuntimeWarning, match="run_id"):
        llm.batch(["a", "b"], config, return_exceptions=True)
    assert len(set(seen)) == 2


def test_errors_reach_the_callbacks(llm: W2SLLM) -> None:
    bad = W2SLLM(proposer=llm.proposer, scorer=BadScorer(lambda _: [float("nan")]), max_tokens=8)
    recorder = Recorder()
    config: Any = {"callbacks": [recorder]}
    bad.batch(["good", "bad"], config, return_exceptions=True)
    assert (recorder.starts, recorder.ends, recorder.errors) == (2, 1, 1)


@pytest.mark.parametrize("options", [{}, {"return_exceptions": True}])
def test_a_progress_bar_on_request(
    llm: W2SLLM, options: Any, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    llm.batch(PROMPTS[:3], progress=True, **options)
    assert capfd.readouterr().err == ""  # which is no terminal
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    llm.batch(PROMPTS[:3], **options)
    assert capfd.readouterr().err == ""
    llm.batch(PROMPTS[:3], progress=True, **options)
    shown = capfd.readouterr().err
    one, three = llm.max_tokens, 3 * llm.max_tokens
    assert f" {three}/{three} " in shown
    assert "chunk_beam" in shown
    assert " tokens/s]" in shown
    assert f" {one}/{one} " not in shown
    llm.model_copy(update={"progress": True}).batch(PROMPTS[:2], **options)
    assert f" {2 * one}/{2 * one} " in capfd.readouterr().err
