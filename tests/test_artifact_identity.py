"""Kept artifacts under each other's names: the fit that was asked for is never mistaken for another."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from small_behavior import write_behavior
from small_runs import Small

from caa_bench import CAA, Benchmark, BenchmarkArguments, LoraSFT
from caa_bench.__main__ import main
from caa_bench.errors import UserError
from caa_bench.interventions import Intervention
from caa_bench.runs.artifacts import ArtifactStore
from caa_bench.runs.identity import FITTED_FOR
from caa_bench.storage.artifact_folder import read_artifact, write_artifact


def fitted(small: Small, out: Path, intervention: Intervention, *, name: str = "", **args: object) -> Path:
    """Where the artifact of one fit is kept; fitted if it is not there."""
    settings = BenchmarkArguments(
        **{"bases": ("none",), "vectors": (intervention.label,), "output_dir": str(out), "report_to": (), **args}
    )
    benchmark = Benchmark(str(small.model), behavior=str(small.behavior), args=settings, interventions=[intervention])
    benchmark.fit()
    return benchmark.fits.artifacts[name or intervention.label].folder


def other_behavior(small: Small, root: Path) -> Small:
    shutil.copytree(small.behavior, root / "second")
    return replace(small, behavior=root / "second")


def other_data(small: Small, root: Path) -> Small:
    folder = shutil.copytree(small.behavior, root / small.behavior.name)
    text = (folder / "train.json").read_text()
    (folder / "train.json").write_text(text.replace("Please paint", "Kindly paint"))
    return replace(small, behavior=folder)


def fewer_pairs(small: Small, root: Path) -> Small:
    return replace(small, behavior=write_behavior(root / small.behavior.name, train=10, test=24, selection=4))


def other_weights(small: Small, root: Path) -> Small:
    folder = shutil.copytree(small.model, root / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"][0, 0] += 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return replace(small, model=folder)


def other_template(small: Small, root: Path) -> Small:
    folder = shutil.copytree(small.model, root / "model")
    (path,) = (path for path in folder.iterdir() if "<|im_start|>" in _text(path) and "for" in _text(path))
    path.write_text(_text(path).replace("<|im_end|>\\n", "<|im_end|>", 1) + ("" if path.suffix == ".json" else " "))
    return replace(small, model=folder)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except UnicodeDecodeError:
        return ""


def same(small: Small, root: Path) -> Small:
    return small


def caa() -> Intervention:
    return CAA()


def lora(**settings: object) -> Intervention:
    return LoraSFT(LoraSFT.Config(**{"rank": 2, "epochs": 1.0, **settings}), variant="positive")


def negative() -> Intervention:
    return LoraSFT(LoraSFT.Config(rank=2, epochs=1.0), variant="negative")


# what is swapped in: of which folders, which intervention is asked for, which one lies there, what the line names
SWAPS: dict[str, tuple[Callable[[Small, Path], Small], Callable[[], Intervention], Callable[[], Intervention], str]] = {
    "another behavior": (other_behavior, caa, caa, "another behavior ('second' there and 'small' here)"),
    "another wording of a pair": (other_data, caa, caa, "other training data (small is "),
    "fewer pairs": (fewer_pairs, caa, caa, "other training data (small is "),
    "another model": (other_weights, caa, caa, "another model ("),
    "another chat template": (other_template, caa, caa, "another model ("),
    "an adapter of another behavior": (other_behavior, lora, lora, "another behavior ('second' there and "),
    "an adapter of another model": (other_weights, lora, lora, "another model ("),
    "an adapter of the other side": (
        same, lora, negative, "other settings (variant is 'negative' there and 'positive' here)",
    ),
    "an adapter of another rate": (
        same, lora, lambda: lora(learning_rate=0.01), "other settings (learning_rate is 0.01 there and ",
    ),
    "an adapter of another rank": (same, lora, lambda: lora(rank=4), "other settings (rank is 4 there and 2 here)"),
    "an adapter for a vector": (same, caa, lora, "another intervention ('LoraSFT' there and 'CAA' here)"),
    "a vector for an adapter": (same, lora, caa, "another intervention ('CAA' there and 'LoraSFT' here)"),
}  # fmt: skip


@pytest.mark.parametrize("name", SWAPS)
def test_an_artifact_under_another_s_name_is_refused(name: str, small: Small, tmp_path: Path) -> None:
    change, asked, there, says = SWAPS[name]
    (tmp_path / "other").mkdir()
    wanted = fitted(small, tmp_path / "out", asked())
    stranger = fitted(change(small, tmp_path / "other"), tmp_path / "out", there())
    assert wanted != stranger
    assert fitted(small, tmp_path / "out", asked()) == wanted, "its own is taken"
    shutil.rmtree(wanted)
    shutil.copytree(stranger, wanted)
    with pytest.raises(UserError) as error:
        fitted(small, tmp_path / "out", asked())
    (line,) = error.value.lines
    assert line.startswith(f"{wanted / 'artifact.json'}: was fitted for {says}")
    assert line.endswith(f"; delete the folder {wanted} and fit again")


def test_one_fit_is_not_taken_for_another_of_several(small: Small, tmp_path: Path) -> None:
    """Two resamples of the same pairs differ in nothing but their number."""
    first, second = (fitted(small, tmp_path, CAA(), name=name, fits=2) for name in ("caa", "caa@2"))
    shutil.rmtree(first)
    shutil.copytree(second, first)
    with pytest.raises(UserError, match=r"was fitted for other settings \(resample is 2 there and 1 here\)"):
        fitted(small, tmp_path, CAA(), name="caa", fits=2)


def test_an_artifact_that_does_not_say_what_it_is_of_is_refused(small: Small, tmp_path: Path) -> None:
    folder = fitted(small, tmp_path, CAA())
    artifact = read_artifact(folder, expect=None)
    meta = {key: value for key, value in artifact.meta.items() if key != FITTED_FOR}
    write_artifact(folder, tensors=artifact.tensors, meta=meta)
    with pytest.raises(UserError, match="does not say what it was fitted for; delete the folder"):
        fitted(small, tmp_path, CAA())


def test_what_it_is_of_is_inside_the_checksummed_part(small: Small, tmp_path: Path) -> None:
    folder = fitted(small, tmp_path, CAA())
    manifest = json.loads((folder / "artifact.json").read_text())
    assert manifest["meta"][FITTED_FOR].keys() == {"class", "settings", "behavior", "data", "model", "key"}
    manifest["meta"][FITTED_FOR]["behavior"] = "another"
    (folder / "artifact.json").write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    with pytest.raises(UserError, match="not what was saved"):
        fitted(small, tmp_path, CAA())
    assert ArtifactStore(tmp_path / "artifacts").folder == folder.parent


def test_a_report_right_after_an_early_kill_is_one_line(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed while it fits: the manifest has no cells yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Benchmark, "plan", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(small.compare("bases=[none]")) == 130
    assert "cells" not in json.loads(Path("run/manifest.json").read_text())["facts"]
    capsys.readouterr()
    for status, rest in (("cancelled", "run the same command again to go on"),
                         ("error", "the command said what failed; mend that first")):  # fmt: skip
        path = Path("run/manifest.json")
        path.write_text(json.dumps(json.loads(path.read_text()) | {"status": status}))
        for command in (["report", "run"], ["power", "run"], ["export", "run", "to"]):
            assert main(command) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert line == f"caa-bench: run: no batch is finished yet; {rest}"
