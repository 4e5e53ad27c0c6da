"""Truncated SVD of a weight into two thin factors (ELR-Diffusion, section 2.2.1), and the number of singular values to keep.

    W (out, in) ~ A (out, k) B (k, in)          a convolution's W is (out, in * kh * kw)

By Eckart and Young the first k singular values give the smallest Frobenius error of all rank-k products,
||W - A B||^2 = the sum of the squares of the others. Two factors are smaller than one weight below the *break-even* rank
out * in / (out + in).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..errors import InputError

SPLITS = ("paper", "symmetric")
MODES = ("param_ratio", "energy", "rank")


@dataclass(frozen=True)
class Spectrum:
    """The left singular vectors `u` (out, r) and singular values `s` (r,) of a weight `w` (out, in), r = min(out, in), in float64."""

    w: torch.Tensor
    u: torch.Tensor
    s: torch.Tensor

    @classmethod
    def of(cls, weight: torch.Tensor) -> Spectrum:
        """Return the spectrum of `weight` (out, ...), flattened to (out, in), from the eigenvectors of the smaller Gram matrix. For the
        long, thin weights of a U-Net this is tens of times faster than an SVD, and in float64 exact enough for float32 weights. Raises
        :class:`InputError` for values that are not finite."""
        w = weight.detach().to("cpu", torch.float64).flatten(1)
        if not bool(w.isfinite().all()):
            raise InputError("a weight holds values that are NaN or infinite; it cannot be factored")
        if w.shape[0] <= w.shape[1]:
            squares, u = torch.linalg.eigh(w @ w.T)
            return cls(w, u.flip(1), squares.flip(0).clamp(min=0).sqrt())
        squares, v = torch.linalg.eigh(w.T @ w)
        s = squares.flip(0).clamp(min=0).sqrt()
        # Columns of W V are u * s; where s vanishes, QR fills in directions that are orthogonal to the others.
        u, r = torch.linalg.qr(w @ v.flip(1))
        return cls(w, u * torch.where(r.diagonal() < 0, -1.0, 1.0), s)

    def factors(self, rank: int, split: str = "paper") -> tuple[torch.Tensor, torch.Tensor]:
        """Return (A (out, rank), B (rank, in)) in float64. `paper`: A = U S, B = V^T (section 2.2.1); `symmetric`: sqrt(S) in both, which
        trains better. Raises :class:`InputError` for an unknown split or a rank out of range."""
        check_split(split)
        if not 1 <= rank <= len(self.s):
            raise InputError(f"rank {rank}: a weight of shape {tuple(self.w.shape)} has ranks from 1 to {len(self.s)}")
        u, s = self.u[:, :rank], self.s[:rank]
        right = u.T @ self.w  # S V^T
        onto = s if split == "paper" else s.sqrt()
        safe = onto.clamp(min=max(float(s[0]), 1.0) * 1e-12)
        return u * onto, right / safe[:, None]

    def error(self, rank: int) -> float:
        """Return ||W - A B|| / ||W|| at `rank`, in [0, 1]."""
        whole = float(self.s.square().sum())
        return (float(self.s[rank:].square().sum()) / whole) ** 0.5 if whole else 0.0

    def rank_for_energy(self, energy: float) -> int:
        """Return the smallest rank that keeps the share `energy` in (0, 1] of ||W||^2."""
        squares = self.s.square()
        reached = squares.cumsum(0) >= energy * squares.sum() * (1 - 1e-12)
        return int(reached.double().argmax()) + 1


def break_even(out: int, inner: int) -> int:
    """Return the largest rank k with k * (out + inner) < out * inner; 0 where no factors are smaller than the dense weight."""
    return (out * inner - 1) // (out + inner)


def rank_for_ratio(ratio: float, out: int, inner: int) -> int:
    """Return the largest rank, at least 1, whose factors have at most `ratio` of the dense weight's parameters."""
    return max(1, int(ratio * out * inner / (out + inner)))


def check_split(split: str) -> None:
    """Raise :class:`InputError` for an unknown split."""
    if split not in SPLITS:
        raise InputError(f"split={split!r}: expected {' or '.join(SPLITS)}")
