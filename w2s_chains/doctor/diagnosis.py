"""``Diagnosis``: everything that was found out about a config, as values."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Level = Literal["note", "warning", "failure"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something to know.

    Attributes:
        level: "failure" for what an answer will fail at, "warning" for what is likely not meant.
        about: The part that it is about, such as "proposer".
        text: What it is, and the remedy.
    """

    level: Level
    about: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A stretch of a rendered prompt.

    Attributes:
        text: Its text; of a control token, the token's name.
        control: Whether it is a control token, rather than text that may look like one.
    """

    text: str
    control: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """How one model reads the sample prompt.

    Attributes:
        how: "chat template", "template", "plain text", or who renders it.
        pieces: What the model reads.
        tokens: Its number of tokens; None if only a server knows.
    """

    how: str
    pieces: tuple[Piece, ...]
    tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalFacts:
    """A model in this process; sizes are in bytes, None where unknown.

    Attributes:
        role: "proposer", "tuned guide", ...
        model: Its name.
        devices: Where its weights lie.
        dtype: Their dtype.
        parameters: Their number.
        weights: Their size.
        cache_per_token: Keys and values of one token.
        cache: The estimated peak of all that is kept for one prompt.
        context: The longest text, in tokens.
        vocabulary: Number of tokens.
        rendered: How it reads the sample prompt; None if it cannot.
        fetched: Whether the weights are on this machine.
        shares: The role of the model whose weights these are, if they are another's.
    """

    role: str
    model: str
    devices: tuple[str, ...]
    dtype: str
    parameters: int
    weights: int | None
    cache_per_token: int | None
    cache: int | None
    context: int | None
    vocabulary: int
    rendered: Rendered | None
    fetched: bool
    shares: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedFacts:
    """A model elsewhere.

    Attributes:
        role: "proposer", "tuned guide", ...
        model: Its name there.
        server: The server's URL, or the provider.
        key: The environment variable that holds its key, if it needs one.
        key_is_set: Whether there is a value in it, which is never told.
        can: What the server can do, by name; None if it was not asked or did not answer.
        rendered: How it is sent the sample prompt; None if that cannot be rendered.
    """

    role: str
    model: str
    server: str
    key: str | None = None
    key_is_set: bool = False
    can: dict[str, Any] | None = None
    rendered: Rendered | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFacts:
    """Memory of one kind of device, in bytes; None where unknown."""

    devices: tuple[str, ...]
    weights: int | None
    cache: int | None
    free: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """What a strategy costs, found out by a dry run whose answer has ``tokens`` tokens.

    Attributes:
        strategy: Its fields.
        branches: Partial answers that grow at once, for each of ``n`` answers.
        n: Answers per prompt.
        tokens: Tokens of the answer of the dry run.
        rounds: Requests to the proposer that wait for one another.
        rows_per_token: Rows that the proposer reads for a token of the answer.
        guided_per_token: Tokens that each guide reads for a token of the answer.
        first_text: Tokens after which the first text is final; equal to ``tokens`` if no text is
            before the end.
        lag: The most tokens by which final text falls behind.
        rough: Whether chunks may end early in a real run, which changes these numbers.
        kept: The most tokens in kept and growing branches at once, the prompt left out.
        rows: The most rows of a batch.
    """

    strategy: dict[str, Any]
    branches: int
    n: int
    tokens: int
    rounds: int
    rows_per_token: float
    guided_per_token: float
    first_text: int
    lag: int
    rough: bool
    kept: int
    rows: int


@dataclass(slots=True, kw_only=True)
class Diagnosis:
    """All that was found out.

    Attributes:
        config: The file.
        type: "llm" or "chat"; None if the config is wrong.
        prompt: The sample prompt.
        max_tokens: The most tokens of an answer.
        local: Models in this process.
        served: Models elsewhere.
        vocabulary: Whether guides and proposer share one, in words; "" without guides.
        memory: Memory needed and free, by devices.
        effort: What the strategy costs; None if it could not be tried.
        loaded: Seconds that loading took, with the check that search reads the models exactly;
            None if nothing was loaded.
        findings: What to know.
        wrong: Whether the config itself is wrong.
    """

    config: str
    type: str | None = None
    prompt: str = ""
    max_tokens: int | None = None
    local: list[LocalFacts] = field(default_factory=list[LocalFacts])
    served: list[ServedFacts] = field(default_factory=list[ServedFacts])
    vocabulary: str = ""
    memory: list[MemoryFacts] = field(default_factory=list[MemoryFacts])
    effort: Effort | None = None
    loaded: float | None = None
    findings: list[Finding] = field(default_factory=list[Finding])
    wrong: bool = False

    def tell(self, level: Level, about: str, text: object) -> None:
        """Add a finding, unless it was told already; of all models, unless of one of them."""
        found = Finding(level=level, about=about, text=str(text))
        known = [one for one in self.findings if about in (one.about, "models")]
        if (level, found.text) not in [(one.level, one.text) for one in known]:
            self.findings.append(found)

    @property
    def failures(self) -> list[Finding]:
        return [one for one in self.findings if one.level == "failure"]

    @property
    def exit_code(self) -> int:
        """0 if all is fine, 1 if something will fail, 2 if the config is wrong."""
        return 2 if self.wrong else 1 if self.failures else 0

    def to_json(self) -> dict[str, Any]:
        """Return all as plain values."""
        verdict = {0: "fine", 1: "fails", 2: "wrong config"}[self.exit_code]
        return {"verdict": verdict, "exit_code": self.exit_code, **asdict(self)}


def size(count: int | None) -> str:
    """Return a number of bytes for people, with decimal units as for disks."""
    if count is None:
        return "unknown"
    value = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{value:,.0f} {unit}" if unit == "bytes" or value >= 100 else f"{value:,.1f} {unit}"
