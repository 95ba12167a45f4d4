"""The section ``guide`` of a config."""

from __future__ import annotations

import os
from typing import Annotated

from pydantic import Discriminator, Tag

from w2s_chains.backend.loading import ModelName, ModelOptions, ModelSpec

ModelRef = Annotated[
    Annotated[ModelName, Tag("name")] | Annotated[ModelSpec, Tag("spec")],
    Discriminator(lambda value: "name" if isinstance(value, str | os.PathLike) else "spec"),
]
"""A model by name alone, or with options of its own."""

GuideSpec = ModelSpec
"""What one guide is built from."""


class GuideSection(ModelOptions):
    """The guide pair; options beside ``tuned`` and ``untuned`` hold for those given by name.

    Attributes:
        tuned: Model reference, or a mapping of ``ModelSpec``.
        untuned: Likewise.
    """

    tuned: ModelRef
    untuned: ModelRef

    def specs(self) -> tuple[ModelSpec, ModelSpec]:
        """What the tuned and the untuned guide are loaded from."""
        given = self.model_fields_set & set(ModelOptions.model_fields)
        shared = {name: getattr(self, name) for name in given}
        tuned, untuned = (
            ref if isinstance(ref, ModelSpec) else ModelSpec(model=ref, **shared)
            for ref in (self.tuned, self.untuned)
        )
        return tuned, untuned


AnyGuide = GuideSection
"""A config slot for a guide pair."""
