"""Rows of the matrix for models made from a model: factored, distilled, and of few steps."""

from __future__ import annotations

import zlib
from typing import Any

from inside import FOLDER
from matrix import Case, Wrong, equal, finite, row


@row("FactorizeUNet")
def _(case: Case) -> None:
    small, *_ = case.node("FactorizeUNet", model=case.model, mode="energy", value=1.0, latent=case.latent, positive=case.positive)
    equal("the whole energy", case.sampled(case.guider(small)), case.stock, 5e-3)
    smaller, *_ = case.node("FactorizeUNet", model=case.model, mode="rank", value=4.0)
    finite("rank 4", case.sampled(case.guider(smaller)))


@row("SaveLowRankUNet")
def _(case: Case) -> None:
    small, *_ = case.node("FactorizeUNet", model=case.model, mode="rank", value=4.0)
    file = f"{zlib.crc32(case.name.encode())}-low"
    case.node("SaveLowRankUNet", model=small, filename=file)
    saved = next(FOLDER.rglob(f"{file}*.safetensors"))
    if case.name == "Anima":
        return  # families.py leaves its adapter for another text encoder away, which a file must have
    equal("saved and loaded", case.sampled(case.guider(case.host.model.load(saved))), case.sampled(case.guider(small)), 5e-2)


@row("DistillUNet")
def _(case: Case) -> None:
    size = 512 if case.name == "PixArt Sigma" else 128  # below, ComfyUI's own PixArt divides by zero
    student, *_ = case.node(
        "DistillUNet", model=case.model, clip=case.clip, vae=case.vae, folder="fruit", steps=2, batch_size=1, size=size, mode="rank",
        value=4.0,
        filename=f"{zlib.crc32(case.name.encode())}-student",
    )  # fmt: skip
    finite("the student", case.sampled(case.guider(student)))


def _few_steps(case: Case, name: str) -> tuple[Any, ...]:
    size = 512 if case.name == "PixArt Sigma" else 128
    return case.node(
        "DistillFewSteps", model=case.model, clip=case.clip, vae=case.vae, prompts="a red fruit\na tall one", steps=1, few_steps=1,
        teacher_steps=1, drawn=2, batch_size=1, size=size, rank=1, layers="attention", filename=f"{zlib.crc32(case.name.encode())}-{name}",
    )  # fmt: skip


@row("DistillFewSteps")
def _(case: Case) -> None:
    student, *_ = _few_steps(case, "few")
    finite("the student", case.sampled(case.guider(student)))


@row("LoadFewStepModel")
def _(case: Case) -> None:
    student, file, *_ = _few_steps(case, "loaded")
    model, sampler, sigmas, cfg = case.node("LoadFewStepModel", model=case.model, file=file)
    if len(sigmas) != 2 or cfg != 1.0:
        raise Wrong(f"{len(sigmas) - 1} steps at scale {cfg}")
    equal("the node's student", case.sampled(case.guider(model)), case.sampled(case.guider(student)))
