"""One setting, however it is said: W2SLLM and ChatW2S alike."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import yaml
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import ConfigurableField, ConfigurableFieldSingleOption

from tests.helpers.llms import BEAM, PROMPT, text
from tests.helpers.variants import ByLength
from w2s_chains import EmulatedFineTuning, Sampling, load
from w2s_chains.errors import ConfigError

SETTINGS: list[dict[str, Any]] = [
    {"strategy": {"type": "best_of_n", "n": 3}},
    {"strategy": {"type": "emulated_fine_tuning", "beta": 0.5}},
    {"temperature": 0.0},
    {"max_tokens": 5},
    {"top_p": 0.3, "top_k": 5},
    {"repetition_penalty": 0.1},
    {"seed": 3},
    {"stop": ["e", "a"]},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "-".join(s))
def test_config_call_and_yaml_mean_the_same(
    model: Any, settings: dict[str, Any], tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    fields = {name: ConfigurableField(id=name) for name in settings}
    configurable = model.configurable_fields(**fields)
    called = text(model.invoke(PROMPT, **settings))
    assert text(configurable.with_config(configurable=settings).invoke(PROMPT)) == called
    assert text(configurable.invoke(PROMPT, {"configurable": settings})) == called
    assert text(model.bind(**settings).invoke(PROMPT)) == called
    streamed = configurable.with_config(configurable=settings).stream(PROMPT)
    assert "".join(map(text, streamed)) == called
    assert (
        list(map(text, configurable.batch([PROMPT] * 2, {"configurable": settings})))
        == [called] * 2
    )
    # Controls: the setting changes the answer, and no model was loaded for it.
    assert called != text(model.invoke(PROMPT)) == text(configurable.invoke(PROMPT))
    prepared, _ = configurable._prepare({"configurable": settings})
    assert prepared.proposer is model.proposer
    # The same in a file.
    values: dict[str, Any] = {
        "type": model.config_type,
        "proposer": {"model": str(tiny_folders["proposer"])},
        "guide": {name: str(tiny_folders[name]) for name in ("tuned", "untuned")},
        "strategy": BEAM.model_dump(mode="json"),
        "generation": {"max_tokens": 12, "seed": 0},
    }
    plain = load(values)
    file = tmp_path / "w2s.yaml"
    generation = {name: value for name, value in settings.items() if name != "strategy"}
    values["generation"] |= generation
    file.write_text(yaml.safe_dump({**values, **({} if generation else settings)}))
    written = load(file)
    assert type(written) is type(plain) is type(model)
    assert text(written.invoke(PROMPT)) == text(plain.invoke(PROMPT, **settings))
    assert text(written.invoke(PROMPT)) != text(plain.invoke(PROMPT)), "control"


def test_a_scorer_is_configurable(model: Any) -> None:
    open_model = model.configurable_fields(scorer=ConfigurableField(id="scorer"))
    by_length = ByLength()
    other = open_model.with_config(configurable={"scorer": by_length}).invoke(PROMPT)
    assert text(other) == text(model.model_copy(update={"scorer": by_length}).invoke(PROMPT))
    assert text(other) != text(model.invoke(PROMPT)) == text(open_model.invoke(PROMPT))


OTHER = EmulatedFineTuning(beta=2.0)


def test_named_options_and_alternatives(model: Any) -> None:
    base = text(model.invoke(PROMPT))
    eft, plain = (text(model.invoke(PROMPT, strategy=s)) for s in (OTHER, Sampling()))
    assert len({base, eft, plain}) == 3
    options = model.configurable_fields(
        strategy=ConfigurableFieldSingleOption(
            id="how", options={"beam": BEAM, "eft": OTHER}, default="beam"
        )
    )
    assert text(options.invoke(PROMPT)) == base
    assert text(options.invoke(PROMPT, {"configurable": {"how": "eft"}})) == eft
    alternatives = model.configurable_alternatives(
        ConfigurableField(id="search"),
        default_key="guided",
        eft=model.model_copy(update={"strategy": OTHER}),
        plain=model.bind(strategy=Sampling()),
        lazy=lambda: model.model_copy(update={"strategy": Sampling()}),
    )
    chain = alternatives | StrOutputParser()
    for name, answer in {"guided": base, "eft": eft, "plain": plain, "lazy": plain}.items():
        config: Any = {"configurable": {"search": name}}
        assert text(alternatives.invoke(PROMPT, config)) == answer
        assert "".join(map(text, alternatives.stream(PROMPT, config))) == answer
        assert chain.with_config(config).batch([PROMPT, PROMPT]) == [answer] * 2
        assert asyncio.run(chain.ainvoke(PROMPT, config)) == answer
    with pytest.raises(ValueError, match="Unknown alternative"):
        alternatives.invoke(PROMPT, {"configurable": {"search": "none"}})


def test_a_wrong_configurable_is_told(model: Any) -> None:
    open_model = model.configurable_fields(strategy=ConfigurableField(id="strategy"))
    wrong = open_model.with_config(configurable={"strategy": {"type": "chunk_bean"}})
    with pytest.raises(ConfigError, match="did you mean 'chunk_beam'"):
        wrong.invoke(PROMPT)
