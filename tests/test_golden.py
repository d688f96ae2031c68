"""Two stored runs of the embedded model: the same rows still give the same tables, the same recipe the same rows.

The runs were made before the code was moved into folders. No point and no verdict has changed since; ends, p-values and
detectable effects were renewed with the rules that make them hold at the rate they state (docs/numbers.md, 6 and 7):
seeds of a finetune that are no resamples of the pairs, what item and fit have together counted once, levels with a
share's interval, one skewness from which few items count as skewed. `manifest.json` names no place of the machine they
were made on; timings and page are not kept.
"""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from caa_bench.benchmark import Benchmark
from caa_bench.recipe import load_recipe
from caa_bench.report import make_report, tables, to_csv
from caa_bench.runs.folder import RowStore, read_manifest

GOLDEN = Path(__file__).parent / "golden"
CONDITION = ["evaluator", "base", "base_dose", "vector", "layer", "multiplier", "fit", "item", "order"]


@pytest.fixture(params=["refusal", "two_fits"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of the stored run as a run folder."""
    source, folder = GOLDEN / request.param, tmp_path / request.param
    folder.mkdir()
    shutil.copy(source / "manifest.json", folder)
    (folder / "rows.jsonl").write_bytes(gzip.decompress((source / "rows.jsonl.gz").read_bytes()))
    return folder


@pytest.mark.parametrize("name", ["cells", "stacking"])
def test_the_same_rows_give_the_same_tables(kept: Path, name: str) -> None:
    text = to_csv(tables(make_report(kept))[name])
    made, golden = (pd.read_csv(source, keep_default_na=False) for source in (_file(text, kept), _golden(kept, name)))
    missing = set(golden.columns) - set(made.columns)
    assert not missing, f"{name}.csv lost {missing}"
    assert len(made) == len(golden)
    for column in golden:
        before, after = (pd.to_numeric(table[column], errors="coerce") for table in (golden, made))
        assert (made[column][before.isna()] == golden[column][before.isna()]).all(), column
        np.testing.assert_allclose(after, before, rtol=1e-6, atol=1e-9, err_msg=column)


def test_the_same_recipe_gives_the_same_rows(tmp_path: Path) -> None:
    """The bases without a trained adapter, in full; the last bits of another processor are let pass."""
    manifest = read_manifest(GOLDEN / "refusal")
    overrides = [
        "behavior=refusal", "limit=24", "bases=[none,system_prompt_positive,system_prompt_negative]",
        "vectors=[caa]", "report_to=[]", f"output_dir={tmp_path}",
    ]  # fmt: skip
    run = Benchmark.from_recipe(load_recipe(None, overrides)).compare()
    made = _rows(RowStore(run.folder / "rows.jsonl").rows(), read_manifest(run.folder)["facts"]["cells"])
    golden = _rows(
        map(json.loads, filter(_is_row, gzip.decompress(_golden_rows().read_bytes()).splitlines())),
        manifest["facts"]["cells"],
    )
    assert len(made) > 1000
    for key, logits in made.items():
        np.testing.assert_allclose(logits, golden[key], atol=2e-4, err_msg=str(key))


def _file(text: str, folder: Path) -> Path:
    (folder / "made.csv").write_text(text)
    return folder / "made.csv"


def _golden(kept: Path, name: str) -> Path:
    return GOLDEN / kept.name / f"{name}.csv"


def _golden_rows() -> Path:
    return GOLDEN / "refusal" / "rows.jsonl.gz"


def _is_row(line: bytes) -> bool:
    return not line.startswith(b'{"batch"')


def _rows(rows: object, cells: list[dict]) -> dict[tuple, list[float]]:
    """The letter logits by condition, item and order; keys of cells are not compared, as they may hold more."""
    by_key = {cell["key"]: cell for cell in cells}
    found = {}
    for row in rows:  # type: ignore[attr-defined]
        if "logits" in row:
            values = by_key[row["cell"]] | row
            found[tuple(values[name] for name in CONDITION)] = [*row["logits"], row["log_z"]]
    return found
