"""`caa-bench analyze`: what the vectors look like inside the model, before or beside any measurement.

One folder a behavior: `vectors.csv`, `diagnostics.csv`, `layer_cosines`, `pca` and, with several behaviors or models,
`behavior_cosines`, `model_cosines` (each .csv, .svg, .png), `lens.csv`, `text.csv` and `text.html`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from caa_bench.errors import UserError
from caa_bench.interventions.caa import CAA
from caa_bench.interventions.vectors import SteeringVector, diagnosed, letter_sides

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from caa_bench.benchmark import Benchmark
    from caa_bench.storage.drawing import Drawing


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """What `analyze` found for one behavior.

    Args:
        folder: where it was written.
        layer: the layer that the text and the figures between behaviors are about.
        diagnostics: from `analysis.diagnostics.vector_diagnostics`, one line a layer.
        lens: from `lens.lens_table`.
    """

    folder: Path
    behavior: str
    layer: int
    diagnostics: pd.DataFrame
    lens: pd.DataFrame


def analyze(made: Sequence[Benchmark], folders: Sequence[Path], *, text: str = "", against: str = "") -> list[Geometry]:
    """Fit each benchmark's vectors, read its letter activations, and write every table and figure.

    Args:
        made: one a behavior, all on the same model.
        folders: where the results of each go.
        text: what to project on the vector; the first training question where not given.
        against: another model of the same width, whose vectors for the same pairs are compared with.

    Raises:
        UserError: no CAA vector in the recipe, or `against` is no model of the same shape.
    """
    for benchmark in made:
        _caa(benchmark)
        benchmark.fit()
    own = {benchmark.behavior.id: _array(_caa(benchmark)) for benchmark in made}
    found = []
    for benchmark, folder in zip(made, folders, strict=True):
        other = {Path(against).name: _other_model(benchmark, against)} if against else {}
        found.append(_one(benchmark, folder, own=own, other=other, text=text))
    return found


def _one(
    benchmark: Benchmark, folder: Path, *, own: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray], text: str
) -> Geometry:
    from caa_bench.geometry import lens, numbers
    from caa_bench.geometry.colored import colored_page
    from caa_bench.storage.drawing import save_drawings, to_csv

    caa, chat, behavior = _caa(benchmark), benchmark.chat, benchmark.behavior.id
    layer = chat.loaded_layers().default if caa.config.vector_layer is None else caa.config.vector_layer
    pairs = caa.own_pairs(benchmark.behavior.pairs())
    sides = letter_sides(chat.model, chat.tokenizer, pairs)  # [N, 2, L, D]
    components = numbers.component_table(
        sides.numpy(),
        pairs=[pair.id for pair in pairs],
        letters=[(pair.matching[1:-1], pair.other[1:-1]) for pair in pairs],
    )
    known = [one for one in benchmark.vectors if isinstance(one, SteeringVector)]
    # a map's directions, or a vector a position, have no cosine with one vector a layer
    vectors = {one.label: _array(one) for one in known if one.fitted().shape == caa.fitted().shape}
    asked = text or pairs[0].question
    along = lens.projection_table(chat.model, chat.tokenizer, caa.fitted(), text=asked, layer=layer)
    tables = {
        "vectors": numbers.vector_table(vectors, reference=caa.label),
        "diagnostics": diagnosed(sides, pairs),
        "lens": lens.lens_table(chat.model, chat.tokenizer, caa.fitted()),
        "text": along,
    }

    def drawn() -> Iterator[Drawing]:
        from caa_bench.geometry import figures

        yield figures.components_drawing(components)
        yield figures.layers_drawing(numbers.layer_table(own[behavior]))
        if len(own) > 1:
            yield figures.between_drawing(numbers.between_table(own, what="behavior"), what="behavior", layer=layer)
        if other:
            both = {Path(chat.name).name: own[behavior], **other}
            yield figures.between_drawing(numbers.between_table(both, what="model"), what="model", layer=layer)

    _write_files(folder, {f"{name}.csv": to_csv(table) for name, table in tables.items()})
    _write_files(folder, {"text.html": colored_page(along, title=f"{benchmark.behavior.title} on {chat.name}")})
    save_drawings(drawn, folder)
    return Geometry(
        folder=folder, behavior=behavior, layer=layer, diagnostics=tables["diagnostics"], lens=tables["lens"]
    )


def _caa(benchmark: Benchmark) -> CAA:
    found = next((one for one in benchmark.vectors if isinstance(one, CAA)), None)
    if found is None:
        raise UserError("vectors: holds no caa vector to analyze; add caa")
    return found


def _array(vector: SteeringVector) -> np.ndarray:
    """The fitted vector, in double precision. [L, D]"""
    return vector.fitted().double().numpy()


def _other_model(benchmark: Benchmark, name: str) -> np.ndarray:
    """The vector that another model gives for the same pairs; kept as an artifact like any fit."""
    from caa_bench.models.model import ChatModel

    chat, own = ChatModel.find(name), benchmark.chat.loaded_layers()
    mistakes = [f"--against: {line.removeprefix('model: ')}" for line in chat.check()]
    known = chat.layers
    if not mistakes and known is not None and (known.count, known.hidden) != (own.count, own.hidden):
        mistakes.append(
            f"--against: {name} has {known.count} layers of width {known.hidden}, {benchmark.chat.name} {own.count} of "
            f"width {own.hidden}; name a model of the same shape"
        )
    if mistakes:
        raise UserError(*mistakes)
    vector = CAA()
    pairs = _caa(benchmark).own_pairs(benchmark.behavior.pairs())
    benchmark.store.fitted(vector, pairs=pairs, model_key=chat.fingerprint(), loaded=lambda: chat)
    chat.free()
    return _array(vector)


def _write_files(folder: Path, files: Mapping[str, str]) -> None:
    from caa_bench.storage.atomic import unwritable
    from caa_bench.storage.files import write_atomic

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error
    for name, content in files.items():
        write_atomic(folder / name, content)
